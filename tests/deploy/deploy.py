#!/usr/bin/env python3
"""deploy/ as it is shipped: nginx, Caddy and HAProxy before three real services, the units by systemd's own tools, the compose file.

Of what is shipped only ports, paths and the names of machines are replaced."""

import argparse
import base64
import http.client
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../cluster"))
sys.path.insert(0, os.path.join(HERE, "../clients"))
from clients import MD5  # noqa: E402
from callers import picture  # noqa: E402
from parts import DEPLOY, free_port, listens, replaced, shipped, shipped_nginx, wait_until  # noqa: E402

PROOF = {"Authorization": "Basic " + base64.b64encode(f"till01:{MD5}".encode()).decode()}
FILE = "/api_gateway/file-service/rewards/"
# Loopback addresses are as many as one wants; the proxy's own is 127.0.0.1.
ONE, ANOTHER = "127.0.0.2", "127.0.0.3"
ISSUER = "http://127.0.0.1:9"


class Service:
    """imagewell on a port and a folder of its own. Nodes would share a database, which no balancer sees."""

    def __init__(self, folder, name):
        self.port, self.log = free_port(), os.path.join(folder, f"{name}.log")
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("IMAGEWELL_")},
            "IMAGEWELL_LISTEN": f"127.0.0.1:{self.port}",
            "IMAGEWELL_DATA_DIR": os.path.join(folder, name),
            "IMAGEWELL_PASSWORDS_MEMORY_KIB": "8",
            "IMAGEWELL_PASSWORDS_PASSES": "1",
            "IMAGEWELL_LOG_FORMAT": "json",
            "IMAGEWELL_SERVER_TRUSTED_PROXIES": "127.0.0.1",
            "IMAGEWELL_SERVER_DRAIN_DELAY_SECONDS": "120",
            # An outside provider whose keys can't be had: whoever shows a token of it is answered with 503.
            "IMAGEWELL_IDENTITY_PROVIDER_ISSUER": ISSUER,
            "IMAGEWELL_IDENTITY_PROVIDER_AUDIENCE": "imagewell",
        }
        self.run("provision", os.path.join(HERE, "../../testdata/accounts.toml"))
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([program, "serve"], env=self.environment, stdout=subprocess.DEVNULL, stderr=log)
        wait_until(lambda: listens(self.port), f"starting {name}")

    def run(self, *arguments, check=True):
        return subprocess.run([program, *arguments], env=self.environment, check=check, capture_output=True, text=True)

    def lines(self):
        with open(self.log) as log:
            return [json.loads(line) for line in log if line.startswith("{")]

    def stop(self):
        self.process.kill()
        self.process.wait()


def request(port, path, method="GET", source=ONE, body=None, headers=None, timeout=20):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout, source_address=(source, 0))
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace"), dict(answer.getheaders())
    finally:
        connection.close()


def connect(port, source, text):
    """A request that stays under way."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))
    stream.sendall(text.encode())
    return stream


def seconds_until_closed(stream, patience):
    stream.settimeout(patience)
    begun = time.monotonic()
    try:
        while stream.recv(4096):
            pass
    except ConnectionResetError:
        pass
    finally:
        stream.close()
    return time.monotonic() - begun


class Balanced(unittest.TestCase):
    """Three services behind a balancer, for each class of tests."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="imagewell-deploy-")
        cls.services = [Service(cls.folder.name, f"node{number}") for number in range(3)]
        cls.port = free_port()
        cls.balancer = cls.start_balancer()
        wait_until(lambda: listens(cls.port), "starting the balancer")

    @classmethod
    def tearDownClass(cls):
        cls.balancer.terminate()
        cls.balancer.wait()
        for service in cls.services:
            service.stop()
        cls.folder.cleanup()

    def logged(self, path):
        """What all nodes have logged of requests for a path."""
        return [line for service in self.services for line in service.lines() if path in json.dumps(line)]

    def check_addresses(self):
        """A client is who connects to the balancer, whatever it says of itself."""
        path = f"/nothing-{time.monotonic_ns()}"
        for claim in ({}, {"X-Forwarded-For": "192.0.2.66"}, {"X-Forwarded-For": "192.0.2.66, 127.0.0.1"}):
            self.assertEqual(request(self.port, path, headers=claim)[0], 404)
        wait_until(lambda: len(self.logged(path)) == 3, "logging", 10)
        for line in self.logged(path):
            self.assertIn(ONE, json.dumps(line))
            self.assertNotIn("192.0.2.66", json.dumps(line))

    def check_that_a_dead_node_is_not_noticed(self):
        self.services[0].stop()
        statuses = [request(self.port, "/csrfToken")[0] for _ in range(30)]
        self.assertEqual(statuses, [200] * 30)
        # Not sent twice, and not lost: the others have it or its caller is told.
        status, text, _ = self.upload("dead.png", picture(20_000, 1))
        self.assertEqual(status, 200, text)

    def check_that_refusals_of_one_caller_are_nobody_elses(self):
        """A caller who is told 503 all the time, and one who is told 429, take the nodes away from nobody."""
        told, ended = {"503": [], "429": []}, threading.Event()

        def show_token():
            headers = {"X-CAP-API-OAUTH-TOKEN": token_of_provider()}
            told["503"].append(request(self.port, FILE + "none.png", source=ANOTHER, headers=headers)[0])

        def guess():
            login = json.dumps({"username": "ada", "password": "wrong"})
            visit = request(self.port, "/csrfToken", source="127.0.0.4")
            headers = {"Content-Type": "application/json", "X-CSRF-Token": json.loads(visit[1])["_csrf"],
                       "Cookie": visit[2].get("set-cookie", visit[2].get("Set-Cookie", "")).split(";")[0]}
            told["429"].append(request(self.port, "/site/login", "POST", "127.0.0.4", login, headers)[0])

        def repeat(call):
            while not ended.is_set():
                call()

        callers = [threading.Thread(target=repeat, args=(call,)) for call in (show_token, show_token, guess, guess)]
        for caller in callers:
            caller.start()
        statuses, begun = [], time.monotonic()
        # Until each of the two was refused often, however slow the machine is.
        while time.monotonic() < begun + 4 or min(told["503"].count(503), told["429"].count(429)) < 20:
            statuses.append(request(self.port, "/csrfToken")[0])
            if time.monotonic() > begun + 40:
                break
        ended.set()
        for caller in callers:
            caller.join()
        self.assertGreater(len(statuses), 20)
        self.assertEqual(set(statuses), {200}, f"{len(statuses) - statuses.count(200)} of {len(statuses)} are not 200")
        self.assertGreaterEqual(told["503"].count(503), 20, told["503"][:20])
        self.assertGreaterEqual(told["429"].count(429), 20, told["429"][:20])

    def check_that_a_stopping_node_is_passed_over(self):
        self.services[1].process.terminate()
        time.sleep(2.5)
        before = len(self.services[1].lines())
        self.assertEqual([request(self.port, "/csrfToken")[0] for _ in range(30)], [200] * 30)
        answered = [line for line in self.services[1].lines()[before:] if "csrfToken" in json.dumps(line)]
        self.assertEqual(answered, [])

    def check_that_a_silent_head_is_given_up(self):
        stream = connect(self.port, ANOTHER, "GET /csrfToken HTTP/1.1\r\nHost: images.exa")
        self.assertLess(seconds_until_closed(stream, 40), 30)

    def check_that_large_heads_and_bodies_pass(self):
        self.assertEqual(request(self.port, "/csrfToken", headers={"Cookie": "other=" + "a" * 12_000})[0], 200)
        status, text, _ = self.upload("largest.png", picture(9_900_000, 1))
        self.assertEqual(status, 200, text)

    def upload(self, name, body):
        return request(self.port, FILE + name, "POST", body=body, headers=PROOF)


def token_of_provider():
    """A token as that provider makes them, but for its signature: nobody has the key by which to check it."""
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"iss": ISSUER, "aud": "imagewell", "sub": "x", "exp": int(time.time()) + 600, "org_id": 100606}
    return f"{part({'alg': 'RS256', 'kid': 'a'})}.{part(claims)}.{'A' * 342}"


class Nginx(Balanced):
    @classmethod
    def start_balancer(cls):
        return shipped_nginx(cls.folder.name, [service.port for service in cls.services], cls.port, cls.others()).child

    @classmethod
    def others(cls):
        """The same server before one service alone, and servers with common mistakes, for doctor to find."""
        cls.port_of_one, cls.port_that_believes, cls.port_with_limit = free_port(), free_port(), free_port()
        one = shipped("nginx.conf")
        one = one[one.index("    server {"):one.rindex("}")].replace("proxy_pass http://imagewell", f"proxy_pass http://127.0.0.1:{cls.services[0].port}")
        forwarded = "proxy_set_header X-Forwarded-For $remote_addr;"
        return (replaced(one, ("listen 8080;", f"listen 127.0.0.1:{cls.port_of_one};"))
                + replaced(one, ("listen 8080;", f"listen 127.0.0.1:{cls.port_that_believes};"), (forwarded, ""))
                + replaced(one, ("listen 8080;", f"listen 127.0.0.1:{cls.port_with_limit};"), ("client_max_body_size 0;", "client_max_body_size 1m;")))

    def test_a_client_is_counted_by_its_own_address(self):
        self.check_addresses()

    def test_a_body_is_bounded_by_the_service_in_its_own_words(self):
        largest = picture(9_900_000, 1)
        status, text, _ = self.upload("largest.png", largest)
        self.assertEqual(status, 200, text)
        # Refused by its length, before it comes.
        stream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(ONE, 0))
        stream.putrequest("POST", FILE + "larger.png")
        stream.putheader("Authorization", PROOF["Authorization"])
        stream.putheader("Content-Length", "3000000000")
        stream.endheaders(largest[:1000])
        answer = stream.getresponse()
        text = answer.read().decode()
        stream.close()
        self.assertEqual(answer.status, 413, text)
        self.assertEqual(json.loads(text)["status"], "false", "nginx would have answered with a page")

    def test_doctor_finds_nothing_wrong_with_it_and_much_with_another(self):
        # Each service has a database of its own here: the one that is asked is known by its key.
        node = self.services[0]
        found = node.run("doctor", "--quick", "--url", f"http://127.0.0.1:{self.port_of_one}", check=False).stdout
        self.assertRegex(found, r"(?m)^ok     proxy: .* passes on Host, addresses and bodies of 10000000 bytes$")
        for port, text in ((self.port_that_believes, "believes whatever X-Forwarded-For"), (self.port_with_limit, "of 10000000 bytes, as the settings allow")):
            found = node.run("doctor", "--quick", "--url", f"http://127.0.0.1:{port}", check=False).stdout
            self.assertIn("FAULT  proxy", found)
            self.assertIn(text, found)
        direct = node.run("doctor", "--quick", "--url", f"http://127.0.0.1:{self.services[1].port}", check=False).stdout
        self.assertIn("is not this deployment", direct)

    def test_one_address_leaves_room_for_others(self):
        head = "POST /site/login HTTP/1.1\r\nHost: images.example.com\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{"
        streams = [connect(self.port, ANOTHER, head) for _ in range(256)]
        time.sleep(0.5)
        beyond = [connect(self.port, ANOTHER, head) for _ in range(10)]
        refused = [stream.recv(100)[:12] for stream in beyond]
        self.assertEqual(refused, [b"HTTP/1.1 429"] * 10)
        self.assertEqual(request(self.port, "/csrfToken", source=ONE)[0], 200)
        for stream in streams + beyond:
            stream.close()
        wait_until(lambda: request(self.port, "/csrfToken", source=ANOTHER)[0] == 200, "being served again", 20)

    def test_a_head_that_does_not_end_is_given_up(self):
        self.check_that_a_silent_head_is_given_up()

    def test_large_heads_and_bodies_pass(self):
        self.check_that_large_heads_and_bodies_pass()

    def test_refusals_of_one_caller_are_nobody_elses(self):
        self.check_that_refusals_of_one_caller_are_nobody_elses()

    def test_a_body_that_stops_is_given_up(self):
        if not long:
            self.skipTest("it takes half a minute: scripts/test --long deploy")
        stream = connect(self.port, ANOTHER, f"POST {FILE}a.png HTTP/1.1\r\nHost: x\r\nAuthorization: {PROOF['Authorization']}\r\nContent-Length: 60000\r\n\r\n")
        self.assertLess(seconds_until_closed(stream, 90), 80)


class NginxInTrouble(Nginx):
    """What takes nodes away, one test after the other."""

    # Those of the class above run there.
    for inherited in [name for name in dir(Nginx) if name.startswith("test_")]:
        locals()[inherited] = None
    del inherited

    def test_1_what_is_said_to_one_caller_takes_the_nodes_away_from_nobody(self):
        # Nodes that are being stopped say 503 to whoever asks whether they are ready, and serve everybody else.
        for service in self.services:
            service.process.terminate()
        wait_until(lambda: request(self.port, "/readyz")[0] == 503, "draining", 10)
        ended, told = threading.Event(), []

        def ask():
            while not ended.is_set():
                told.append(request(self.port, "/readyz", source=ANOTHER)[0])

        callers = [threading.Thread(target=ask) for _ in range(2)]
        for caller in callers:
            caller.start()
        statuses, end = [], time.monotonic() + 3
        while time.monotonic() < end:
            statuses.append(request(self.port, "/csrfToken")[0])
        ended.set()
        for caller in callers:
            caller.join()
        self.assertGreater(len(told), 20)
        self.assertEqual(set(told), {503})
        self.assertGreater(len(statuses), 20)
        self.assertEqual(set(statuses), {200}, f"{statuses.count(502)} of {len(statuses)} are 502")

    def test_2_a_dead_node_is_not_noticed(self):
        self.check_that_a_dead_node_is_not_noticed()


class ByReadiness:
    """Tests of balancers that ask for /readyz. Nodes go away one after the other."""

    def test_1_a_client_is_counted_by_its_own_address(self):
        self.check_addresses()

    def test_2_large_heads_and_bodies_pass(self):
        self.check_that_large_heads_and_bodies_pass()

    def test_3_refusals_of_one_caller_are_nobody_elses(self):
        self.check_that_refusals_of_one_caller_are_nobody_elses()

    def test_4_a_head_that_does_not_end_is_given_up(self):
        self.check_that_a_silent_head_is_given_up()

    def test_5_a_node_that_is_stopped_is_passed_over(self):
        self.check_that_a_stopping_node_is_passed_over()

    def test_6_a_dead_node_is_not_noticed(self):
        self.check_that_a_dead_node_is_not_noticed()


class Caddy(ByReadiness, Balanced):
    @classmethod
    def start_balancer(cls):
        ports = " ".join(f"127.0.0.1:{service.port}" for service in cls.services)
        text = replaced(shipped("Caddyfile"), ("10.0.0.11:8080 10.0.0.12:8080 10.0.0.13:8080", ports),
                        ("images.example.com {", f":{cls.port} {{\n\tbind 127.0.0.1"), ("{\n\tservers {", "{\n\tadmin off\n\tservers {"))
        path = os.path.join(cls.folder.name, "Caddyfile")
        with open(path, "w") as file:
            file.write(text)
        environment = {**os.environ, "HOME": cls.folder.name, "XDG_DATA_HOME": cls.folder.name, "XDG_CONFIG_HOME": cls.folder.name}
        return subprocess.Popen(["caddy", "run", "--config", path, "--adapter", "caddyfile"], env=environment, stderr=subprocess.DEVNULL)


class Haproxy(ByReadiness, Balanced):
    @classmethod
    def start_balancer(cls):
        nodes = [(f"10.0.0.1{number + 1}:8080", f"127.0.0.1:{service.port}") for number, service in enumerate(cls.services)]
        path = os.path.join(cls.folder.name, "haproxy.cfg")
        with open(path, "w") as file:
            file.write(replaced(shipped("haproxy.cfg"), *nodes, ("bind :8080", f"bind 127.0.0.1:{cls.port}")))
        environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
        checked = subprocess.run(["haproxy", "-c", "-f", path], env=environment, capture_output=True, text=True)
        assert checked.returncode == 0 and "warning" not in checked.stderr.lower(), checked.stdout + checked.stderr
        return subprocess.Popen(["haproxy", "-db", "-f", path], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def test_7_one_address_has_so_many_connections(self):
        streams = [connect(self.port, ANOTHER, "GET /csrfToken HTTP/1.1\r\nHost: images.exa") for _ in range(300)]
        time.sleep(2)
        # Sooner than a head that does not end is given up.
        closed, _, _ = select.select(streams, [], [], 0)
        self.assertEqual(len(closed), 300 - 256)
        self.assertEqual(request(self.port, "/csrfToken")[0], 200)
        for stream in streams:
            stream.close()


class Unit(unittest.TestCase):
    def directives(self):
        lines = [line for line in shipped("imagewell.service").splitlines() if "=" in line and not line.startswith("#")]
        return dict(line.split("=", 1) for line in lines)

    def test_systemd_understands_it_and_finds_little_exposed(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "imagewell.service")
            with open(path, "w") as file:
                file.write(replaced(shipped("imagewell.service"), ("/usr/local/bin/imagewell", program)))
            verified = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
            ours = [line for line in verified.stderr.splitlines() if "imagewell.service" in line]
            self.assertEqual((verified.returncode, ours), (0, []), verified.stderr)
            judged = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", path], capture_output=True, text=True)
            self.assertEqual(judged.returncode, 0, judged.stdout[-500:] + judged.stderr)

    def test_systemd_understands_the_nightly_backup(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for name in ("imagewell-backup.service", "imagewell-backup.timer"):
                paths.append(os.path.join(folder, name))
                with open(paths[-1], "w") as file:
                    file.write(shipped(name).replace("/usr/local/bin/imagewell", program))
            verified = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
            ours = [line for line in verified.stderr.splitlines() if "imagewell" in line]
            self.assertEqual((verified.returncode, ours), (0, []), verified.stderr)

    def test_the_nightly_backup_fails_where_its_disk_is_not_mounted(self):
        lines = shipped("imagewell-backup.service").splitlines()
        folder = next(line.split("imagewell backup ")[1].split()[0] for line in lines if line.startswith("ExecStart="))
        # With a dynamic user, the folder of the state is a link to there.
        disk = folder.replace("/var/lib/", "/var/lib/private/")
        self.assertIn("AssertPathIsMountPoint=" + disk, lines)
        self.assertIn("RequiresMountsFor=" + disk, lines)

    def test_commands_run_as_the_service_does(self):
        """imagewell-admin gives them the service's user, settings and folders, in words that systemd understands."""
        command = shlex.split(shipped("imagewell-admin").split("\nexec ")[1])
        properties = [word.split("=", 1)[1] for word in command if word.startswith("--property=")]
        unit = self.directives()
        for line in properties:
            name, value = line.split("=", 1)
            if name == "StateDirectory":
                self.assertEqual(value.split()[0], unit[name])
            elif name != "SupplementaryGroups":
                self.assertEqual(value, unit.get(name, "imagewell"), line)
        names = {line.split("=")[0] for line in properties}
        self.assertEqual(names, {"DynamicUser", "User", "SupplementaryGroups", "StateDirectory", "StateDirectoryMode", "UMask",
                                 "EnvironmentFile", "Environment"})
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "imagewell-admin.service")
            with open(path, "w") as file:
                lines = [line.replace("$groups", "adm") for line in properties]
                file.write("\n".join(["[Service]", "Type=exec", f"ExecStart={program} doctor", "WorkingDirectory=/etc", *lines]) + "\n")
            verified = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
            ours = [line for line in verified.stderr.splitlines() if "imagewell-admin.service" in line]
            self.assertEqual((verified.returncode, ours), (0, []), verified.stderr)

    def test_it_ends_without_breaking_off_and_comes_back(self):
        unit = self.directives()
        for name, value in (("KillMode", "mixed"), ("Restart", "always"), ("StartLimitIntervalSec", "0"), ("UMask", "0077"),
                            ("OOMPolicy", "continue"), ("StateDirectoryMode", "0700"), ("DynamicUser", "yes"), ("ProtectSystem", "strict")):
            self.assertEqual(unit.get(name), value, name)
        self.assertGreaterEqual(int(unit["LimitNOFILE"]), 16384)
        # With the settings of deploy/, a stop takes as long as this at most.
        drain = 30 + int(re.search(r"drain_delay_seconds = (\d+)", shipped("imagewell.toml"))[1])
        self.assertGreater(int(unit["TimeoutStopSec"]), drain)

    def test_every_system_call_of_the_service_and_its_workers_is_let_pass(self):
        allowed = set()
        for word in self.directives()["SystemCallFilter"].split():
            allowed |= calls_of(word) if word.startswith("@") else {word}
        with tempfile.TemporaryDirectory() as folder:
            service = Service(folder, "traced")
            service.stop()
            trace = os.path.join(folder, "trace")
            command = ["strace", "-f", "-qq", "-e", "signal=none", "-o", trace, program, "serve"]
            tracer = subprocess.Popen(command, env=service.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_until(lambda: listens(service.port), "starting under strace")
                self.port = service.port
                status, text, _ = Balanced.upload(self, "a.png", picture(1_500_000, 1))
                self.assertEqual(status, 200, text)
                handle = json.loads(text)["file"]["file_handle"]
                self.assertEqual(request(self.port, f"/i/{handle}/w_100,f_avif", headers=PROOF, timeout=60)[0], 200)
            finally:
                with open(f"/proc/{tracer.pid}/task/{tracer.pid}/children") as children:
                    os.kill(int(children.read().split()[0]), signal.SIGKILL)
                tracer.wait()
            with open(trace) as file:
                made = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed)", file.read(), re.M))
        self.assertIn("landlock_restrict_self", made)
        self.assertEqual(made - allowed - {"strace"}, set())


def calls_of(group):
    """The names in a group of systemd's, and in those that it holds."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True).stdout
    words = [line.strip() for line in listed.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return {call for word in words for call in (calls_of(word) if word.startswith("@") else {word})}


class Containers(unittest.TestCase):
    def setUp(self):
        self.compose = yaml.safe_load(shipped("compose.yaml"))
        self.nodes = [service for name, service in self.compose["services"].items() if name.startswith("node")]

    def test_nodes_have_no_privileges_limits_and_a_health_check(self):
        self.assertEqual(len(self.nodes), 3)
        for node in self.nodes:
            self.assertTrue(node["read_only"])
            self.assertEqual(node["cap_drop"], ["ALL"])
            self.assertNotIn("cap_add", node)
            self.assertIn("no-new-privileges:true", node["security_opt"])
            self.assertGreaterEqual(node["ulimits"]["nofile"], 16384)
            self.assertEqual(node["healthcheck"]["test"], ["CMD", "imagewell", "ready"])
            self.assertTrue(node["mem_limit"] and node["pids_limit"])
            self.assertNotIn("ports", node)
        self.assertEqual(len({node["volumes"][0].split(":")[0] for node in self.nodes}), 3, "each has a data folder of its own")

    def test_only_the_balancer_is_reached_and_trusted(self):
        published = [name for name, service in self.compose["services"].items() if "ports" in service]
        self.assertEqual(published, ["balancer"])
        balancer = self.compose["services"]["balancer"]
        address = balancer["networks"]["inside"]["ipv4_address"]
        for node in self.nodes:
            self.assertEqual(node["environment"]["IMAGEWELL_SERVER_TRUSTED_PROXIES"], address)
        self.assertTrue(balancer["read_only"])
        self.assertEqual(balancer["cap_drop"], ["ALL"])
        for service in self.compose["services"].values():
            self.assertIn("healthcheck", service)
            self.assertEqual(service["restart"], "always")

    def test_the_balancer_finds_the_nodes_by_their_names(self):
        command = self.compose["services"]["balancer"]["command"]
        script = command[2].split(" && ")[0].replace("/nginx.conf > /tmp/nginx.conf", os.path.join(DEPLOY, "nginx.conf"))
        text = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout
        for number in (1, 2, 3):
            self.assertIn(f"server node{number}:8080 max_fails=0;", text)
        self.assertNotIn("127.0.0.1:808", text)

    def test_a_stop_has_time_and_secrets_must_be_given(self):
        for node in self.nodes:
            self.assertGreater(int(node["stop_grace_period"].rstrip("s")), 33)
            for name in ("PGPASSWORD", "IMAGEWELL_STORAGE_ENDPOINT", "IMAGEWELL_STORAGE_SECRET_ACCESS_KEY"):
                self.assertIn(":?}", node["environment"][name])
            self.assertNotIn("${", node["environment"]["IMAGEWELL_DATABASE_URL"])

    def test_the_image_runs_as_nobody_in_particular(self):
        last = shipped("Dockerfile").split("\nFROM ")[-1]
        self.assertRegex(last, r"(?m)^USER imagewell$")
        self.assertRegex(last, r"install -d -o imagewell -g imagewell -m 0700 /var/lib/imagewell")
        self.assertIn('CMD ["imagewell", "ready"]', last)
        self.assertIn("IMAGEWELL_LISTEN=0.0.0.0:8080", last)


class Ready(unittest.TestCase):
    """What container engines ask."""

    def test_a_service_says_whether_it_is_ready(self):
        with tempfile.TemporaryDirectory() as folder:
            service = Service(folder, "asked")
            self.assertEqual(service.run("ready").stdout, "ready\n")
            service.process.terminate()
            wait_until(lambda: service.run("ready", check=False).returncode == 1, "draining", 10)
            self.assertIn("503", service.run("ready", check=False).stderr)
            service.stop()
            gone = service.run("ready", check=False)
            self.assertEqual(gone.returncode, 1)
            self.assertIn("does not answer", gone.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--long", action="store_true")
    options, rest = parser.parse_known_args()
    program, long = os.path.abspath(options.program), options.long
    unittest.main(argv=[sys.argv[0], *rest])
