#!/usr/bin/env python3
"""Real clients against a running imagewell: curl, requests, boto3, Authlib and Schemathesis. Needs what requirements.txt names."""

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.auth
import requests
from authlib.integrations.requests_client import OAuth2Session
from botocore.config import Config

HERE = os.path.dirname(os.path.abspath(__file__))
PHOTOGRAPH = os.path.join(HERE, "../../testdata/photos/astronaut-512.jpg")
FORMATS = os.path.join(HERE, "../../testdata/formats")
PASSWORD = "correct horse"
MD5 = hashlib.md5(PASSWORD.encode()).hexdigest()
PLAN = """
[[orgs]]
id = 100606
name = "acme"
[[users]]
org = "acme"
login = "ada"
password = "correct horse"
[[tills]]
org = "acme"
id = "till01"
password = "correct horse"
[[tills]]
org = "acme"
id = "till02"
password_md5 = "%s"
[[clients]]
org = "acme"
key = "backoffice"
secret = "open sesame"
token_ttl_seconds = 2
""" % MD5


class Service:
    """The program in a process of its own, on a temporary folder."""

    def __init__(self, program, settings=None):
        self.program = os.path.abspath(program)
        self.folder = tempfile.TemporaryDirectory(prefix="imagewell-clients-")
        self.environment = {
            "PATH": os.environ["PATH"], "IMAGEWELL_DATA_DIR": os.path.join(self.folder.name, "data"),
            "IMAGEWELL_LISTEN": "127.0.0.1:0", "IMAGEWELL_PASSWORDS_MEMORY_KIB": "8", "IMAGEWELL_PASSWORDS_PASSES": "1",
            "IMAGEWELL_LOG_FORMAT": "json", "IMAGEWELL_STORAGE_FREE_BYTES_MIN": "0", "IMAGEWELL_STORAGE_FREE_INODES_MIN": "0",
            **(settings or {}),
        }
        plan = os.path.join(self.folder.name, "plan.toml")
        with open(plan, "w") as file:
            file.write(PLAN)
        self.run("provision", plan)
        self.process = subprocess.Popen([self.program, "serve"], env=self.environment, stderr=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, text=True)
        self.url = next(match[1] for line in self.process.stderr if (match := re.search(r'"url":"(http://[^"]+)"', line)))
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def run(self, *arguments):
        return subprocess.run([self.program, *arguments], env=self.environment, check=True, capture_output=True, text=True).stdout

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def file(self, name, suffix=""):
        return f"{self.url}/api_gateway/file-service/rewards/{name}{suffix}"


def photograph():
    with open(PHOTOGRAPH, "rb") as file:
        return file.read()


def curl(*arguments):
    return subprocess.run(["curl", "-s", *arguments], check=True, capture_output=True).stdout


class Curl(unittest.TestCase):
    def test_data_binary_uploads_and_the_link_opens(self):
        answer = json.loads(curl("-u", f"till01:{MD5}", "--data-binary", f"@{PHOTOGRAPH}", service.file("curl.jpg")))
        self.assertEqual((answer["status"], answer["file"]["fileSize"]), ("true", str(len(photograph()))))
        self.assertEqual(curl(answer["secureFilePath"]), photograph())
        self.assertEqual(curl("-r", "100-199", answer["secureFilePath"]), photograph()[100:200])

    def test_a_form_and_an_upload_by_put_like_transfer(self):
        answer = json.loads(curl("-u", f"till02:{MD5}", "-F", f"file=@{PHOTOGRAPH}", service.file("form.jpg")))
        self.assertEqual(curl(answer["secureFilePath"]), photograph())
        answer = json.loads(curl("-u", f"till01:{MD5}", "-X", "POST", "-T", PHOTOGRAPH, service.file("streamed.jpg")))
        self.assertEqual(curl(answer["secureFilePath"]), photograph())

    def test_the_manuals_example_sent_literally_is_explained(self):
        literal = "@/Users/nikhil/Downloads/IMG_20220730_180352311.jpg"
        answer = json.loads(curl("-u", f"till01:{MD5}", "--data-raw", literal, service.file("literal.jpg")))
        self.assertEqual(answer["code"], 400)
        self.assertIn(f'--data-binary "{literal}"', answer["message"])
        answer = json.loads(curl("-u", f"till01:{MD5}", "-d", f"@{PHOTOGRAPH}", service.file("literal.jpg")))
        self.assertIn("--data-binary sends it as it is", answer["message"])
        self.assertEqual(requests.get(service.file("literal.jpg"), auth=("till01", MD5)).status_code, 404)

    def test_the_plain_password_is_refused(self):
        answer = json.loads(curl("-u", f"till01:{PASSWORD}", "--data-binary", f"@{PHOTOGRAPH}", service.file("plain.jpg")))
        self.assertEqual((answer["code"], answer["status"]), (401, "false"))
        self.assertIn("MD5", answer["message"])


class Shell(unittest.TestCase):
    def test_signatures_are_made_as_the_document_says(self):
        """The block of docs/transforms.md, with nothing but the answers kept."""
        with open(os.path.join(HERE, "../../docs/transforms.md")) as file:
            block = next(block for block in re.findall(r"```sh\n(.*?)```", file.read(), re.S) if "openssl" in block)
        self.assertEqual(block.count("curl "), 2)
        for number in (1, 2):
            block = block.replace("curl \"", f"curl -sS -o $folder/{number}.jpg -w '%{{http_code}} ' \"", 1)
        handle = requests.post(service.file("signed.jpg"), data=photograph(), auth=("till01", MD5)).json()["file"]["file_handle"]
        variables = {"url": service.url, "id": handle, "secret": service.run("keys", "transforms", "acme").strip(), "folder": service.folder.name}
        answer = lambda: subprocess.run(["bash", "-c", block], env=os.environ | variables, check=True, capture_output=True, text=True).stdout
        self.assertEqual(answer().split(), ["401", "200"], "private: only the signature with an end opens it")
        requests.put(service.file("signed.jpg") + "/acl", data="PUBLIC", auth=("till01", MD5)).raise_for_status()
        self.assertEqual(answer().split(), ["200", "200"])
        with open(os.path.join(service.folder.name, "1.jpg"), "rb") as one, open(os.path.join(service.folder.name, "2.jpg"), "rb") as two:
            self.assertEqual(one.read(), two.read())


class Requests(unittest.TestCase):
    auth = ("till01", MD5)

    def test_every_format_goes_in_and_comes_out(self):
        for name in sorted(os.listdir(FORMATS)):
            with open(os.path.join(FORMATS, name), "rb") as file:
                content = file.read()
            if name.endswith((".md", ".txt")):
                continue
            answer = requests.post(service.file(name), data=content, auth=self.auth)
            self.assertEqual(answer.status_code, 200, f"{name}: {answer.text}")
            opened = requests.get(answer.json()["secureFilePath"])
            self.assertEqual(opened.content, content, name)
            self.assertEqual(opened.headers["Content-Type"], answer.json()["file"]["content_type"], name)

    def test_files_streams_and_nothing(self):
        with open(PHOTOGRAPH, "rb") as file:
            self.assertEqual(requests.post(service.file("f.jpg"), data=file, auth=self.auth).json()["file"]["version"], 1)
        with open(PHOTOGRAPH, "rb") as file:
            answer = requests.post(service.file("f.jpg"), files={"anything": file}, auth=self.auth).json()
        self.assertEqual(answer["file"]["version"], 2)
        chunks = (photograph()[start:start + 1000] for start in range(0, len(photograph()), 1000))
        self.assertEqual(requests.post(service.file("f.jpg"), data=chunks, auth=self.auth).json()["file"]["version"], 3)
        self.assertEqual(requests.post(service.file("f.jpg"), auth=self.auth).json()["file"]["fileSize"], "0")

    def test_a_file_goes_through_its_whole_life(self):
        session = requests.Session()
        session.auth = self.auth
        for _ in range(3):
            session.post(service.file("life.jpg"), data=photograph()).raise_for_status()
        versions = session.get(service.file("life.jpg", "/versions")).json()["versions"]
        self.assertEqual([entry["file"]["version"] for entry in versions], [3, 2, 1])
        public = session.put(service.file("life.jpg", "/acl"), json={"acl": "PUBLIC"}).json()
        self.assertEqual(requests.get(public["publicFilePath"]).content, photograph())
        session.delete(service.file("life.jpg"), params={"version": 3}).raise_for_status()
        self.assertEqual(session.get(service.file("life.jpg")).json()["file"]["version"], 2)
        session.delete(service.file("life.jpg")).raise_for_status()
        self.assertEqual(session.get(service.file("life.jpg")).status_code, 404)
        self.assertEqual(requests.get(public["publicFilePath"]).status_code, 403)
        self.assertEqual(session.post(service.file("life.jpg", "/restore")).json()["file"]["version"], 2)
        handle = versions[0]["file"]["file_handle"]
        found = session.get(f"{service.url}/api_gateway/file-service/handles/{handle}").json()
        self.assertEqual(found["file"]["version"], 2)


class Postman(unittest.TestCase):
    """The Dropbox pictures API as Postman sends it: form-data with a file under the key Profile."""

    def test_a_picture_is_added_cropped_and_taken(self):
        session = requests.Session()
        login = session.post(f"{service.url}/api/login", json={"email": "ada", "password": PASSWORD}).json()
        org = login["fedmemberid"]
        headers = {f"X-Csrf-Token_{org}": session.cookies[f"Csrf-Token_{org}"], "Accept": "*/*", "Cache-Control": "no-cache"}
        pictures = f"{service.url}/api/dropbox/pictures"
        with open(PHOTOGRAPH, "rb") as file:
            added = session.post(pictures, files={"Profile": ("avatar.jpg", file, "image/jpeg")}, headers=headers)
        self.assertEqual((added.status_code, added.headers["Content-Type"]), (200, "text/plain; charset=utf-8"))
        self.assertRegex(added.text, r"^[0-9]+$")
        crop = session.put(f"{pictures}/{added.text}", data={"x": 170.5, "y": 10, "w": 180, "h": 180.25}, headers=headers)
        self.assertEqual(crop.json(), int(added.text))
        self.assertEqual(requests.get(f"{pictures}/{added.text}", params={"size": 64}).headers["Content-Type"], "image/jpeg")
        taken = session.put(f"{service.url}/api/users/ada/avatar", json={"PictureID": int(added.text)}, headers=headers)
        self.assertEqual(taken.json(), {"AvatarVersionID": "1"})
        self.assertEqual(requests.get(f"{pictures}/{added.text}").status_code, 404)
        self.assertEqual(session.get(f"{service.url}/api/users/ada/avatar").status_code, 200)


class Boto3(unittest.TestCase):
    """The standard S3 client, given the key that `imagewell keys show` prints."""

    def client(self):
        pairs = dict(line.split("=", 1) for line in service.run("keys", "show").splitlines())
        return boto3.client(
            "s3", endpoint_url=service.url, region_name=pairs["AWS_REGION"], aws_access_key_id=pairs["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=pairs["AWS_SECRET_ACCESS_KEY"],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))

    def upload(self, name):
        return requests.post(service.file(name), data=photograph(), auth=("till01", MD5)).json()

    def presign(self, answer, at=None, operation="get_object", **more):
        bucket, key = re.fullmatch(r"s3://([^/]+)/(.*)", answer["file"]["s3_url"]).groups()
        arguments = {"Params": {"Bucket": bucket, "Key": key, **more}, "ExpiresIn": 3600}
        if at is None:
            return self.client().generate_presigned_url(operation, **arguments)
        with mock.patch.object(botocore.auth, "get_current_datetime", lambda: at):
            return self.client().generate_presigned_url(operation, **arguments)

    def test_it_computes_the_same_link(self):
        answer = self.upload("boto.jpg")
        ours = urlsplit(answer["secureFilePath"])
        parameters = parse_qs(ours.query)
        at = datetime.datetime.strptime(parameters["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ")
        theirs = urlsplit(self.presign(answer, at))
        self.assertEqual((ours.scheme, ours.netloc, ours.path), (theirs.scheme, theirs.netloc, theirs.path))
        self.assertEqual(parameters, parse_qs(theirs.query))

    def test_the_link_that_it_computes_opens(self):
        answer = self.upload("boto.jpg")
        link = self.presign(answer)
        self.assertEqual(requests.get(link).content, photograph())
        self.assertEqual(requests.head(link).headers["Content-Length"], str(len(photograph())))
        self.assertEqual(requests.head(self.presign(answer, operation="head_object")).status_code, 200)
        self.assertEqual(requests.put(self.presign(answer, operation="put_object"), data=b"x").status_code, 403)
        self.assertEqual(requests.delete(self.presign(answer, operation="delete_object")).status_code, 403)
        self.assertEqual(requests.get(self.presign(answer, operation="head_object")).status_code, 403)
        # Further parameters are signed with it: the name is obeyed, the type stays what the bytes are.
        named = requests.get(self.presign(answer, ResponseContentDisposition='attachment; filename="b.jpg"'))
        self.assertEqual(named.headers["Content-Disposition"], 'attachment; filename="b.jpg"')
        typed = requests.get(self.presign(answer, ResponseContentType="text/html"))
        self.assertEqual((typed.status_code, typed.headers["Content-Type"]), (200, "image/jpeg"))
        self.assertEqual(requests.get(self.presign(answer) + "&response-content-type=text%2Fhtml").status_code, 403)

    def test_its_clock_may_not_be_off_by_much(self):
        answer = self.upload("boto.jpg")
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        for minutes, status in [(-70, 403), (-50, 200), (10, 200), (20, 403)]:
            link = self.presign(answer, now + datetime.timedelta(minutes=minutes))
            self.assertEqual(requests.get(link).status_code, status, f"{minutes} minutes")

    def test_a_key_that_was_replaced_is_honoured_until_it_is_revoked(self):
        answer = self.upload("boto.jpg")
        old = self.presign(answer)
        service.run("keys", "rotate", "links")
        self.assertEqual([requests.get(link).status_code for link in (old, self.presign(answer))], [200, 200])
        service.run("keys", "rotate", "links", "--revoke")
        time.sleep(1.5)
        self.assertEqual([requests.get(link).status_code for link in (old, self.presign(answer))], [403, 200])


class Authlib(unittest.TestCase):
    """An OAuth client library fetches tokens, taught this endpoint's JSON, and gets new ones as they expire."""

    def session(self):
        session = OAuth2Session("backoffice", "open sesame", token_endpoint=f"{service.url}/v3/oauth/token/generate",
                                grant_type="client_credentials", token_endpoint_auth_method="key_and_secret")

        def key_and_secret(client, method, uri, headers, body):
            headers["Content-Type"] = "application/json"
            return uri, headers, json.dumps({"key": client.client_id, "secret": client.client_secret})

        def standard_names(response):
            answer = response.json()
            if response.ok:
                token = {"access_token": answer["data"]["accessToken"], "expires_in": answer["data"]["ttlSeconds"],
                         "token_type": "Bearer"}
                response.json = lambda **_: token
            return response

        session.register_client_auth_method(("key_and_secret", key_and_secret))
        session.register_compliance_hook("access_token_response", standard_names)
        return session

    def test_tokens_are_fetched_used_and_renewed(self):
        with mock.patch.dict(os.environ, {"AUTHLIB_INSECURE_TRANSPORT": "1"}):
            session = self.session()
            session.fetch_token()
            first = session.token["access_token"]
            answer = session.post(service.file("oauth.jpg"), data=photograph())
            self.assertEqual(answer.status_code, 200, answer.text)
            time.sleep(2.1)
            self.assertEqual(requests.get(service.file("oauth.jpg"), headers={"X-CAP-API-OAUTH-TOKEN": first}).status_code, 401)
            renewed = self.session()
            renewed.fetch_token()
            self.assertNotEqual(renewed.token["access_token"], first)
            self.assertEqual(renewed.get(service.file("oauth.jpg")).json()["file"]["version"], 1)


class Schemathesis(unittest.TestCase):
    """Whatever the API reference allows, and much that it doesn't, gets an answer that is no fault of ours."""

    def run_on(self, paths, *arguments):
        program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
        outcome = subprocess.run(
            [program, "run", f"{service.url}/openapi.json", "--checks", "not_a_server_error", "--phases", "coverage,fuzzing",
             "--max-examples", "20", "--seed", "1", "--no-color", "--include-path-regex", paths, *arguments],
            cwd=service.folder.name, capture_output=True, text=True)
        self.assertEqual(outcome.returncode, 0, outcome.stdout[-4000:] + outcome.stderr[-2000:])

    def test_the_file_service_and_links(self):
        self.run_on("^/(api_gateway|imagewell|v3)/", "--auth", f"till01:{MD5}")

    def test_dropbox(self):
        session = requests.Session()
        org = session.post(f"{service.url}/api/login", json={"email": "ada", "password": PASSWORD}).json()["fedmemberid"]
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)
        token = session.cookies[f"Csrf-Token_{org}"]
        self.run_on("^/api/(dropbox|{service}|users)", "-H", f"Cookie: {cookies}", "-H", f"X-Csrf-Token_{org}: {token}")

    def test_everything_without_a_login(self):
        self.run_on("^/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    service = Service(parser.parse_args().program)
    try:
        outcome = unittest.main(argv=[sys.argv[0]], verbosity=2, exit=False)
    finally:
        service.stop()
    sys.exit(not outcome.result.wasSuccessful() or outcome.result.testsRun == 0)
