"""The real parts of a cluster on one machine: PostgreSQL, Garage (one node or three), nginx in front of the store and of the nodes, and nodes."""

import glob
import os
import shutil
import socket
import subprocess
import time
import urllib.request

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


class Process:
    """A child that can be killed and started again."""

    def __init__(self, name, command, folder, environment=None):
        self.name, self.command, self.environment = name, command, environment
        self.log = open(os.path.join(folder, f"{name}.log"), "ab")
        self.child = None

    def start(self):
        self.child = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        if self.child and self.child.poll() is None:
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


def nginx(folder, name, upstreams, port, location=""):
    """A balancer as deploy/nginx.conf: whoever is away is passed over, and nobody for what one request met."""
    place = os.path.join(folder, name)
    os.makedirs(place)
    servers = "".join(f"server 127.0.0.1:{upstream} max_fails=0;" for upstream in upstreams)
    with open(os.path.join(place, "nginx.conf"), "w") as file:
        file.write(
            f"daemon off; pid {place}/pid; error_log {place}/error.log; worker_processes 1; events {{ worker_connections 1024; }}\n"
            f"http {{ access_log off; client_max_body_size 0; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n"
            f"fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n"
            f"upstream nodes {{ {servers} keepalive 32; }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://nodes; proxy_http_version 1.1;\n"
            f'proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_read_timeout 60s; {location} }} }} }}\n'
        )
    process = Process(name, ["nginx", "-p", place, "-c", os.path.join(place, "nginx.conf")], folder)
    process.start()
    wait_until(lambda: listens(port), "starting nginx")
    return process


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
        self.program = program
        super().__init__(f"node{index}", [program, "serve"], folder, environment)

    def run(self, *arguments, environment=None):
        done = subprocess.run([self.program, *arguments], env=environment or self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"imagewell {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

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
