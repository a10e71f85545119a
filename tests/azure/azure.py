#!/usr/bin/env python3
"""imagewell with its blobs in Azure's own emulator (Azurite): what goes in comes out, by the store's links too, and what is deleted is gone."""

import argparse
import base64
import datetime
import hashlib
import hmac
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

import requests

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../clients"))
sys.path.insert(0, os.path.join(HERE, "../cluster"))
from clients import MD5, Service, photograph  # noqa: E402
from callers import picture  # noqa: E402
from parts import free_port, listens, wait_until  # noqa: E402

# Every emulator's, as its documentation says.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
API_VERSION = "2021-08-06"
CONTAINER = "images"
TILL = ("till01", MD5)


class Emulator:
    """Azurite in a process of its own, with one container."""

    def __init__(self, folder):
        self.port = free_port()
        command = [os.path.join(HERE, "node_modules/.bin/azurite-blob"), "--blobPort", str(self.port), "--location", folder,
                   "--silent", "--disableTelemetry"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
        wait_until(lambda: listens(self.port), "starting Azurite")
        self.ask("PUT", "restype:container").raise_for_status()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def ask(self, method, *query):
        """A request for the container, signed with the account's key."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        text = "\n".join([method, *[""] * 11, f"x-ms-date:{now}", f"x-ms-version:{API_VERSION}", f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}", *query])
        signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
        headers = {"x-ms-date": now, "x-ms-version": API_VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
        return requests.request(method, f"{self.endpoint}/{CONTAINER}", params=dict(part.split(":") for part in query), headers=headers)

    def blobs(self):
        return set(re.findall("<Name>(.*?)</Name>", self.ask("GET", "comp:list", "restype:container").text))

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Azure(unittest.TestCase):
    def upload(self, name, content):
        answer = requests.post(service.file(name), data=content, auth=TILL)
        self.assertEqual(answer.status_code, 200, answer.text)
        return answer.json()

    def test_the_check_finds_no_fault(self):
        self.assertIn(f"az://{CONTAINER} takes, keeps and gives back bytes", service.run("check"))

    def test_small_and_large_ones_come_back_whole_by_the_stores_own_link(self):
        # The large one goes in parts.
        for name, content in (("small.jpg", photograph()), ("large.png", picture(14_000_000, 1))):
            link = self.upload(name, content)["secureFilePath"]
            self.assertTrue(link.startswith(emulator.endpoint), link)
            opened = requests.get(link)
            self.assertEqual((opened.status_code, hashlib.sha256(opened.content).digest()), (200, hashlib.sha256(content).digest()))
            self.assertRegex(opened.headers["Content-Type"], "image/(jpeg|png)")
            part = requests.get(link, headers={"Range": "bytes=100-199"})
            self.assertEqual((part.status_code, part.content), (206, content[100:200]))
            self.assertEqual(requests.get(re.sub("sig=[^&]*", "sig=forged", link)).status_code, 403)

    def test_renderings_are_made_from_it_and_kept_in_it(self):
        handle = self.upload("render.jpg", photograph())["file"]["file_handle"]
        before = emulator.blobs()
        for _ in range(2):
            made = requests.get(f"{service.url}/i/{handle}/w_64,f_png", auth=TILL)
            self.assertEqual((made.status_code, made.headers["Content-Type"]), (200, "image/png"), made.text)
        self.assertTrue(any(name.startswith("variants/") for name in emulator.blobs() - before))

    def test_what_is_deleted_is_gone_after_its_undo_window(self):
        before = emulator.blobs()
        link = self.upload("gone.png", picture(10_000, 2))["secureFilePath"]
        self.assertEqual(len(emulator.blobs() - before), 1)
        requests.delete(service.file("gone.png"), auth=TILL).raise_for_status()
        time.sleep(1.1)
        service.run("sweep")
        self.assertEqual(requests.get(link).status_code, 404)
        self.assertLessEqual(emulator.blobs(), before)

    def test_what_is_refused_leaves_nothing(self):
        before = emulator.blobs()
        truncated = requests.post(service.file("cut.jpg"), data=photograph()[:5000], auth=TILL)
        self.assertEqual(truncated.status_code, 400, truncated.text)
        self.assertEqual(emulator.blobs(), before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    program = parser.parse_args().program
    with tempfile.TemporaryDirectory(prefix="imagewell-azure-") as folder:
        emulator = Emulator(folder)
        try:
            service = Service(program, {
                "IMAGEWELL_DATABASE_ALLOW_NEW_FILE_WITH_BUCKET": "true",
                "IMAGEWELL_STORAGE_URL": f"az://{CONTAINER}", "IMAGEWELL_STORAGE_ENDPOINT": emulator.endpoint,
                "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY,
                "IMAGEWELL_STORAGE_PART_BYTES": "5242880", "IMAGEWELL_FILE_SERVICE_UPLOAD_BYTES_MAX": "20000000",
                "IMAGEWELL_SWEEP_UNDO_SECONDS": "1",
            })
            try:
                outcome = unittest.main(argv=[sys.argv[0]], verbosity=2, exit=False)
            finally:
                service.stop()
        finally:
            emulator.stop()
    sys.exit(not outcome.result.wasSuccessful() or outcome.result.testsRun == 0)
