"""What is true after each block of commands of docs/operating.md."""

import glob
import hashlib
import json
import os
import re
import ssl
import subprocess
import time

import boto3
from callers import FILES, picture
from machine import Machine, Served, is_ready
from parts import ACCESS_KEY, BUCKET, SECRET_KEY, Garage, Postgres, free_port, wait_until

# As a newer program leaves it, with which this one works; and as this one leaves it.
NEWER_SCHEMA = """
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
    VALUES (9999, 'newer', TRUE, '', 0);
UPDATE schema_compatibility SET schema_number = 9999;
"""
OWN_SCHEMA = """
DELETE FROM _sqlx_migrations WHERE version = 9999;
UPDATE schema_compatibility SET schema_number = (SELECT MAX(version) FROM _sqlx_migrations);
"""
NEW, OTHER_BUCKET = "newer", "images2"
WORKS_WITH_NEWER = "the database was upgraded by a newer imagewell, with which this one works"
MOVED = "every row the same on both sides, every digest right"


class Story:
    """What is there, and what must be true after each block of the document."""

    def __init__(self, folder, program, children):
        self.folder = folder
        self.postgres = Postgres(folder)
        children.append(self.postgres)
        self.garage = Garage(folder, 1)
        children.append(self.garage)
        self.garage.say("bucket", "create", OTHER_BUCKET)
        self.garage.say(
            "bucket", "allow", "--read", "--write", "--owner", OTHER_BUCKET, "--key", ACCESS_KEY
        )
        self.endpoint = f"http://127.0.0.1:{self.garage.s3_ports[0]}"
        small = os.path.join(folder, "imagewell")
        subprocess.run(["strip", "-o", small, program], check=True)
        self.machines = [
            Machine(folder, f"node{number}", small, self.postgres, self.endpoint)
            for number in (1, 2, 3)
        ]
        self.one, self.images, self.said = self.machines[0], {}, {}
        self.database = {**self.one.environment, "PGUSER": "postgres"}

    def upload(self, machine):
        """Stores a new file for everybody to read. Returns its name."""
        data, name = picture(20_000, time.monotonic_ns()), f"n{time.monotonic_ns()}.png"
        status, text = machine.ask(f"{FILES}/{name}", "POST", data)
        assert status == 200, text
        status, published = machine.ask(f"{FILES}/{name}/acl", "PUT", b'{"acl":"PUBLIC"}')
        assert status == 200, published
        self.images[json.loads(text)["file"]["s3_token"]] = hashlib.sha256(data).hexdigest()
        return name

    def sql(self, database, text, user="postgres"):
        command = [
            "psql",
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.postgres.port),
            "-U",
            user,
            database,
        ]
        return subprocess.run(command, input=text, capture_output=True, text=True)

    def all_serve(self, machines=None):
        """What is uploaded to one machine is served by all."""
        machines = machines or self.machines
        for machine in machines:
            self.upload(machine)
        for machine in machines:
            machine.serves(self.images)

    # The checks, in the order of the document.

    def database_is_made(self):
        assert self.sql("images", "SELECT 1", "owner_of_imagewell").stdout == "1\n"
        assert self.sql("images", "CREATE ROLE stranger LOGIN").returncode == 0
        assert (
            "permission denied" in self.sql("images", "CREATE TABLE a (b INT)", "stranger").stderr
        )

    def program_is_installed(self):
        for machine in self.machines:
            assert os.stat(f"{machine.root}/etc/imagewell/secrets.env").st_mode & 0o777 == 0o600
            # As the service's user, which has the secrets although it can't read their file.
            said = machine.run("imagewell-admin doctor --quick || true")
            assert (
                "no data of imagewell" in said and f"127.0.0.1:{self.postgres.port}/images" in said
            ), said
            assert not glob.glob(f"{machine.root}/etc/imagewell/imagewell-data")

    def accounts_are_made(self):
        assert "till01" in self.said[self.one.name], self.said
        again = self.one.run("imagewell-admin provision /etc/imagewell/accounts.toml")
        assert again == "nothing to change\n", again

    def nodes_are_started(self):
        for machine in self.machines:
            assert "ready" in self.said[machine.name].splitlines(), self.said
        self.all_serve()

    def role_serves(self):
        """A node beside the three."""
        port, data = free_port(), f"{self.folder}/other"
        environment = {
            **self.database,
            "IMAGEWELL_LISTEN": f"127.0.0.1:{port}",
            "IMAGEWELL_DATA_DIR": data,
            "IMAGEWELL_DATABASE_URL": f"postgres://imagewell@127.0.0.1:{self.postgres.port}/images",
            "IMAGEWELL_STORAGE_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        command = [
            f"{self.one.root}/usr/local/bin/imagewell",
            "serve",
            "--config",
            f"{self.one.root}/etc/imagewell/imagewell.toml",
        ]
        with open(f"{self.folder}/other.log", "w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            other = Served("other", port)
            wait_until(lambda: is_ready(other), "starting a node as the role that owns nothing", 30)
            self.upload(other)
            other.serves(self.images)
        finally:
            process.terminate()
            process.wait()

    def bucket_has_rule(self):
        rules = self.s3().get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
        days = [rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in rules]
        assert days == [1], rules

    def s3(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="garage",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def bring_new_program(self):
        for machine in self.machines:
            with open(f"{machine.home}/imagewell", "ab") as file:
                file.write(NEW.encode())

    def program_of(self, machine):
        """The end of the file that runs."""
        with open(f"/proc/{machine.pid()}/exe", "rb") as file:
            file.seek(-len(NEW), os.SEEK_END)
            return file.read()

    def is_upgraded(self):
        for machine in self.machines:
            assert self.program_of(machine) == NEW.encode(), f"{machine.name} runs another program"
        self.all_serve()
        done = self.sql("images", NEWER_SCHEMA)
        assert done.returncode == 0, done.stderr
        assert all(WORKS_WITH_NEWER not in machine.log() for machine in self.machines)

    def is_back(self):
        for machine in self.machines:
            assert self.program_of(machine) != NEW.encode(), f"{machine.name} runs another program"
            assert WORKS_WITH_NEWER in machine.log(), machine.log()[-2000:]
        self.all_serve()
        # The rest of the story has one program.
        done = self.sql("images", OWN_SCHEMA)
        assert done.returncode == 0, done.stderr

    def bring_certificate(self):
        for machine in self.machines:
            subject = [
                "-subj",
                "/CN=127.0.0.1",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-days",
                "90",
            ]
            files = [
                "-keyout",
                f"{machine.home}/privkey.pem",
                "-out",
                f"{machine.home}/fullchain.pem",
            ]
            subprocess.run(
                [
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-noenc",
                    *subject,
                    *files,
                ],
                check=True,
                capture_output=True,
            )
            # While it is renewed, clients trust both.
            with (
                open(machine.trusted, "a") as trusted,
                open(f"{machine.home}/fullchain.pem") as file,
            ):
                trusted.write(file.read())

    def shows_certificate(self, machine):
        with open(f"{machine.home}/fullchain.pem") as file:
            return (
                ssl.get_server_certificate(("127.0.0.1", machine.port)).strip()
                == file.read().strip()
            )

    def speaks_tls(self):
        for machine in self.machines:
            assert self.shows_certificate(machine)
            machine.certificate = machine.trusted
        self.all_serve()

    def is_renewed(self):
        for machine in self.machines:
            wait_until(
                lambda machine=machine: self.shows_certificate(machine),
                "taking up the certificate",
                5,
            )
        self.all_serve()

    def doctor_has_looked(self):
        for area in ("settings", "tls", "database", "store", "identity", "inventory"):
            assert re.search(rf"(?m)^(ok|warn) +{area}: ", self.said[self.one.name]), self.said[
                self.one.name
            ]

    def stop_all(self):
        for machine in self.machines:
            machine.run("systemctl stop imagewell")

    def is_adopted(self):
        assert "Adopted" in self.said[self.one.name], self.said
        for machine in self.machines:
            machine.run("systemctl start imagewell")
        for machine in self.machines:
            wait_until(lambda machine=machine: is_ready(machine), "starting", 20)
        self.all_serve()

    def disk_is_mounted(self):
        assert os.path.ismount(f"{self.one.root}/var/lib/private/imagewell-backup")

    def is_backed_up(self):
        self.backed_up = dict(self.images)
        assert f"The backup is whole: {len(self.images)} blobs" in self.said[self.one.name], (
            self.said
        )
        folders = os.listdir(f"{self.one.root}/var/lib/imagewell-backup/snapshots")
        assert len(folders) == 1, folders
        self.later = self.upload(self.one)

    def nothing_runs(self):
        assert [machine.pid() for machine in self.machines] == [None] * 3

    def lose_database(self):
        done = self.sql("postgres", "DROP DATABASE images")
        assert done.returncode == 0, done.stderr

    def database_is_empty(self, name="images"):
        assert (
            self.sql(name, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").stdout
            == "0\n"
        )

    def second_database_is_empty(self):
        self.database_is_empty("images2")

    def is_restored(self):
        assert (
            "Restored the snapshot" in self.said[self.one.name]
            and "Copied 0 blobs" in self.said[self.one.name]
        ), self.said

    def backup_is_served(self):
        for machine in self.machines:
            machine.serves(self.backed_up)
            assert machine.ask(f"{FILES}/{self.later}")[0] == 404
        self.images = self.backed_up
        self.all_serve()

    def sweeps_go_on(self):
        self.one.run("imagewell-admin sweep")
        self.all_serve()

    def backups_go_on(self):
        folders = os.listdir(f"{self.one.root}/var/lib/imagewell-backup/snapshots")
        assert len(folders) == 3, folders

    def one_is_left(self):
        assert [machine.pid() is None for machine in self.machines] == [False, True, True]
        self.all_serve([self.one])

    def is_moved(self):
        assert MOVED in self.said[self.one.name], self.said
        assert "1 services were running, and have gone on" in self.said[self.one.name], self.said
        self.all_serve([self.one])

    def serves_from_folder(self):
        self.all_serve([self.one])
        blobs = glob.glob(f"{self.one.root}/var/lib/imagewell/blobs/**/*.png", recursive=True)
        assert len(blobs) == len(self.images), (len(blobs), len(self.images))

    def three_serve_again(self):
        self.all_serve()
        listed = self.s3().list_objects_v2(Bucket=OTHER_BUCKET)["Contents"]
        assert len([entry for entry in listed if entry["Key"].endswith(".png")]) == len(self.images)
