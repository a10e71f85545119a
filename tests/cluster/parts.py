"""The real parts of a cluster on one machine: PostgreSQL, Garage (one node or three), nginx in front of the store and of the nodes, and nodes."""

import glob
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

DEPLOY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../deploy")

ACCESS_KEY = "GK0123456789abcdef01234567"
SECRET_KEY = "0123456789abcdef" * 4
BUCKET = "images"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(true, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} took more than {seconds} s")


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def shipped(name):
    """The text of a file of deploy/."""
    with open(os.path.join(DEPLOY, name)) as file:
        return file.read()


def replaced(text, *changes):
    """The text with each of these replaced, all of which must be there."""
    for old, new in changes:
        assert old in text, f"{old!r} is not there any more"
        text = text.replace(old, new)
    return text


class Process:
    """A child that can be killed, paused, and started again."""

    def __init__(self, name, command, folder, environment=None):
        self.name, self.command, self.environment = name, command, environment
        self.log = open(os.path.join(folder, f"{name}.log"), "ab")
        self.child = None

    def start(self):
        self.child = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def kill(self):
        self.child.kill()
        self.child.wait()

    def pause(self):
        self.child.send_signal(signal.SIGSTOP)

    def resume(self):
        self.child.send_signal(signal.SIGCONT)

    def stop(self):
        if self.child and self.child.poll() is None:
            self.resume()
            self.child.terminate()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


class Postgres:
    """A database that syncs, as in earnest."""

    def __init__(self, folder):
        self.folder, self.port = os.path.join(folder, "postgres"), free_port()
        self.bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        os.makedirs(self.folder)
        # A server doesn't run as root.
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] if os.getuid() == 0 else []
        if self.user:
            for path in (os.path.dirname(self.folder), self.folder):
                os.chmod(path, 0o755)
            shutil.chown(self.folder, "postgres")
        self.run("initdb", "-D", f"{self.folder}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        self.start()
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "imagewell")

    def run(self, program, *arguments):
        subprocess.run([*self.user, f"{self.bin}/{program}", *arguments], check=True, cwd=self.folder, stdout=subprocess.DEVNULL)

    def control(self, *arguments):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c max_connections=200"
        self.run("pg_ctl", "-w", "-s", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options, *arguments)

    def start(self):
        self.control("start")

    def kill(self):
        """Without a checkpoint: it has to recover from its log."""
        self.control("-m", "immediate", "stop")

    def stop(self):
        self.control("-m", "fast", "stop")

    def ends_sessions(self):
        """As an administrator does it: the server goes on, and every connection ends."""
        statement = ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                     "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
        self.run("psql", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-c", statement, "postgres")

    @property
    def url(self):
        return f"postgres://postgres@127.0.0.1:{self.port}/imagewell"


class Garage:
    """An S3 store of one node, or of three that hold three copies."""

    def __init__(self, folder, nodes):
        self.folder = folder
        self.s3_ports, self.nodes, self.configurations = [], [], []
        rpc_ports = [free_port() for _ in range(nodes)]
        for index in range(nodes):
            place = os.path.join(folder, f"garage{index}")
            os.makedirs(place)
            port = free_port()
            configuration = os.path.join(place, "garage.toml")
            with open(configuration, "w") as file:
                file.write(
                    f'metadata_dir = "{place}/meta"\ndata_dir = "{place}/data"\ndb_engine = "sqlite"\n'
                    f'metadata_fsync = true\ndata_fsync = true\nreplication_factor = {nodes}\n'
                    f'rpc_bind_addr = "127.0.0.1:{rpc_ports[index]}"\nrpc_public_addr = "127.0.0.1:{rpc_ports[index]}"\n'
                    f'rpc_secret = "{"ab" * 32}"\n\n[s3_api]\ns3_region = "garage"\napi_bind_addr = "127.0.0.1:{port}"\n'
                )
            self.s3_ports.append(port)
            self.configurations.append(configuration)
            node = Process(f"garage{index}", ["garage", "-c", configuration, "server"], folder, {**os.environ, "RUST_LOG": "garage=warn"})
            node.start()
            self.nodes.append(node)
        for port in self.s3_ports:
            wait_until(lambda port=port: listens(port), "starting Garage")
        ids = [self.say("node", "id", "-q", node=index).strip() for index in range(nodes)]
        for other in ids[1:]:
            self.say("node", "connect", other)
        for index, node in enumerate(ids):
            wait_until(lambda node=node: node[:16] in self.say("status"), "meeting")
            self.say("layout", "assign", "-z", f"z{index}", "-c", "1G", node.split("@")[0])
        self.say("layout", "apply", "--version", "1")
        self.say("key", "import", "--yes", ACCESS_KEY, SECRET_KEY)
        self.say("bucket", "create", BUCKET)
        self.say("bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", ACCESS_KEY)

    def say(self, *arguments, node=0):
        done = subprocess.run(["garage", "-c", self.configurations[node], *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"garage {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def stop(self):
        for node in self.nodes:
            node.stop()


def store_balancer(folder, upstreams, port):
    """nginx in front of the nodes of a store: it asks another one also after a 503."""
    place = os.path.join(folder, "store")
    os.makedirs(place)
    servers = "".join(f"server 127.0.0.1:{upstream} max_fails=0;" for upstream in upstreams)
    with open(os.path.join(place, "nginx.conf"), "w") as file:
        file.write(
            f"daemon off; pid {place}/pid; error_log {place}/error.log; worker_processes 1;\n"
            f"events {{ worker_connections 1024; }}\n"
            f"http {{ access_log off; client_max_body_size 0; {temporary_paths(place)}\n"
            f"upstream nodes {{ {servers} keepalive 32; }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://nodes; proxy_http_version 1.1;\n"
            f'proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_read_timeout 60s;\n'
            f"proxy_next_upstream error timeout http_503 non_idempotent; proxy_request_buffering off; }} }} }}\n"
        )
    return start_nginx(folder, "store", ["-p", place, "-c", f"{place}/nginx.conf"], port)


def shipped_nginx(folder, nodes, port, more=""):
    """deploy/nginx.conf as it is shipped, before three nodes. Only ports and paths are replaced; each answer says which nodes were
    asked, and servers may be added."""
    place = os.path.join(folder, "front")
    os.makedirs(place)
    ports = [(f"server 127.0.0.1:808{index + 1} ", f"server 127.0.0.1:{node} ") for index, node in enumerate(nodes)]
    text = replaced(shipped("nginx.conf"), *ports, ("listen 8080;", f"listen 127.0.0.1:{port};"),
                    ("http {\n", f"http {{\n    access_log off; {temporary_paths(place)}\n"),
                    ("location / {\n", "location / {\n            add_header X-Asked $upstream_addr always;\n"))
    with open(os.path.join(place, "nginx.conf"), "w") as file:
        file.write(text[:text.rindex("}")] + more + "}\n")
    globals_ = f"daemon off; pid {place}/pid; error_log {place}/error.log;"
    return start_nginx(folder, "front", ["-p", place, "-c", f"{place}/nginx.conf", "-g", globals_], port)


def temporary_paths(place):
    return " ".join(f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


def start_nginx(folder, name, arguments, port):
    # Debian keeps it out of the path of those who are not root.
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
    process = Process(name, ["nginx", *arguments], folder, environment)
    process.start()
    wait_until(lambda: listens(port), "starting nginx")
    return process


def libfaketime():
    """Debian's library that gives a process another time."""
    return glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")[0]


class Node(Process):
    """An imagewell node with a data folder of its own."""

    def __init__(self, index, program, folder, postgres, endpoint, settings=None):
        self.port = free_port()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("IMAGEWELL_")},
            "IMAGEWELL_LISTEN": f"127.0.0.1:{self.port}",
            "IMAGEWELL_DATA_DIR": os.path.join(folder, f"node{index}"),
            "IMAGEWELL_DATABASE_URL": postgres.url,
            "IMAGEWELL_STORAGE_URL": f"s3://{BUCKET}",
            "IMAGEWELL_STORAGE_ENDPOINT": endpoint,
            "IMAGEWELL_STORAGE_REGION": "garage",
            "IMAGEWELL_STORAGE_ACCESS_KEY_ID": ACCESS_KEY,
            "IMAGEWELL_STORAGE_SECRET_ACCESS_KEY": SECRET_KEY,
            "IMAGEWELL_SERVER_TRUSTED_PROXIES": "127.0.0.1",
            "IMAGEWELL_LOG": "warn",
            **(settings or {}),
        }
        self.program, self.clock = program, None
        super().__init__(f"node{index}", [program, "serve"], folder, environment)

    def with_clock(self, folder):
        """From its next start on, the node's clock can be set. Its monotonic clock stays right, as a machine's does."""
        self.clock = os.path.join(folder, f"{self.name}.clock")
        self.set_clock(0)
        self.environment.update({
            "LD_PRELOAD": libfaketime(), "FAKETIME_TIMESTAMP_FILE": self.clock, "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
        })

    def set_clock(self, seconds_ahead):
        with open(f"{self.clock}.new", "w") as file:
            file.write(f"{seconds_ahead:+d}s\n")
        os.replace(f"{self.clock}.new", self.clock)

    def run(self, *arguments, environment=None, check=True):
        """Runs a command with the node's settings."""
        done = subprocess.run([self.program, *arguments], env=environment or self.environment, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"imagewell {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self):
        # Whoever supervises services starts one again that could not start, for want of its database.
        if self.child.poll() is not None:
            self.start()
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def end(children):
    for child in children:
        try:
            child.stop()
        except (OSError, subprocess.SubprocessError, AssertionError) as error:
            print(f"could not be ended: {error}")
