"""One service on SQLite and a folder, killed again and again at random moments while clients upload. Afterwards every
acknowledged upload is there with its digest, nothing is half there, and every start succeeded."""

import argparse
import base64
import hashlib
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cluster"))

from parts import free_port, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
PASSWORD = "correct horse"
PASSWORD_MD5 = "3cb4e732631f47e6eb961f34554b7cde"
OPSPORTAL = "/opsportal/image/opstool"
FILES = "/api_gateway/file-service/rewards"
LANES = 8
# Of all that was acknowledged, so many are read after each start. All of it is read at the end.
SAMPLE = 20


def picture(size, salt):
    """A GIF of one pixel with a comment of about this many bytes, equal to no other one."""
    noise = random.Random(salt).randbytes(size)
    blocks = b"".join(bytes([len(noise[at:at + 255])]) + noise[at:at + 255] for at in range(0, size, 255))
    comment = b"!\xfe" + blocks + b"\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff" + comment + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"


class Service:
    def __init__(self, program, data):
        self.program, self.data, self.port = program, data, free_port()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("IMAGEWELL_")}
        self.log = open(os.path.join(os.path.dirname(data), "service.log"), "ab")
        self.child = None

    def run(self, *arguments):
        command = [self.program, *arguments, "--data-dir", self.data]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self):
        command = [self.program, "serve", "--listen", f"127.0.0.1:{self.port}", "--data-dir", self.data]
        environment = {**self.environment, "IMAGEWELL_LOG": "warn"}
        self.child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(self.is_ready, "a start")

    def is_ready(self):
        assert self.child.poll() is None, f"the service ended with {self.child.returncode} at its start"
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            time.sleep(0.01)
            return False

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        self.child.terminate()
        assert self.child.wait(30) == 0

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        except http.client.HTTPException as error:
            # What a killed service leaves of an answer.
            raise OSError(str(error)) from error
        finally:
            connection.close()


class Portal:
    """ada's session, which outlives every kill."""

    def __init__(self, service):
        _, body, headers = service.ask("GET", "/csrfToken")
        cookie, token = headers["set-cookie"].split(";")[0], json.loads(body)["_csrf"]
        login = json.dumps({"username": "ada", "password": PASSWORD})
        headers = {"cookie": cookie, "x-csrf-token": token, "content-type": "application/json"}
        status, body, headers = service.ask("POST", "/site/login", login, headers)
        assert status == 200, body
        cookie = headers["set-cookie"].split(";")[0]
        _, body, _ = service.ask("GET", "/csrfToken", headers={"cookie": cookie})
        self.headers = {"cookie": cookie, "x-csrf-token": json.loads(body)["_csrf"]}


class Uploads:
    """What was acknowledged, by how to read it."""

    def __init__(self, service):
        self.service, self.portal, self.lock = service, Portal(service), threading.Lock()
        credentials = base64.b64encode(f"till01:{PASSWORD_MD5}".encode()).decode()
        self.till = {"authorization": f"Basic {credentials}"}
        self.digests, self.refused = {}, []

    def form(self, data):
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.gif"\r\n\r\n'.encode()
        headers = {**self.portal.headers, "content-type": f"multipart/form-data; boundary={boundary}"}
        body = head + data + f"\r\n--{boundary}--\r\n".encode()
        status, body, _ = self.service.ask("POST", f"{OPSPORTAL}/opstool.AB_Crew.view/0", body, headers)
        return status, body, status == 200 and ("image", json.loads(body)["data"]["uuid"])

    def base64(self, data):
        fields = {"appKey": "opstool", "permission": "opstool.AB_Crew.view"}
        body = json.dumps({**fields, "image": base64.b64encode(data).decode()})
        headers = {**self.portal.headers, "content-type": "application/json"}
        status, body, _ = self.service.ask("POST", "/opsportal/imageBase64", body, headers)
        return status, body, status == 200 and ("image", json.loads(body)["data"]["uuid"])

    def file(self, data):
        name = f"{uuid.uuid4().hex[:2]}.gif"
        status, body, _ = self.service.ask("POST", f"{FILES}/{name}", data, self.till)
        return status, body, status == 200 and ("file", name, json.loads(body)["file"]["version"])

    def lane(self, seed):
        """Uploads until the service is away."""
        rng = random.Random(seed)
        while True:
            data = picture(int(1_500_000 * rng.random() ** 6), rng.random())
            try:
                status, body, where = rng.choice([self.form, self.base64, self.file])(data)
            except OSError:
                return
            with self.lock:
                if where:
                    self.digests[where] = hashlib.sha256(data).hexdigest()
                else:
                    self.refused.append((status, body[:200]))

    def read(self, where):
        if where[0] == "image":
            return self.service.ask("GET", f"{OPSPORTAL}/{where[1]}", headers=self.portal.headers)[:2]
        status, body, _ = self.service.ask("GET", f"{FILES}/{where[1]}?version={where[2]}", headers=self.till)
        assert status == 200, f"{where}: {status} {body[:200]}"
        link = json.loads(body)["secureFilePath"]
        return self.service.ask("GET", "/" + link.split("/", 3)[3])[:2]

    def verify(self, places):
        for where in places:
            status, body = self.read(where)
            whole = status == 200 and hashlib.sha256(body).hexdigest() == self.digests[where]
            assert whole, f"{where} was acknowledged and is not whole: {status}, {len(body)} bytes"


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--program", required=True)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=1)
    arguments = options.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="imagewell-kills-", ignore_cleanup_errors=True) as folder:
        service = Service(os.path.abspath(arguments.program), os.path.join(folder, "data"))
        service.run("provision", os.path.join(HERE, "../../testdata/accounts.toml"))
        try:
            service.start()
            uploads = Uploads(service)
            for kill in range(arguments.kills):
                lanes = [threading.Thread(target=uploads.lane, args=(f"{arguments.seed} {kill} {lane}",)) for lane in range(LANES)]
                for lane in lanes:
                    lane.start()
                time.sleep(rng.uniform(0.05, 0.9))
                service.kill()
                for lane in lanes:
                    lane.join()
                service.start()
                known = list(uploads.digests)
                uploads.verify(rng.sample(known, min(SAMPLE, len(known))))
                if (kill + 1) % 100 == 0:
                    print(f"  {kill + 1} kills, {len(known)} acknowledged", flush=True)
            assert not uploads.refused, uploads.refused[:5]
            uploads.verify(uploads.digests)
            service.stop()
            checked = service.run("check", "--blobs")
            spooled = os.listdir(os.path.join(service.data, "spool"))
            assert not spooled, f"left in the spool: {spooled}"
        except BaseException:
            service.child.kill()
            with open(service.log.name, errors="replace") as log:
                print(log.read()[-3000:], file=sys.stderr)
            raise
    print(checked.splitlines()[-1])
    print(f"{arguments.kills} kills: {len(uploads.digests)} uploads were acknowledged, and each of them is whole.")


if __name__ == "__main__":
    main()
