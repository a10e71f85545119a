"""Three nodes behind nginx, on PostgreSQL and three Garage nodes, under a mixed load while nodes, database and store are killed and
restarted. Afterwards every acknowledged upload is accounted for by its digest, at every node."""

import argparse
import base64
import hashlib
import os
import random
import struct
import sys
import tempfile
import threading
import time
import zlib

import requests

from parts import BUCKET, Garage, Node, Postgres, end, free_port, nginx, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
PASSWORD = "correct horse"
PASSWORD_MD5 = "3cb4e732631f47e6eb961f34554b7cde"
PERMISSION = "opstool.AB_Crew.view"
# What a client may be told when something is away. Nobody knows the fate of a commit that broke off, hence 500.
CLEAN = {500, 502, 503, 504}


def picture(size, salt):
    """A PNG of about this many bytes that no other one is equal to."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    noise = random.Random(salt).randbytes(max(size - 200, 10))
    head, pixels = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0), zlib.compress((b"\0" + bytes(range(64))) * 64)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"prVt", noise) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Load:
    """Callers of all kinds. What is acknowledged is remembered by its digest."""

    def __init__(self, url):
        self.url, self.lock = url, threading.Lock()
        self.images, self.files, self.counts, self.faults = {}, {}, {}, []
        self.stop = threading.Event()

    def portal(self):
        session = requests.Session()
        token = lambda: session.get(f"{self.url}/csrfToken", timeout=60).json()["_csrf"]
        answer = session.post(f"{self.url}/site/login", json={"username": "ada", "password": PASSWORD}, headers={"X-CSRF-Token": token()}, timeout=60)
        assert answer.status_code == 200, answer.text
        session.headers["X-CSRF-Token"] = token()
        return session

    def note(self, what, answer):
        """Whether it was answered well."""
        with self.lock:
            key = (what, answer.status_code)
            self.counts[key] = self.counts.get(key, 0) + 1
        if answer.status_code == 200:
            return True
        if answer.status_code not in CLEAN:
            self.faults.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return False

    def lane(self, number):
        session, rng, count = self.portal(), random.Random(number), 0
        while not self.stop.is_set():
            count += 1
            kind = rng.choice(["upload", "upload", "read", "read", "rendering", "file"])
            try:
                getattr(self, kind)(session, rng, number * 1_000_000 + count)
            except requests.RequestException:
                # The balancer itself is never killed, but a node may die in the middle of an answer.
                with self.lock:
                    self.counts[(kind, "cut")] = self.counts.get((kind, "cut"), 0) + 1

    def upload(self, session, rng, salt):
        data = picture(rng.choice([3_000, 30_000, 300_000]) if rng.random() > 0.02 else 9_000_000, salt)
        files = {"image": ("a.png", data)}
        answer = session.post(f"{self.url}/opsportal/image/opstool/{PERMISSION}/0", files=files, timeout=60)
        if self.note("upload", answer):
            with self.lock:
                self.images[answer.json()["data"]["uuid"]] = hashlib.sha256(data).hexdigest()

    def known(self, rng):
        with self.lock:
            return rng.choice(list(self.images.items())) if self.images else None

    def read(self, session, rng, _salt):
        if known := self.known(rng):
            answer = session.get(f"{self.url}/opsportal/image/opstool/{known[0]}", timeout=60)
            if self.note("read", answer) and hashlib.sha256(answer.content).hexdigest() != known[1]:
                self.faults.append(f"{known[0]} is not what was acknowledged")

    def rendering(self, session, rng, _salt):
        if known := self.known(rng):
            self.note("rendering", session.get(f"{self.url}/i/{known[0]}/w_{rng.choice([16, 24, 32])}", timeout=60))

    def file(self, _session, rng, salt):
        name, data = f"f{rng.randrange(20)}.png", picture(5_000, salt)
        credentials = base64.b64encode(f"till01:{PASSWORD_MD5}".encode()).decode()
        headers = {"authorization": f"Basic {credentials}"}
        answer = requests.post(f"{self.url}/api_gateway/file-service/rewards/{name}", data=data, headers=headers, timeout=60)
        if self.note("file", answer):
            with self.lock:
                self.files[(name, answer.json()["file"]["version"])] = hashlib.sha256(data).hexdigest()

    def run(self, lanes):
        self.threads = [threading.Thread(target=self.lane, args=(number,)) for number in range(lanes)]
        for thread in self.threads:
            thread.start()

    def finish(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def put_placeholder_and_picture(node):
    """A file without bytes, and a picture whose ticket expires while everything else goes on."""
    credentials = base64.b64encode(f"till01:{PASSWORD_MD5}".encode()).decode()
    headers = {"authorization": f"Basic {credentials}"}
    answer = requests.post(f"{node.url}/api_gateway/file-service/rewards/empty.png", data=b"", headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    session = requests.Session()
    answer = session.post(f"{node.url}/api/login", json={"email": "ada", "password": PASSWORD}, timeout=60)
    assert answer.status_code == 200, answer.text
    token = next((f"X-{cookie.name}", cookie.value) for cookie in session.cookies if cookie.name.startswith("Csrf-Token_"))
    answer = session.post(f"{node.url}/api/dropbox/pictures", files={"Profile": ("a.png", picture(5_000, 1))}, headers=dict([token]), timeout=60)
    assert answer.status_code == 200, answer.text


class Backups:
    """One backup after the other. Those that come upon a database or a store that is away fail, and damage none before them."""

    def __init__(self, node, folder):
        self.node, self.folder, self.made, self.failed = node, os.path.join(folder, "backup"), 0, []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.loop)
        self.thread.start()

    def loop(self):
        while not self.stop.wait(2):
            try:
                self.make()
            except AssertionError as error:
                self.failed.append(str(error))

    def make(self):
        said = self.node.run("backup", self.folder, "--keep", "2")
        self.made += 1
        return said

    def finish(self):
        self.stop.set()
        self.thread.join()

    def restore(self, folder):
        """From the cluster to one process on SQLite and a folder."""
        theirs = ("IMAGEWELL_DATABASE_", "IMAGEWELL_STORAGE_")
        environment = {key: value for key, value in self.node.environment.items() if not key.startswith(theirs)}
        environment["IMAGEWELL_DATA_DIR"] = os.path.join(folder, "restored")
        self.node.run("restore", self.folder, environment=environment)
        return self.node.run("check", "--blobs", environment=environment).splitlines()[-1]


def kill_things(seconds, nodes, postgres, garage):
    """One after the other, each coming back while the next one is still whole."""
    rng, until, killed = random.Random(7), time.monotonic() + seconds, {}
    round_ = 0
    while time.monotonic() < until:
        victim = ["node", "database", "store", "node"][round_ % 4]
        round_ += 1
        killed[victim] = killed.get(victim, 0) + 1
        if victim == "database":
            postgres.kill()
            time.sleep(rng.uniform(0.2, 2))
            postgres.start()
        else:
            process = rng.choice(nodes if victim == "node" else garage.nodes)
            process.kill()
            time.sleep(rng.uniform(0.2, 2))
            process.start()
        time.sleep(rng.uniform(1, 3))
        print(f"  {victim} was killed and is back", flush=True)
    return killed


def account(load, nodes):
    """Every acknowledged byte, at every node."""
    for node in nodes:
        there = Load(node.url)
        session = there.portal()
        for uuid, digest in load.images.items():
            answer = session.get(f"{node.url}/opsportal/image/opstool/{uuid}", timeout=60)
            assert answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == digest, f"{uuid} at {node.name}: {answer.status_code}"
        credentials = base64.b64encode(f"till01:{PASSWORD_MD5}".encode()).decode()
        headers = {"authorization": f"Basic {credentials}"}
        for (name, version), digest in load.files.items():
            record = requests.get(f"{node.url}/api_gateway/file-service/rewards/{name}?version={version}", headers=headers, timeout=60)
            assert record.status_code == 200, f"{name} {version}: {record.text}"
            answer = requests.get(record.json()["secureFilePath"], timeout=60)
            assert hashlib.sha256(answer.content).hexdigest() == digest, f"{name} {version}"


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--program", required=True)
    options.add_argument("--seconds", type=int, default=60, help="of load while things are killed")
    options.add_argument("--lanes", type=int, default=6)
    arguments = options.parse_args()
    children = []
    with tempfile.TemporaryDirectory(prefix="imagewell-cluster-", ignore_cleanup_errors=True) as folder:
        try:
            postgres = Postgres(folder)
            children.append(postgres)
            garage = Garage(folder, 3)
            children.append(garage)
            store = free_port()
            children.append(nginx(folder, "store", garage.s3_ports, store, "proxy_next_upstream error timeout http_503 non_idempotent; proxy_request_buffering off;"))
            program = os.path.abspath(arguments.program)
            expires = {"IMAGEWELL_DROPBOX_TICKET_TTL_SECONDS": "5"}
            nodes = [Node(index, program, folder, postgres, f"http://127.0.0.1:{store}", expires) for index in range(3)]
            nodes[0].run("provision", os.path.join(HERE, "../../testdata/accounts.toml"))
            print(nodes[0].run("check"), end="")
            for node in nodes:
                node.start()
                children.append(node)
            for node in nodes:
                wait_until(node.is_ready, f"starting {node.name}")
            front = free_port()
            children.append(nginx(folder, "front", [node.port for node in nodes], front, "proxy_next_upstream error timeout; proxy_next_upstream_tries 3;"))
            load = Load(f"http://127.0.0.1:{front}")
            put_placeholder_and_picture(nodes[0])
            load.run(arguments.lanes)
            backups = Backups(nodes[1], folder)
            killed = kill_things(arguments.seconds, nodes, postgres, garage)
            load.finish()
            backups.finish()
            for node in nodes:
                wait_until(node.is_ready, f"{node.name} to be ready again")
            print("answers:", ", ".join(f"{what} {status} ×{count}" for (what, status), count in sorted(load.counts.items(), key=str)))
            print("killed and restarted:", killed)
            assert not load.faults, load.faults[:5]
            assert len(load.images) > 50 and len(load.files) > 10, (len(load.images), len(load.files))
            account(load, nodes)
            checked = nodes[0].run("check", "--blobs").splitlines()[-1]
            print(checked)
            print(f"{len(load.images)} images and {len(load.files)} files were acknowledged, and each is whole at each of three nodes.")
            print(backups.make().splitlines()[0])
            print(backups.node.run("restore", backups.folder, "--dry-run").splitlines()[-1])
            print("restored on SQLite and a folder:", backups.restore(folder))
            print(f"backups: {backups.made}, and {len(backups.failed)} that came upon something that was away")
            unfinished = [line for line in garage.say("bucket", "info", BUCKET).splitlines() if "nfinished" in line]
            print("left in the store of uploads in parts:", " ".join(unfinished) or "nothing")
        except BaseException:
            for name in sorted(os.listdir(folder)):
                if name.endswith(".log"):
                    with open(os.path.join(folder, name), errors="replace") as log:
                        print(f"== {name}\n{log.read()[-1500:]}", file=sys.stderr)
            raise
        finally:
            end(reversed(children))


if __name__ == "__main__":
    main()
