"""Load by wrk: what to send is written down, wrk sends it, one line comes back."""

import dataclasses
import itertools
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# Bodies and addresses differ between runs too.
runs = itertools.count(int(os.getpid()) * 1_000_000_000)


@dataclasses.dataclass
class Listed:
    """Requests without a body, taken in turn."""
    heads: list
    weight: int = 1

    def line(self, folder, number):
        path = f"{folder}/heads{number}"
        with open(path, "w") as file:
            file.writelines(head + "\n" for head in self.heads)
        return f"{self.weight}\tfile\t{path}\n"


@dataclasses.dataclass
class Bodied:
    """Requests with a body of which 16 digits at `offset` are always others. `@@` in the head becomes the same digits."""
    head: str
    body: bytes
    offset: int
    weight: int = 1

    def line(self, folder, number):
        path = f"{folder}/body{number}"
        with open(path, "wb") as file:
            file.write(self.body)
        return f"{self.weight}\tbody\t{self.head}\t{path}\t{self.offset}\n"


@dataclasses.dataclass
class Result:
    """Of one run."""
    per_second: float
    p50_ms: float
    p99_ms: float


def head(method, path, headers=None):
    """A request's head on one line."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench"] + [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "|".join(lines)


def run(address, load, connections, seconds):
    """Sends `load` over `connections` for `seconds`. Any answer that isn't a success ends the benchmark."""
    with tempfile.TemporaryDirectory(prefix="imagewell-wrk-") as folder:
        with open(f"{folder}/load", "w") as file:
            file.writelines(part.line(folder, number) for number, part in enumerate(load))
        threads = min(2, connections)
        command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "--timeout", "30s", "-s", f"{HERE}/load.lua",
                   f"http://{address}/", f"{folder}/load", str(next(runs) % 10**13)]
        output = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((line for line in output.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"wrk failed: {output.stdout}{output.stderr}")
    requests, microseconds, p50, p99, refused, broken = map(int, line.split()[1:])
    if refused or broken:
        raise SystemExit(f"{refused} of {requests} requests to {address} were refused, {broken} connections broke: {load[0]}"[:400])
    return Result(requests * 1e6 / microseconds, p50 / 1000, p99 / 1000)
