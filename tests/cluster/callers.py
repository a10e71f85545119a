"""Who calls the cluster while it is in trouble: an honest org, an org that asks for too much, an
owner who changes who may see his files, and strangers who ask for what is not theirs."""

import base64
import hashlib
import json
import math
import multiprocessing
import random
import struct
import threading
import time
import zlib

import requests
from requests.adapters import HTTPAdapter

PASSWORD = "correct horse"
PASSWORD_MD5 = "3cb4e732631f47e6eb961f34554b7cde"
PERMISSION = "opstool.AB_Crew.view"
FILES = "/api_gateway/file-service/rewards"
TILL_PROOF = base64.b64encode(f"till01:{PASSWORD_MD5}".encode()).decode()
TILL = {"authorization": f"Basic {TILL_PROOF}"}
# What a client may be told when something is away. Nobody knows the fate of a commit that broke
# off, hence 500.
CLEAN = {500, 502, 503, 504}
# The seconds within which all nodes follow a change that one of them has acknowledged.
PROMISED_SECONDS = 5

GREEDY_PLAN = f"""
[[orgs]]
id = 200
name = "greedy"
[[roles]]
org = "greedy"
name = "crew"
actions = ["{PERMISSION}", "imagewell.upload"]
[[users]]
org = "greedy"
login = "gus"
password = "{PASSWORD}"
roles = ["crew"]
"""


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(size, salt):
    """A PNG of about this many bytes that no other one is equal to."""
    noise = random.Random(salt).randbytes(max(size - 200, 10))
    head, pixels = (
        struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0),
        zlib.compress((b"\0" + bytes(range(64))) * 64),
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"prVt", noise)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def large_picture(width, height):
    """A PNG that takes long to render."""
    row = random.Random(1).randbytes(width)
    pixels = zlib.compress(
        b"".join(b"\0" + row[at % 97 :] + row[: at % 97] for at in range(height)), 1
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


class FromAddress(HTTPAdapter):
    """Connections from a loopback address of the caller's own."""

    def __init__(self, address):
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments, **options):
        super().init_poolmanager(*arguments, source_address=(self.address, 0), **options)


def log_in(url, login, address="127.0.0.1"):
    session = requests.Session()
    session.mount("http://", FromAddress(address))

    def token():
        return session.get(f"{url}/csrfToken", timeout=60).json()["_csrf"]

    proof = {"username": login, "password": PASSWORD}
    answer = session.post(
        f"{url}/site/login", json=proof, headers={"X-CSRF-Token": token()}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    session.headers["X-CSRF-Token"] = token()
    return session


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, math.ceil(len(times) * share) - 1)]


class Load:
    """An honest org's callers of all kinds. What is acknowledged is remembered by its digest."""

    def __init__(self, url, outages):
        self.url, self.outages, self.lock = url, outages, threading.Lock()
        self.images, self.files, self.counts, self.faults = {}, {}, {}, []
        # Kind and seconds of each request; of those that something delayed which no balancer
        # hides; and failures without such a reason.
        self.times, self.delayed, self.unexplained = [], [], []
        self.ended = threading.Event()

    def ask(self, what, send):
        """The answer, if it is a good one."""
        begun = time.monotonic()
        try:
            answer, status, asked = send(), None, ""
            status, asked = answer.status_code, answer.headers.get("X-Asked", "")
        except requests.RequestException:
            # The balancer itself is never killed, but a node may die in the middle of an answer.
            answer, status, asked = None, "cut", None
        now = time.monotonic()
        excuses = self.outages.met(begun, now, asked)
        with self.lock:
            self.counts[(what, status)] = self.counts.get((what, status), 0) + 1
            (self.delayed if excuses else self.times).append((what, now - begun))
            if status != 200 and not excuses:
                self.unexplained.append(f"{what}: {status} after {now - begun:.1f} s from {asked}")
            if answer is not None and status != 200 and status not in CLEAN:
                self.faults.append(f"{what}: {status} {answer.text[:200]}")
        return answer if status == 200 else None

    def lane(self, number, session):
        rng, count = random.Random(number), 0
        while not self.ended.wait(0.1):
            count += 1
            kind = rng.choice(["upload", "upload", "read", "read", "rendering", "file"])
            getattr(self, kind)(session, rng, number * 1_000_000 + count)

    def upload(self, session, rng, salt):
        data = picture(
            rng.choice([3_000, 30_000, 300_000]) if rng.random() > 0.01 else 9_000_000, salt
        )
        files, url = (
            {"image": ("a.png", data)},
            f"{self.url}/opsportal/image/opstool/{PERMISSION}/0",
        )
        if answer := self.ask("upload", lambda: session.post(url, files=files, timeout=60)):
            with self.lock:
                self.images[answer.json()["data"]["uuid"]] = hashlib.sha256(data).hexdigest()

    def known(self, rng):
        with self.lock:
            return rng.choice(list(self.images.items())) if self.images else None

    def read(self, session, rng, _salt):
        if known := self.known(rng):
            answer = self.ask(
                "read",
                lambda: session.get(f"{self.url}/opsportal/image/opstool/{known[0]}", timeout=60),
            )
            if answer and hashlib.sha256(answer.content).hexdigest() != known[1]:
                self.faults.append(f"{known[0]} is not what was acknowledged")

    def rendering(self, session, rng, _salt):
        if known := self.known(rng):
            self.ask(
                "rendering",
                lambda: session.get(
                    f"{self.url}/i/{known[0]}/w_{rng.choice([16, 24, 32])}", timeout=60
                ),
            )

    def file(self, _session, rng, salt):
        name, data = f"f{rng.randrange(20)}.png", picture(5_000, salt)
        url = f"{self.url}{FILES}/{name}"
        if answer := self.ask(
            "file", lambda: requests.post(url, data=data, headers=TILL, timeout=60)
        ):
            with self.lock:
                self.files[(name, answer.json()["file"]["version"])] = hashlib.sha256(
                    data
                ).hexdigest()

    def run(self, lanes):
        sessions = [log_in(self.url, "ada") for _ in range(lanes)]
        self.threads = [
            threading.Thread(target=self.lane, args=each) for each in enumerate(sessions)
        ]
        for thread in self.threads:
            thread.start()

    def finish(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def p99(self):
        """Of all kinds, without what was delayed by something that no balancer hides."""
        return percentile([seconds for _, seconds in self.times], 0.99)

    def figures(self):
        """By kind, and of all of them."""
        lines = []
        for name, times in (
            ("", self.times),
            (", delayed by what no balancer hides", self.delayed),
        ):
            for kind in ("all", "read", "rendering", "upload", "file"):
                seconds = [each for what, each in times if kind in ("all", what)]
                if seconds:
                    p50, p99 = percentile(seconds, 0.5), percentile(seconds, 0.99)
                    longest = f"longest {max(seconds):.2f} s"
                    lines.append(
                        f"{kind}{name}: {len(seconds)}, p50 {p50:.3f} s, p99 {p99:.3f} s, {longest}"
                    )
        return "\n  ".join(lines)


class Greedy:
    """An org that asks for more than it may, from a process and an address of its own."""

    THREADS = 36

    def __init__(self, url):
        self.url, self.ended, self.counts = url, multiprocessing.Event(), multiprocessing.Queue()
        self.process = multiprocessing.Process(target=self.run, daemon=True)
        self.process.start()

    def run(self):
        session = log_in(self.url, "gus", "127.0.0.2")
        files = {"image": ("a.png", large_picture(600, 400))}
        answer = session.post(
            f"{self.url}/opsportal/image/opstool/{PERMISSION}/0", files=files, timeout=60
        )
        uuid, counts = answer.json()["data"]["uuid"], {}

        def ask(number):
            rng = random.Random(number)
            while not self.ended.is_set():
                path = f"/i/{uuid}/w_{rng.randrange(50, 500)},h_{rng.randrange(50, 300)},fit_cover"
                try:
                    status = session.get(f"{self.url}{path}", timeout=60).status_code
                except requests.RequestException:
                    status = "cut"
                counts[status] = counts.get(status, 0) + 1
                # All of them at once, whatever they were told.
                self.ended.wait(1 - time.monotonic() % 1)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(self.THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.counts.put(counts)

    def finish(self):
        self.ended.set()
        counts = self.counts.get(timeout=120)
        self.process.join()
        return counts


class Owned:
    """A file of an owner who shows it to everybody, hides it and deletes it."""

    def __init__(self, name, token):
        self.name, self.token, self.is_deleted = name, token, False
        # Since when nobody else may see it: when the last change was acknowledged. None while it
        # may be public.
        self.hidden_since = -math.inf


class Secrets:
    """An owner who publishes, hides and deletes files one after the other, and at each node and at
    the balancer a stranger who asks for them all the time. No stranger may get what was always
    private, nor what has been private or deleted for five seconds."""

    def __init__(self, front, nodes, load):
        self.front, self.load, self.files, self.faults = front, load, [], []
        self.asked, self.shown, self.changes = 0, 0, 0
        self.ended = threading.Event()
        urls = [front, *(node.url for node in nodes)]
        self.threads = [threading.Thread(target=self.own)]
        self.threads += [
            threading.Thread(target=self.ask_as_stranger, args=(number, url))
            for number, url in enumerate(urls)
        ]
        for thread in self.threads:
            thread.start()

    def own(self):
        rng, number = random.Random(1), 0
        while not self.ended.wait(0.2):
            number += 1
            name = f"s{number}.png"
            answer = self.until_acknowledged("POST", name, picture(5_000, 900_000_000 + number))
            file = Owned(name, answer.json()["file"]["s3_token"])
            self.files.append(file)
            for _ in range(rng.randrange(3)):
                file.hidden_since = None
                self.change(file, "PUBLIC")
                self.ended.wait(rng.uniform(0.1, 1))
                self.change(file, "PRIVATE")
                file.hidden_since = time.monotonic()
                self.ended.wait(rng.uniform(0, 1))
            if rng.random() < 0.5:
                # While it is public.
                file.hidden_since = None
                self.change(file, "PUBLIC")
                self.until_acknowledged("DELETE", name)
                file.hidden_since, file.is_deleted = time.monotonic(), True

    def change(self, file, acl):
        self.changes += 1
        self.until_acknowledged("PUT", f"{file.name}/acl", json.dumps({"acl": acl}))

    def until_acknowledged(self, method, path, body=None):
        """An owner who is not answered does it again. A deletion that is done is one, too."""
        headers = {**TILL, "content-type": "application/json"} if method == "PUT" else TILL
        for _ in range(100):
            try:
                answer = requests.request(
                    method, f"{self.front}{FILES}/{path}", data=body, headers=headers, timeout=60
                )
            except requests.RequestException:
                continue
            if answer.status_code == 200 or (method, answer.status_code) == ("DELETE", 404):
                return answer
            if answer.status_code not in CLEAN:
                break
            time.sleep(0.1)
        self.faults.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        self.ended.set()
        return answer

    def ask_as_stranger(self, number, url):
        rng, session = random.Random(number), requests.Session()
        while not self.ended.wait(0.1):
            try:
                if rng.random() < 0.3:
                    self.ask_for_image(session, url, rng)
                elif self.files:
                    self.ask_for_file(
                        session, url, rng.choice(self.files[-40:]), rng.random() < 0.2
                    )
            except requests.RequestException:
                continue

    def ask_for_file(self, session, url, file, as_owner):
        """The bytes, or as the owner the record, which only a deletion ends."""
        since, begun = file.hidden_since, time.monotonic()
        if as_owner:
            if not file.is_deleted:
                return
            answer = session.get(f"{url}{FILES}/{file.name}", headers=TILL, timeout=60)
        else:
            answer = session.get(f"{url}/imagewell/{file.token}", timeout=60)
        self.asked += 1
        if answer.status_code != 200:
            return
        self.shown += 1
        if since is not None and begun > since + PROMISED_SECONDS and file.hidden_since == since:
            what = "deleted" if file.is_deleted else "hidden"
            self.faults.append(
                f"{file.name} is shown at {url}, {begun - since:.1f} s after it was {what}"
            )

    def ask_for_image(self, session, url, rng):
        if known := self.load.known(rng):
            path = rng.choice(
                [
                    f"/opsportal/image/opstool/{known[0]}",
                    f"/i/{known[0]}/w_16",
                    f"/v1/images/{known[0]}",
                ]
            )
            answer = session.get(f"{url}{path}", timeout=60)
            self.asked += 1
            if answer.status_code == 200:
                self.faults.append(f"{path} is shown to a stranger at {url}")

    def finish(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def check_at_the_end(self, nodes):
        """Long after all of it, at each node."""
        for node in nodes:
            for file in self.files:
                if file.hidden_since is not None:
                    status = requests.get(
                        f"{node.url}/imagewell/{file.token}", timeout=60
                    ).status_code
                    assert status in (403, 404), f"{file.name} at {node.name}: {status}"
                if file.is_deleted:
                    status = requests.get(
                        f"{node.url}{FILES}/{file.name}", headers=TILL, timeout=60
                    ).status_code
                    assert status == 404, f"{file.name} is back at {node.name}: {status}"
