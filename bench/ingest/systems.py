"""What is compared. Each starts on a fresh folder, on loopback, as its users start it, and leaves nothing behind."""

import base64
import concurrent.futures
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from . import wrk
from .pictures import DIGITS_AT, ROOT

PROGRAM = os.environ.get("IMAGEWELL", f"{ROOT}/target/release/imagewell")
WORK = os.environ.get("TMPDIR", "/tmp")
PASSWORD = "correct horse"
BOUNDARY = "bench7MA4YWxkTrZu0gW"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pieces(list):
    """A body that is sent piece by piece, so that nobody has to hold it twice."""


def form_around(name):
    """What stands before and after the file in a multipart body of one file."""
    before = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return before.encode(), f"\r\n--{BOUNDARY}--\r\n".encode()


def form_upload(path, name, picture, headers=None, weight=1):
    before, after = form_around(name)
    body = before + picture + after
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": len(body)} | (headers or {})
    return wrk.Bodied(wrk.head("POST", path, headers), body, len(before) + DIGITS_AT, weight)


def distinct_head(picture, number):
    """Its first bytes, with these digits in it."""
    return picture[:DIGITS_AT] + f"{number:016d}".encode()


def at_once(work, count):
    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_parallel(work, count):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(work, range(count)))


class System:
    """A running one."""
    name, durable, environment = "", "", {}
    # A slow one needs longer for a number that means something.
    seconds_min = 0

    def __init__(self, settings=None):
        self.folder = tempfile.mkdtemp(prefix="imagewell-bench-", dir=WORK)
        self.address = f"127.0.0.1:{free_port()}"
        self.settings = settings or {}
        self.prepare()
        # What a service writes of itself goes where it would: into a file.
        self.log = open(f"{self.folder}/log", "w")
        self.start()
        self.sign_in()

    def start(self):
        started = time.perf_counter()
        self.process = subprocess.Popen(self.command(), env=os.environ | self.environment | self.settings, stdout=self.log, stderr=self.log)
        self.await_ready()
        self.started_after = time.perf_counter() - started
        self.memory_at_start = self.memory_mib()

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def prepare(self):
        """What stands in the folder before the start."""

    def sign_in(self):
        """What callers need before they can ask."""

    def await_ready(self):
        for _ in range(2000):
            try:
                with socket.create_connection(self.address.split(":"), timeout=5):
                    return
            except OSError:
                if self.process.poll() is not None:
                    with open(f"{self.folder}/log") as log:
                        raise SystemExit(f"{self.name} ended: {log.read()}") from None
                time.sleep(0.005)
        raise SystemExit(f"{self.name} does not answer")

    def ask(self, method, path, body=None, headers=None):
        """One request; its status, headers and body."""
        connection = http.client.HTTPConnection(self.address, timeout=120)
        headers = dict(headers or {})
        if isinstance(body, Pieces):
            headers["Content-Length"] = str(sum(map(len, body)))
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{self.name}: {method} {path}: {answer.status} {data[:300]}")
        return answer, data

    def send(self, path, picture, number, headers=None, method="POST"):
        """A raw body."""
        return self.ask(method, path, Pieces([distinct_head(picture, number), memoryview(picture)[DIGITS_AT + 16:]]), headers)[1]

    def send_form(self, path, name, picture, number, headers=None):
        """A multipart body."""
        before, after = form_around(name)
        pieces = Pieces([before, distinct_head(picture, number), memoryview(picture)[DIGITS_AT + 16:], after])
        return self.ask("POST", path, pieces, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} | (headers or {}))[1]

    def store(self, picture, count):
        """As many images, all different."""
        return in_parallel(lambda number: self.store_one(picture, number), count)

    def processes(self):
        """Its own and its children's."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as children:
                    queue += map(int, children.read().split())
            except OSError:
                pass
        return found

    def high_water_while(self, work):
        """The most that all its processes held together while `work` ran."""
        peak, done = [0.0], threading.Event()

        def watch():
            while not done.is_set():
                peak[0] = max(peak[0], self.memory_mib())
                time.sleep(0.005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            work()
        finally:
            done.set()
            watcher.join()
        return peak[0]

    def memory_mib(self):
        """Resident, of all its processes; shared pages are counted once."""
        total = 0
        for pid in self.processes():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            except (OSError, StopIteration):
                pass
        return total / 1024


class Imagewell(System):
    name, durable = "imagewell", "yes"
    orgs = 1

    def prepare(self):
        self.environment = {"IMAGEWELL_DATA_DIR": f"{self.folder}/data", "IMAGEWELL_LISTEN": self.address,
                            "IMAGEWELL_LOGIN_ATTEMPTS_PER_ADDRESS_MAX": "1000"}
        with open(f"{self.folder}/plan.toml", "w") as plan:
            for org in range(1, self.orgs + 1):
                plan.write(f'[[orgs]]\nid = {org}\nname = "org{org}"\n[[roles]]\norg = "org{org}"\nname = "crew"\n'
                           'actions = ["a.view", "imagewell.upload"]\n'
                           f'[[users]]\norg = "org{org}"\nlogin = "user{org}"\npassword = "{PASSWORD}"\nroles = ["crew"]\n'
                           f'[[tills]]\norg = "org{org}"\nid = "till{org}"\npassword = "{PASSWORD}"\n')
        subprocess.run([PROGRAM, "provision", f"{self.folder}/plan.toml"], env=os.environ | self.environment, check=True,
                       stdout=subprocess.DEVNULL)

    def command(self):
        return [PROGRAM, "serve"]

    def sign_in(self):
        self.members = [self.member(org) for org in range(1, self.orgs + 1)]
        secret = hashlib.md5(PASSWORD.encode()).hexdigest()
        self.till = {"Authorization": "Basic " + base64.b64encode(f"till1:{secret}".encode()).decode()}

    def member(self, org):
        """A user's session: what to send for reading, and for writing."""
        login = json.dumps({"username": f"user{org}", "password": PASSWORD})
        answer, _ = self.ask("POST", "/site/login", login, {"Content-Type": "application/json"} | self.visitor())
        cookie = {"Cookie": answer.getheader("Set-Cookie").split(";")[0]}
        return cookie, cookie | {"X-CSRF-Token": json.loads(self.ask("GET", "/csrfToken", headers=cookie)[1])["_csrf"]}

    def visitor(self):
        answer, data = self.ask("GET", "/csrfToken")
        return {"Cookie": answer.getheader("Set-Cookie").split(";")[0], "X-CSRF-Token": json.loads(data)["_csrf"]}

    def uploads(self, picture, weight=1):
        return [form_upload("/opsportal/image/a/a.view/0", "image", picture, write, weight) for _, write in self.members]

    def store_one(self, picture, number):
        """The id, and what reads it."""
        read, write = self.members[number % self.orgs]
        data = self.send_form("/opsportal/image/a/a.view/0", "image", picture, number, write)
        return json.loads(data)["data"]["uuid"], read

    def reads(self, picture, count):
        return [wrk.head("GET", f"/opsportal/image/a/{uuid}", read) for uuid, read in self.store(picture, count)]

    def public_reads(self, picture, count):
        def one(number):
            path = f"/api_gateway/file-service/rewards/{number}.jpg"
            self.send(path, picture, number, self.till)
            self.ask("PUT", f"{path}/acl", '{"acl":"PUBLIC"}', self.till | {"Content-Type": "application/json"})
            record = json.loads(self.ask("GET", path, headers=self.till)[1])
            return wrk.head("GET", "/" + record["publicFilePath"].split("/", 3)[3])
        return in_parallel(one, count)

    def variants(self, picture, count, width):
        return [wrk.head("GET", f"/i/{uuid}/w_{width},f_jpeg", read) for uuid, read in self.store(picture, count)]


class ImagewellEmpty(Imagewell):
    """On an empty folder: it makes its database and its first account."""

    def prepare(self):
        super().prepare()
        shutil.rmtree(f"{self.folder}/data")

    def sign_in(self):
        pass


class ImagewellRaw(Imagewell):
    """Through the file service: the body is the file."""
    name = "imagewell, raw"

    def store_one(self, picture, number):
        self.send(f"/api_gateway/file-service/rewards/{number}.jpg", picture, number, self.till)

    def uploads(self, picture, weight=1):
        head = wrk.head("POST", "/api_gateway/file-service/rewards/@@.jpg", self.till | {"Content-Length": len(picture)})
        return [wrk.Bodied(head, picture, DIGITS_AT, weight)]


NGINX = """
worker_processes 2;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    sendfile {sendfile};
    tcp_nopush {sendfile};
    keepalive_requests 1000000000;
    types {{ image/jpeg jpg; }}
    client_max_body_size 200m;
    client_body_temp_path {folder}/temporary;
    proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen {address};
        root {folder}/files;
        location / {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


class Nginx(System):
    """As it is without being told otherwise: files go through its buffers."""
    name, durable, sendfile = "nginx", "no", "off"

    def prepare(self):
        os.makedirs(f"{self.folder}/files")
        # Started by root its workers are someone else.
        os.chmod(self.folder, 0o777)
        os.chmod(f"{self.folder}/files", 0o777)
        with open(f"{self.folder}/nginx.conf", "w") as file:
            file.write(NGINX.format(folder=self.folder, address=self.address, sendfile=self.sendfile))

    def command(self):
        return ["/usr/sbin/nginx", "-p", self.folder, "-c", f"{self.folder}/nginx.conf", "-g", "daemon off;"]

    def store_one(self, picture, number):
        self.send(f"/{number}.jpg", picture, number, method="PUT")

    def uploads(self, picture, weight=1):
        head = wrk.head("PUT", "/@@.jpg", {"Content-Length": len(picture)})
        return [wrk.Bodied(head, picture, DIGITS_AT, weight)]

    def reads(self, picture, count):
        for number in range(count):
            with open(f"{self.folder}/files/{number}.jpg", "wb") as file:
                file.write(distinct_head(picture, number) + picture[DIGITS_AT + 16:])
        os.sync()
        return [wrk.head("GET", f"/{number}.jpg") for number in range(count)]

    public_reads = reads


class NginxSendfile(Nginx):
    """As Debian configures it: files go from the kernel's memory to the socket without a copy."""
    name, sendfile = "nginx, sendfile", "on"


class Express(System):
    name, durable = "Express, multer, sharp", "no"

    def command(self):
        return ["node", f"{ROOT}/bench/node/upload.js", self.address.split(":")[1], self.folder, self.settings.get("PROCESSES", "1")]

    def uploads(self, picture, weight=1):
        return [form_upload("/image", "image", picture, weight=weight)]

    def store_one(self, picture, number):
        return json.loads(self.send_form("/image", "image", picture, number))["id"]

    def reads(self, picture, count):
        return [wrk.head("GET", f"/image/{name}") for name in self.store(picture, count)]

    def variants(self, picture, count, width):
        return [wrk.head("GET", f"/image/{name}/{width}") for name in self.store(picture, count)]


class SyncedFiles(System):
    """No service at all: threads that write files of that size, sync each and its folder. What durability alone allows."""
    name, durable = "synced files alone, no HTTP", "yes"

    def command(self):
        return ["sleep", "infinity"]

    def await_ready(self):
        pass

    def write_files(self, picture, threads, seconds):
        times, until = [], time.perf_counter() + seconds
        folder = os.open(self.folder, os.O_RDONLY)

        def work(thread):
            turn = 0
            while (started := time.perf_counter()) < until:
                file = os.open(f"{self.folder}/{thread}-{turn}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                os.write(file, picture)
                os.fsync(file)
                os.close(file)
                os.fsync(folder)
                times.append((time.perf_counter() - started) * 1000)
                turn += 1

        at_once(work, threads)
        os.close(folder)
        times.sort()
        return wrk.Result(len(times) / seconds, times[len(times) // 2], times[len(times) * 99 // 100])


class PictRs(System):
    name, durable, seconds_min = "pict-rs", "by its syncs, in part", 10

    def prepare(self):
        self.environment = {"PICTRS__SERVER__ADDRESS": self.address, "PICTRS__REPO__PATH": f"{self.folder}/repo",
                            "PICTRS__STORE__PATH": f"{self.folder}/files", "PICTRS__MEDIA__MAX_FILE_SIZE": "200", "PICTRS__TRACING__LOGGING__TARGETS": "warn"}

    def command(self):
        return [os.environ.get("PICT_RS", f"{ROOT}/target/pict-rs/bin/pict-rs"), "run", "filesystem", "sled"]

    def uploads(self, picture, weight=1):
        return [form_upload("/image", "images[]", picture, weight=weight)]

    def store_one(self, picture, number):
        return json.loads(self.send_form("/image", "images[]", picture, number))["files"][0]["file"]

    def reads(self, picture, count):
        return [wrk.head("GET", f"/image/original/{name}") for name in self.store(picture, count)]
