"""Three nodes behind nginx as it is shipped, on PostgreSQL and three Garage nodes. Nodes, database and store are killed, paused and
restarted, and a node's clock goes wrong, while an honest org works, another org asks for too much, and strangers ask for what is not
theirs. Afterwards every acknowledged upload is accounted for by its digest, at every node, and nothing private was shown."""

import argparse
import hashlib
import os
import sys
import tempfile
import threading

import requests

from callers import FILES, GREEDY_PLAN, PASSWORD, TILL, Greedy, Load, Secrets, log_in, picture
from parts import BUCKET, Garage, Node, Postgres, end, free_port, shipped_nginx, store_balancer, wait_until
from trouble import SWEEP_SECONDS, UNDO_SECONDS, Outages, Trouble

HERE = os.path.dirname(os.path.abspath(__file__))
SETTINGS = {
    "IMAGEWELL_DROPBOX_TICKET_TTL_SECONDS": "5",
    "IMAGEWELL_SWEEP_INTERVAL_SECONDS": str(SWEEP_SECONDS),
    "IMAGEWELL_SWEEP_UNDO_SECONDS": str(UNDO_SECONDS),
    # Three nodes share the processors of one machine, and one org uses its share up at once.
    "IMAGEWELL_WORKERS_CONCURRENT_MAX": "1",
    "IMAGEWELL_WORKERS_QUEUE_MAX": "16",
    "IMAGEWELL_WORKERS_QUEUE_PER_ORG_MAX": "4",
}


def put_placeholder_and_picture(node):
    """A file without bytes, and a picture whose ticket expires while everything else goes on."""
    answer = requests.post(f"{node.url}{FILES}/empty.png", data=b"", headers=TILL, timeout=60)
    assert answer.status_code == 200, answer.text
    session = requests.Session()
    answer = session.post(f"{node.url}/api/login", json={"email": "ada", "password": PASSWORD}, timeout=60)
    assert answer.status_code == 200, answer.text
    token = next((f"X-{cookie.name}", cookie.value) for cookie in session.cookies if cookie.name.startswith("Csrf-Token_"))
    files = {"Profile": ("a.png", picture(5_000, 1))}
    answer = session.post(f"{node.url}/api/dropbox/pictures", files=files, headers=dict([token]), timeout=60)
    assert answer.status_code == 200, answer.text


class Backups:
    """One backup after the other. Those that come upon a database or a store that is away fail, and damage none before them."""

    def __init__(self, node, folder):
        self.node, self.folder, self.made, self.failed = node, os.path.join(folder, "backup"), 0, []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.loop)
        self.thread.start()

    def loop(self):
        while not self.stop.wait(15):
            try:
                self.make()
            except AssertionError as error:
                self.failed.append(str(error))

    def make(self):
        said = self.node.run("backup", self.folder, "--keep", "2").stdout
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
        return self.node.run("check", "--blobs", environment=environment).stdout.splitlines()[-1]


def account(load, nodes):
    """Every acknowledged byte, at every node."""
    for node in nodes:
        session = log_in(node.url, "ada")
        for uuid, digest in load.images.items():
            answer = session.get(f"{node.url}/opsportal/image/opstool/{uuid}", timeout=60)
            is_whole = answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == digest
            assert is_whole, f"{uuid} at {node.name}: {answer.status_code}"
        for (name, version), digest in load.files.items():
            record = requests.get(f"{node.url}{FILES}/{name}?version={version}", headers=TILL, timeout=60)
            assert record.status_code == 200, f"{name} {version}: {record.text}"
            answer = requests.get(record.json()["secureFilePath"], timeout=60)
            assert hashlib.sha256(answer.content).hexdigest() == digest, f"{name} {version}"


class Cluster:
    """Everything that runs."""

    def __init__(self, folder, program, children):
        self.folder = folder
        self.postgres = Postgres(folder)
        children.append(self.postgres)
        self.garage = Garage(folder, 3)
        children.append(self.garage)
        store = free_port()
        children.append(store_balancer(folder, self.garage.s3_ports, store))
        endpoint = f"http://127.0.0.1:{store}"
        self.nodes = [Node(index, program, folder, self.postgres, endpoint, SETTINGS) for index in range(3)]
        self.nodes[0].run("provision", os.path.join(HERE, "../../testdata/accounts.toml"))
        plan = os.path.join(folder, "greedy.toml")
        with open(plan, "w") as file:
            file.write(GREEDY_PLAN)
        self.nodes[0].run("provision", plan)
        self.nodes[2].with_clock(folder)
        print(self.nodes[0].run("check").stdout, end="")
        for node in self.nodes:
            node.start()
            children.append(node)
        for node in self.nodes:
            wait_until(node.is_ready, f"starting {node.name}")
        port = free_port()
        children.append(shipped_nginx(folder, [node.port for node in self.nodes], port))
        self.front = f"http://127.0.0.1:{port}"


def run(cluster, arguments):
    nodes, outages = cluster.nodes, Outages()
    greedy = Greedy(cluster.front)
    load = Load(cluster.front, outages)
    put_placeholder_and_picture(nodes[0])
    load.run(arguments.lanes)
    secrets = Secrets(cluster.front, nodes, load)
    backups = Backups(nodes[1], cluster.folder)
    trouble = Trouble(nodes, cluster.postgres, cluster.garage, outages)
    try:
        trouble.run(arguments.seconds)
    finally:
        load.finish()
        secrets.finish()
        backups.finish()
        refusals = greedy.finish()
    for node in nodes:
        wait_until(node.is_ready, f"{node.name} to be ready again")
    answers = sorted(load.counts.items(), key=str)
    print("answers:", ", ".join(f"{what} {status} ×{count}" for (what, status), count in answers))
    print("the greedy org's:", ", ".join(f"{status} ×{count}" for status, count in sorted(refusals.items(), key=str)))
    print("troubles:", trouble.counts)
    print("the honest org's requests:\n ", load.figures())
    print(f"failures without a trouble that explains them: {len(load.unexplained)} {load.unexplained[:20]}")
    print(f"strangers: {secrets.asked} requests, {secrets.shown} of them for what was public; {len(secrets.files)} files, "
          f"{secrets.changes} times published or hidden")
    judge(load, secrets, refusals, arguments)
    account(load, nodes)
    secrets.check_at_the_end(nodes)
    print(f"{len(load.images)} images and {len(load.files)} files were acknowledged, and each is whole at each of three nodes.")
    print(nodes[0].run("check", "--blobs").stdout.splitlines()[-1])
    report_backups(backups, cluster)


def judge(load, secrets, refusals, arguments):
    assert not load.faults, load.faults[:5]
    assert not secrets.faults, secrets.faults[:5]
    assert len(load.images) > 20 and len(load.files) > 10, (len(load.images), len(load.files))
    assert secrets.shown > 10 and len(secrets.files) > 5, "strangers saw nothing that was public: they ask in vain"
    assert refusals.get(429, 0) > 10, f"nothing was refused to the greedy org: {refusals}"
    if arguments.p99_seconds_max:
        assert not load.unexplained, load.unexplained[:5]
        assert load.p99() < arguments.p99_seconds_max


def report_backups(backups, cluster):
    print(backups.make().splitlines()[0])
    print(backups.node.run("restore", backups.folder, "--dry-run").stdout.splitlines()[-1])
    print("restored on SQLite and a folder:", backups.restore(cluster.folder))
    print(f"backups: {backups.made}, and {len(backups.failed)} that came upon something that was away")
    unfinished = [line for line in cluster.garage.say("bucket", "info", BUCKET).splitlines() if "nfinished" in line]
    print("left in the store of uploads in parts:", " ".join(unfinished) or "nothing")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--program", required=True)
    options.add_argument("--seconds", type=int, default=60, help="of trouble; longer if each kind takes longer")
    options.add_argument("--lanes", type=int, default=6, help="of the honest org")
    options.add_argument("--p99-seconds-max", type=float, help="of the honest org's requests, for a machine without other work")
    arguments = options.parse_args()
    children = []
    with tempfile.TemporaryDirectory(prefix="imagewell-cluster-", ignore_cleanup_errors=True) as folder:
        try:
            run(Cluster(folder, os.path.abspath(arguments.program), children), arguments)
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
