#!/usr/bin/env python3
"""Replays every power cut of a short run of uploads, and shows that the harness would notice if something were missing.

Needs root (loop devices, mounts), qemu-storage-daemon and gcc. Prints a line for each run and exits with 1 when a promise was
broken, or when a negative control kept them all."""

import argparse
import base64
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import zlib

from disk import MountedState, RecordingDisk

HERE = os.path.dirname(os.path.abspath(__file__))
ACCOUNTS = os.path.join(HERE, "../../testdata/accounts.toml")


def environment(data_dir, skip=None, shim=None):
    variables = {"PATH": os.environ["PATH"], "IMAGEWELL_DATA_DIR": data_dir, "IMAGEWELL_LISTEN": "127.0.0.1:0",
                 "IMAGEWELL_PASSWORDS_MEMORY_KIB": "8", "IMAGEWELL_PASSWORDS_PASSES": "1", "IMAGEWELL_LOG_FORMAT": "json",
                 "IMAGEWELL_STORAGE_FREE_BYTES_MIN": "0", "IMAGEWELL_STORAGE_FREE_INODES_MIN": "0"}
    if skip:
        variables |= {"LD_PRELOAD": shim, "SKIP_SYNC_OF": skip}
    return variables


def picture(number):
    """A whole PNG with bytes of its own: small ones, and some that go through the spool file."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    noise = random.Random(number).randbytes(1_200_000 if number % 7 == 3 else 3000 + number * 997)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"fiLl", noise) + \
        chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")


class Client:
    """Logs in and uploads, as a portal would."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=30)
        self.cookie = ""
        self.request("POST", "/site/login", json.dumps({"username": "ada", "password": "correct horse"}).encode(), "application/json")
        self.token = self.csrf()

    def csrf(self):
        return self.request("GET", "/csrfToken", b"", "", token="")["_csrf"]

    def request(self, method, path, body, content_type, token=None):
        if token is None:
            token = self.csrf()
        headers = {"Cookie": self.cookie, "Content-Type": content_type, "X-CSRF-Token": token}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        if cookie := answer.getheader("Set-Cookie"):
            self.cookie = cookie.split(";")[0]
        data = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {data}")
        return data

    def upload(self, number, data):
        """Through one API or the other; gives the image and the number of its version."""
        if number % 3 == 2:
            credentials = base64.b64encode(b"till01:" + hashlib.md5(b"correct horse").hexdigest().encode()).decode()
            self.connection.request("POST", "/api_gateway/file-service/rewards/a.png", data, {"Authorization": f"Basic {credentials}"})
            answer = json.loads(self.connection.getresponse().read())
            return answer["file"]["file_handle"], answer["file"]["version"]
        body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + data + b"\r\n--b--\r\n"
        path = "/opsportal/image/opstool/opstool.AB_Crew.view/0"
        return self.request("POST", path, body, "multipart/form-data; boundary=b", token=self.token)["data"]["uuid"], 1


def record(program, folder, uploads, split=False, skip=None, shim=None):
    """Runs the server on a recording disk; returns the disk and the acknowledgements with their log positions.

    With `split` only the blobs are on that disk. Beside a database on the same ext4, a folder's own sync can't be missed: the
    database's next one commits the journal for both."""
    os.makedirs(folder)
    disk = RecordingDisk(folder, 48)
    acknowledged = []
    with disk:
        data_dir = f"{folder}/data" if split else f"{disk.mount}/data"
        variables = environment(data_dir, skip, shim)
        if split:
            variables["IMAGEWELL_STORAGE_URL"] = f"file://{disk.mount}/blobs"
        subprocess.run([program, "provision", ACCOUNTS], env=variables, check=True, stdout=subprocess.DEVNULL)
        server = subprocess.Popen([program, "serve"], env=variables, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            address = next(m[1] for line in server.stderr if (m := re.search(r'"url":"http://([^"]+)"', line)))
            client = Client(address)
            for number in range(uploads):
                data = picture(number)
                version = client.upload(number, data)
                acknowledged.append((disk.position(), version, hashlib.sha256(data).hexdigest()))
        finally:
            server.kill()
            server.wait()
    return disk, acknowledged


def lost_blob(folder, mount, due):
    """With the database elsewhere and whole: an acknowledged image whose bytes are not on the disk."""
    connection = sqlite3.connect(f"{folder}/data/imagewell.db")
    rows = connection.execute("SELECT image_id, number, blob_key FROM versions")
    keys = {(image, number): key for image, number, key in rows}
    connection.close()
    for version, digest in due:
        if found := wrong_bytes(f"{mount}/blobs/{keys[version]}", digest):
            return f"acknowledged image {version} points at {found}"
    return None


def wrong_bytes(path, digest):
    try:
        with open(path, "rb") as file:
            return None if hashlib.sha256(file.read()).hexdigest() == digest else "torn bytes"
    except OSError as error:
        return f"missing bytes: {error.strerror}"


def broken_promise(data_dir, due):
    """What this state of the disk breaks: an acknowledged image that is gone, or a row that points at other bytes."""
    database = f"{data_dir}/imagewell.db"
    if not os.path.exists(database):
        return f"{len(due)} acknowledged, no database" if due else None
    connection = sqlite3.connect(database)
    try:
        if connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'versions'").fetchone()[0] == 0:
            return f"{len(due)} acknowledged, no tables" if due else None
        if (verdict := connection.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            return f"database: {verdict}"
        rows = connection.execute("SELECT image_id, number, digest, blob_key FROM versions")
        rows = {(image, number): (digest, key) for image, number, digest, key in rows}
    except sqlite3.Error as error:
        return f"database: {error}" if due else None
    finally:
        connection.close()
    for version, digest in due:
        if rows.get(version, ("",))[0] != digest:
            return f"acknowledged image {version} has no row"
    for version, (digest, key) in rows.items():
        if found := wrong_bytes(f"{data_dir}/blobs/{key}", digest):
            return f"the row of {version} points at {found}"
    return None


def replay(program, disk, acknowledged, mode, seed, every, stop_at_first):
    """Checks the states; returns how many there were and the violations."""
    states, violations = 0, []
    last = sum(1 for _ in disk.entries())
    folder = tempfile.mkdtemp(dir="/dev/shm")
    try:
        for position, image in disk.states(mode, seed):
            if position % every and position != last:
                continue
            states += 1
            due = [(version, digest) for at, version, digest in acknowledged if at <= position]
            with MountedState(folder, image) as mount:
                split = os.path.exists(f"{disk.folder}/data")
                found = lost_blob(disk.folder, mount, due) if split else broken_promise(f"{mount}/data", due)
                # The program itself must open what is left, too; it is asked now and then, because it takes longer.
                if not split and not found and states % 25 == 0 and os.path.exists(f"{mount}/data/imagewell.db"):
                    # Before anything was acknowledged the database may still be without tables, which `check` would not make.
                    asked = ["check", "--blobs"] if due else ["sweep"]
                    checked = subprocess.run([program, *asked], env=environment(f"{mount}/data"), capture_output=True, text=True)
                    found = checked.stdout if checked.returncode else None
            if found:
                violations.append(f"at write {position}: {found}")
                if stop_at_first:
                    break
    finally:
        shutil.rmtree(folder)
    return states, violations


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="target/debug/imagewell")
    parser.add_argument("--uploads", type=int, default=12)
    parser.add_argument("--every", type=int, default=1, help="check every nth state")
    parser.add_argument("--seeds", type=int, default=1, help="subset replays")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("powercut.py needs root: it mounts file systems")
    program = os.path.abspath(options.program)
    failed = False
    work = tempfile.mkdtemp(dir="/dev/shm", prefix="powercut-")
    try:
        shim = f"{work}/sync_faults.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, f"{HERE}/sync_faults.c", "-ldl"], check=True)
        for name, split in (("everything on one disk", False), ("blobs on a disk of their own", True)):
            disk, acknowledged = record(program, f"{work}/{name}", options.uploads, split)
            for mode, seed in [("prefix", 0)] + [("subset", seed) for seed in range(1, options.seeds + 1)]:
                started = time.time()
                states, violations = replay(program, disk, acknowledged, mode, seed, options.every, False)
                failed |= bool(violations) or states == 0
                print(f"{name}, {mode}: {states} power cuts, {len(acknowledged)} acknowledged, {len(violations)} violations "
                      f"({time.time() - started:.0f} s)", flush=True)
                for violation in violations[:5]:
                    print(f"    {violation}")
        for skip, split in (("directories", True), ("blobs", False), ("database", False), ("everything", False)):
            disk, acknowledged = record(program, f"{work}/without {skip}", options.uploads, split, skip, shim)
            for mode in ("prefix", "subset"):
                states, violations = replay(program, disk, acknowledged, mode, 1, options.every, True)
                if violations:
                    break
            failed |= not violations
            print(f"control, no sync of {skip}: {violations[0] if violations else 'NOTHING NOTICED, the harness is broken'} "
                  f"(after {states} power cuts, {mode})", flush=True)
    finally:
        shutil.rmtree(work)
    sys.exit(failed)


if __name__ == "__main__":
    main()
