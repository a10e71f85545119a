"""One service while strangers and a hostile member do everything at once that would take it down: huge forms, texts before
the login, answers that nobody reads, silent connections, slow bodies, files that are slow to inspect or to render, wrong
logins. Meanwhile clients of another org work as always. Every answer of theirs must be right; their times and the server's
memory are printed, and held to limits where they are given."""

import argparse
import base64
import http.client
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
import uuid
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from kills import PASSWORD, PASSWORD_MD5, Service, picture

OPSPORTAL = "/opsportal/image/opstool"
PERMISSION = "opstool.AB_Crew.view"
FILES = "/api_gateway/file-service/rewards"
HOSTILE, HONEST = "alpha", "beta"

PLAN = "".join(
    f"""
[[orgs]]
id = {number}
name = "{org}"
[[roles]]
org = "{org}"
name = "crew"
actions = ["{PERMISSION}", "imagewell.upload"]
[[users]]
org = "{org}"
login = "{org}-user"
password = "{PASSWORD}"
roles = ["crew"]
[[tills]]
org = "{org}"
id = "{org}-till"
password = "{PASSWORD}"
"""
    for number, org in ((100, HOSTILE), (200, HONEST))
)


def png(width, height, salt):
    """Noise, so that it is slow to encode again."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    row = random.Random(salt).randbytes(width * 3)
    pixels = zlib.compress(b"".join(b"\0" + row[at % 97:] + row[:at % 97] for at in range(height)), 6)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def endless_avif():
    """100,000 items of 65,535 extents without bytes, in one megabyte."""
    box = lambda kind, data: struct.pack(">I", len(data) + 8) + kind + data
    items = struct.pack(">I", 99_960) + struct.pack(">IHHH", 1, 1, 0, 65_535) * 99_960
    properties = box(b"ipco", box(b"ispe", bytes(4) + struct.pack(">II", 16, 16)))
    properties += box(b"ipma", bytes(4) + struct.pack(">I", 1) + struct.pack(">HBB", 1, 1, 1))
    meta = bytes(4) + box(b"pitm", bytes(4) + struct.pack(">H", 1)) + box(b"iloc", b"\2\0\0\0\0\0" + items) + box(b"iprp", properties)
    return box(b"ftyp", b"avif" + bytes(4) + b"avifmif1") + box(b"meta", meta) + box(b"mdat", b"x")


class Caller:
    """A client at an address of its own."""

    def __init__(self, port, address):
        self.port, self.address, self.headers = port, address, {}

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120, source_address=(self.address, 0))
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def visit(self):
        _, body, headers = self.ask("GET", "/csrfToken")
        if "set-cookie" in headers:
            self.headers["cookie"] = headers["set-cookie"].split(";")[0]
        self.headers["x-csrf-token"] = json.loads(body)["_csrf"]

    def log_in(self, org):
        self.visit()
        login = json.dumps({"username": f"{org}-user", "password": PASSWORD})
        status, body, headers = self.ask("POST", "/site/login", login, {"content-type": "application/json"})
        if status == 200:
            self.headers["cookie"] = headers["set-cookie"].split(";")[0]
            self.visit()
        return status, body

    def upload(self, data, name="a.png"):
        body, content_type = form(data, name)
        return self.ask("POST", f"{OPSPORTAL}/{PERMISSION}/0", body, {"content-type": content_type})[:2]

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), 30, (self.address, 0))
        connection.settimeout(30)
        return connection


def form(data, name="a.png"):
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    return head + data + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def member(port, address):
    caller = Caller(port, address)
    status, body = caller.log_in(HOSTILE)
    assert status == 200, body
    return caller


# Each attack is one round; it is repeated until the end by as many threads as its number says.


def huge_forms(port, _context):
    caller = Caller(port, "127.1.0.1")
    caller.visit()
    del caller.headers["x-csrf-token"]
    caller.ask("POST", "/opsportal/imageBase64", b"=&" * 5_000_000, {"content-type": "application/x-www-form-urlencoded"})


def texts_before_the_login(port, _context):
    caller = Caller(port, "127.1.0.2")
    with caller.connect() as connection:
        connection.sendall(
            f"POST {OPSPORTAL}/{PERMISSION}/0 HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            "Content-Length: 9000000\r\n\r\n".encode()
        )
        part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 65_000 + b"\r\n"
        for _ in range(63):
            connection.sendall(part)
        time.sleep(20)


def answers_nobody_reads(port, context):
    """A hundred streams of HTTP/2 whose window is closed."""
    # A length in RFC 7541's form: what is over 127 goes into a second and third byte.
    length = lambda count: bytes([count]) if count < 127 else bytes([127, (count - 127) % 128 | 128, (count - 127) // 128])
    text = lambda data: length(len(data)) + data
    # RFC 7541: method, scheme, path and cookie, none of them indexed or compressed.
    head = b"\x82\x86\x04" + text(context["large"].encode()) + b"\x01" + text(f"127.0.0.1:{port}".encode())
    frame = lambda kind, flags, stream, data: struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + data
    with Caller(port, f"127.1.1.{random.randrange(1, 9)}").connect() as connection:
        settings = frame(4, 0, 0, struct.pack(">HI", 4, 0))
        streams = b"".join(frame(1, 5, 2 * stream + 1, head) for stream in range(100))
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame(4, 1, 0, b"") + streams)
        for _ in range(60):
            connection.sendall(frame(6, 0, 0, b"12345678"))
            time.sleep(1)


def answers_nobody_reads_either(port, context):
    """The same with HTTP/1 and a small receive buffer."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.bind(("127.1.2.1", 0))
        connection.connect(("127.0.0.1", port))
        connection.sendall(f"GET {context['large']} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        time.sleep(60)


def half_a_preface(port, _context):
    connections = [Caller(port, f"127.1.3.{index % 17 + 1}").connect() for index in range(100)]
    for connection in connections:
        connection.sendall(b"P")
    time.sleep(5)
    for connection in connections:
        connection.close()


def slow_to_inspect(port, context):
    context["member"].upload(context["avif"], "a.avif")


def long_texts_in_json(port, _context):
    caller = Caller(port, "127.1.4.1")
    caller.visit()
    caller.ask("POST", "/opsportal/imageBase64", json.dumps({"a": "a" * 70_000}), {"content-type": "application/json"})
    time.sleep(0.2)


def wrong_logins(port, _context):
    """From everywhere, and of the honest org's accounts too."""
    caller = Caller(port, f"127.2.{random.randrange(256)}.{random.randrange(1, 255)}")
    caller.visit()
    login = random.choice([f"{HONEST}-user", f"{HONEST}-till", f"{HOSTILE}-user", uuid.uuid4().hex])
    caller.ask("POST", "/site/login", json.dumps({"username": login, "password": "wrong"}), {"content-type": "application/json"})


def slow_uploads(port, context):
    """A file that drips."""
    body, content_type = form(b"\x89PNG\r\n\x1a\n" + bytes(9_000_000))
    caller = context["member"]
    with caller.connect() as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in caller.headers.items())
        connection.sendall(
            f"POST {OPSPORTAL}/{PERMISSION}/0 HTTP/1.1\r\nHost: x\r\n{head}Content-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        for at in range(0, 120_000, 1200):
            connection.sendall(body[at:at + 1200])
            time.sleep(1)


def expensive_renderings(port, context):
    asked = random.choice(["original,f_avif,q_{}", "original,f_webp,lossless,q_{}", "w_4096,h_4096,fit_cover,f_avif,q_{}"])
    context["member"].ask("GET", f"/i/{context['heavy']}/{asked.format(random.randrange(1, 100))}")


def renderings_of_those_who_leave(port, context):
    caller = context["member"]
    with caller.connect() as connection:
        cookie = caller.headers["cookie"]
        path = f"/i/{context['heavy']}/original,f_avif,q_{random.randrange(1, 100)}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n".encode())
        time.sleep(random.random())


ATTACKS = {
    huge_forms: 4,
    texts_before_the_login: 40,
    answers_nobody_reads: 4,
    answers_nobody_reads_either: 60,
    half_a_preface: 2,
    slow_to_inspect: 2,
    long_texts_in_json: 2,
    wrong_logins: 4,
    slow_uploads: 70,
    expensive_renderings: 6,
    renderings_of_those_who_leave: 3,
}


def attack(function, threads, port, context, until):
    """A process of one kind of attack. It leaves the processors to others: the load is what it makes the service do."""
    os.nice(10)
    rounds = [0]

    def repeat():
        while time.time() < until:
            try:
                function(port, context)
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                # Refused, cut off, or answered with an error: as it should be.
                time.sleep(0.1)
            rounds[0] += 1

    for _ in range(threads):
        threading.Thread(target=repeat, daemon=True).start()
    time.sleep(max(0, until - time.time()))
    print(f"  {function.__name__}: {threads} at a time, {rounds[0]} rounds ended", flush=True)


class Honest:
    """What clients of the other org do, with the time that each answer took."""

    def __init__(self, port):
        self.portal = Caller(port, "127.3.0.1")
        status, body = self.portal.log_in(HONEST)
        assert status == 200, body
        self.till = Caller(port, "127.3.0.2")
        credentials = base64.b64encode(f"{HONEST}-till:{PASSWORD_MD5}".encode()).decode()
        self.till.headers["authorization"] = f"Basic {credentials}"
        status, body = self.portal.upload(png(300, 200, "honest"))
        assert status == 200, body
        self.image = json.loads(body)["data"]["uuid"]
        self.times, self.faults, self.count = {}, [], 0

    def work(self, port):
        self.count += 1
        self.timed("read", lambda: self.portal.ask("GET", f"{OPSPORTAL}/{self.image}")[:2])
        self.timed("upload", lambda: self.portal.upload(picture(3000, self.count), "a.gif"))
        self.timed("till's upload", lambda: self.till.ask("POST", f"{FILES}/f{self.count % 20}.gif", picture(5000, self.count))[:2])
        self.timed("rendering", lambda: self.portal.ask("GET", f"/i/{self.image}/w_{self.count % 280 + 10},q_{self.count // 280 % 90 + 5}")[:2])
        self.timed("stranger", lambda: Caller(port, "127.3.0.3").ask("GET", "/healthz")[:2])
        if self.count % 10 == 0:
            self.timed("login", lambda: Caller(port, "127.3.0.1").log_in(HONEST))

    def timed(self, what, do):
        started = time.monotonic()
        try:
            status, body = do()
            if status != 200:
                self.faults.append(f"{what}: {status} {body[:200]}")
        except (OSError, http.client.HTTPException) as error:
            self.faults.append(f"{what}: {error!r}")
        self.times.setdefault(what, []).append(time.monotonic() - started)

    def report(self):
        """The 99th percentile over all answers."""
        everything = []
        for what, times in self.times.items():
            times.sort()
            everything += times
            at = lambda share: times[min(len(times) - 1, int(len(times) * share))] * 1000
            print(f"  {what}: {len(times)} answers, median {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms, longest {times[-1] * 1000:.0f} ms")
        everything.sort()
        return everything[int(len(everything) * 0.99)]


def peak_memory(pid):
    """In MiB, of the server without its workers."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--program", required=True)
    options.add_argument("--seconds", type=int, default=30)
    options.add_argument("--p99-seconds-max", type=float, help="of the honest clients' answers")
    options.add_argument("--memory-mib-max", type=float, help="of the server's process")
    options.add_argument("--only", help="one attack by its name")
    arguments = options.parse_args()
    attacks = {function: threads for function, threads in ATTACKS.items() if arguments.only in (None, function.__name__)}
    with tempfile.TemporaryDirectory(prefix="imagewell-soak-", ignore_cleanup_errors=True) as folder:
        plan = os.path.join(folder, "plan.toml")
        with open(plan, "w") as file:
            file.write(PLAN)
        service = Service(os.path.abspath(arguments.program), os.path.join(folder, "data"))
        service.run("provision", plan)
        service.start()
        try:
            hostile = member(service.port, "127.1.9.1")
            status, body = hostile.upload(png(6000, 4000, "heavy"))
            assert status == 200, body
            heavy = json.loads(body)["data"]["uuid"]
            till = Caller(service.port, "127.1.9.2")
            credentials = base64.b64encode(f"{HOSTILE}-till:{PASSWORD_MD5}".encode()).decode()
            till.headers["authorization"] = f"Basic {credentials}"
            status, body, _ = till.ask("POST", f"{FILES}/large.gif?permission=PUBLIC", picture(5_000_000, "large"))
            assert status == 200, body
            status, record, _ = till.ask("GET", f"{FILES}/large.gif")
            link = json.loads(record)["secureFilePath"]
            status, body, _ = Caller(service.port, "127.1.9.3").ask("GET", "/" + link.split("/", 3)[3])
            assert status == 200 and len(body) > 5_000_000, (status, body[:200])
            context = {"member": hostile, "heavy": heavy, "avif": endless_avif(), "large": "/" + link.split("/", 3)[3]}
            honest = Honest(service.port)
            until = time.time() + arguments.seconds
            processes = [
                multiprocessing.Process(target=attack, args=(function, threads, service.port, context, until))
                for function, threads in attacks.items()
            ]
            for process in processes:
                process.start()
            while time.time() < until:
                honest.work(service.port)
            for process in processes:
                process.join()
            p99, memory = honest.report(), peak_memory(service.child.pid)
            print(f"honest clients: p99 {p99 * 1000:.0f} ms, {len(honest.faults)} wrong answers; the server's peak: {memory:.0f} MiB")
            started = time.monotonic()
            service.stop()
            print(f"it stopped after {time.monotonic() - started:.1f} s")
        except BaseException:
            service.child.kill()
            with open(service.log.name, errors="replace") as log:
                print(log.read()[-3000:], file=sys.stderr)
            raise
    assert not honest.faults, honest.faults[:5]
    assert arguments.p99_seconds_max is None or p99 <= arguments.p99_seconds_max
    assert arguments.memory_mib_max is None or memory <= arguments.memory_mib_max


if __name__ == "__main__":
    main()
