"""A machine: a folder in which commands of docs/operating.md run."""

import glob
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../cluster"))
from callers import TILL  # noqa: E402
from parts import ACCESS_KEY, DEPLOY, SECRET_KEY, free_port  # noqa: E402

OWN_PATH = ("usr/local/sbin", "usr/local/bin", "bin")
ACCOUNTS = os.path.join(HERE, "../../testdata/accounts.toml")


class Served:
    """A running node, by its port, and by its certificate where it speaks TLS."""

    def __init__(self, name, port):
        self.name, self.port, self.certificate = name, port, None

    def ask(self, path, method="GET", data=None):
        """The status and the bytes of an answer."""
        scheme = "https" if self.certificate else "http"
        url = f"{scheme}://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, TILL, method=method)
        context = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def serves(self, images):
        """Whether everybody gets every byte of these, which are public."""
        for key, digest in images.items():
            status, data = self.ask(f"/imagewell/{key}")
            assert status == 200, f"{key} at {self.name}: {status}"
            assert hashlib.sha256(data).hexdigest() == digest, f"{key} at {self.name}"


class Machine(Served):
    """A folder with what an operator has brought: the program, deploy/ and some files."""

    def __init__(self, folder, name, program, postgres, endpoint):
        super().__init__(name, free_port())
        self.root = os.path.join(folder, name)
        self.home, self.trusted = f"{self.root}/home", f"{self.root}/trusted.pem"
        # What is replaced in commands and in files of deploy/, and nothing else.
        self.names = {
            "/usr/local/": f"{self.root}/usr/local/",
            "/etc/": f"{self.root}/etc/",
            "/var/lib/": f"{self.root}/var/lib/",
            "db.example.com/": f"127.0.0.1:{postgres.port}/",
            "?sslmode=verify-full": "",
            "0.0.0.0:8080": f"127.0.0.1:{self.port}",
            "https://s3.example.com": endpoint,
            "GK31c2f218a2e44f485b94239e": ACCESS_KEY,
            "SECRET-KEY": SECRET_KEY,
            # No balancer asks here whether nodes are ready.
            "drain_delay_seconds = 3": "drain_delay_seconds = 0",
        }
        for path in ("home/deploy", "bin", "usr/local/bin", "usr/local/sbin", "etc/systemd/system"):
            os.makedirs(f"{self.root}/{path}")
        for command in ("systemctl", "systemd-run", "sudo", "mount"):
            os.symlink(os.path.join(HERE, "stand_in.py"), f"{self.root}/bin/{command}")
        for path in glob.glob(f"{DEPLOY}/imagewell*"):
            with open(path) as file:
                self.write(f"deploy/{os.path.basename(path)}", self.replaced(file.read()))
        shutil.copy(ACCOUNTS, f"{self.home}/accounts.toml")
        shutil.copy(program, f"{self.home}/imagewell")
        self.environment = {
            "PATH": ":".join([*(f"{self.root}/{path}" for path in OWN_PATH), "/usr/bin", "/bin"]),
            "MACHINE": self.root,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(postgres.port),
            "HOME": self.home,
        }

    def replaced(self, text):
        for old, new in self.names.items():
            text = text.replace(old, new)
        return text

    def write(self, name, text):
        with open(f"{self.home}/{name}", "w") as file:
            file.write(text)

    def run(self, script):
        """Runs commands of the document. They must succeed."""
        command = ["bash", "-euo", "pipefail", "-c", self.replaced(script)]
        done = subprocess.run(
            command,
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode != 0:
            raise AssertionError(
                f"on {self.name}: {script}\n{done.stdout}{done.stderr}\n{self.log()[-2000:]}"
            )
        return done.stdout + done.stderr

    def log(self):
        path = f"{self.root}/run/imagewell.log"
        if not os.path.exists(path):
            return ""
        with open(path, errors="replace") as file:
            return file.read()

    def pid(self):
        """The running service's process."""
        try:
            with open(f"{self.root}/run/imagewell.pid") as file:
                pid = int(file.read())
            os.readlink(f"/proc/{pid}/exe")
            return pid
        except (FileNotFoundError, ProcessLookupError):
            return None


def is_ready(machine):
    try:
        return machine.ask("/readyz")[0] == 200
    except OSError:
        return False
