"""The same reads and uploads with ever more images in the database: rows are made by SQL from one that imagewell has written itself."""

import hashlib
import os
import sqlite3
import statistics

from . import systems, wrk
from .compare import number, running, say, table

STEPS = (10_000, 1_000_000, 10_000_000)
# Images that are read, spread evenly; the others are rows alone.
READ = 10_000
ORGS = 64


class Grown(systems.Imagewell):
    """With so many images of 64 orgs."""
    orgs = ORGS
    images = STEPS[0]
    picture = b""

    def sign_in(self):
        super().sign_in()
        if os.path.exists(f"{self.folder}/grown"):
            return
        self.store_one(self.picture, 0)
        self.process.terminate()
        self.process.wait()
        self.read = self.grow()
        with open(f"{self.folder}/grown", "w"):
            pass
        self.start()

    def grow(self):
        """Fills the tables; returns what reads the images that have bytes."""
        database = sqlite3.connect(f"{self.folder}/data/imagewell.db", isolation_level=None)
        for pragma in ("journal_mode = DELETE", "synchronous = OFF", "cache_size = -2000000", "temp_store = MEMORY"):
            database.execute(f"PRAGMA {pragma}")
        # Indexes are sorted once at the end instead of being searched for each row.
        indexes = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL "
                                   "AND tbl_name IN ('images', 'versions')").fetchall()
        for name, _ in indexes:
            database.execute(f"DROP INDEX {name}")
        database.execute("CREATE TEMP TABLE owners AS SELECT org_id AS org, MIN(id) AS id FROM accounts WHERE kind = 'user' GROUP BY org_id")
        # A UUID of version 7 for each: in order of time, as they come; 16 random digits for what must differ.
        database.execute(f"""CREATE TEMP TABLE made AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {self.images})
            SELECT n, 1 + n % {ORGS} AS org, printf('%08x-%04x-7000-8000-%012x', 30000000 + n / 65536, n % 65536, random() & 281474976710655) AS id,
            printf('%08x-%04x-7000-8000-%012x', 30000000 + n / 65536, n % 65536, random() & 281474976710655) AS blob FROM n""")
        every = max(1, self.images // READ)
        digest = hashlib.sha256(self.picture_of(0)).hexdigest()
        self.copy(database, "images", {"id": "m.id", "org_id": "m.org", "owner_id": "o.id", "created_us": "t.created_us + m.n"})
        self.copy(database, "versions", {
            "image_id": "m.id", "created_by": "o.id", "created_us": "t.created_us + m.n", "looked_us": "1",
            "blob_key": "'opsportal-images/' || m.org || '/' || m.blob || '.jpg'",
            "digest": f"CASE WHEN m.n % {every} = 0 THEN '{digest}' ELSE lower(hex(randomblob(32))) END"})
        for _, sql in indexes:
            database.execute(sql)
        read = database.execute(f"SELECT id, org, blob FROM made WHERE n % {every} = 0 LIMIT {READ}").fetchall()
        database.execute("PRAGMA journal_mode = WAL")
        database.close()
        # What was filled must not be written back while it is measured.
        os.sync()
        return [self.with_bytes(*row) for row in read]

    @staticmethod
    def copy(database, name, differing):
        """As many rows as were made, each like the one that is there but for these columns."""
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
        values = ", ".join(differing.get(column, f"t.{column}") for column in columns)
        database.execute(f"INSERT INTO {name} SELECT {values} FROM made m CROSS JOIN (SELECT * FROM {name} LIMIT 1) t "
                         "JOIN owners o ON o.org = m.org ORDER BY m.n")

    def picture_of(self, turn):
        return systems.distinct_head(self.picture, turn) + self.picture[systems.DIGITS_AT + 16:]

    def with_bytes(self, image, org, blob):
        """Its bytes."""
        folder = f"{self.folder}/data/blobs/opsportal-images/{org}"
        os.makedirs(folder, exist_ok=True)
        path = f"{folder}/{blob}.jpg"
        with open(path, "wb") as file:
            file.write(self.picture_of(0))
        cookie, _ = self.members[org - 1]
        return wrk.head("GET", f"/opsportal/image/a/{image}", cookie)

    def restarted(self, settings):
        """The same data, other settings."""
        self.process.terminate()
        self.process.wait()
        self.settings = settings
        self.start()


def measure(images, pictures, seconds, rounds):
    Grown.images, Grown.picture = images, pictures["4 KB"]
    with running(Grown) as it:
        size = os.path.getsize(f"{it.folder}/data/imagewell.db")
        found = {}

        def take(name, load, connections):
            wrk.run(it.address, load, connections, 2)
            results = [wrk.run(it.address, load, connections, seconds).per_second for _ in range(rounds)]
            found[name] = statistics.median(results)

        reads = [wrk.Listed(it.read)]
        take("reads, records in memory", reads, 32)
        take("uploads, one org", [it.uploads(pictures["50 KB"])[0]], 16)
        take("uploads, 64 orgs", it.uploads(pictures["50 KB"]), 64)
        it.restarted({"IMAGEWELL_CACHE_IMAGES_MAX": "16"})
        take("reads, each from the database", reads, 32)
        found["memory, MiB"] = it.memory_mib()
        say(f"{images:,} images: database {size / 1e6:,.0f} MB, " + ", ".join(f"{name} {number(value)}" for name, value in found.items()))
        return size, found


def growth(options, pictures):
    steps = {images: measure(images, pictures, options.seconds, options.rounds) for images in options.steps}
    options.facts["growth"] = {images: found for images, (_, found) in steps.items()}
    first = next(iter(steps.values()))[1]
    header = ["measured with images of 64 orgs"] + [f"{images:,} images" for images in steps]
    rows = [["database, MB"] + [f"{size / 1e6:,.0f}" for size, _ in steps.values()]]
    for name in first:
        rows.append([name] + [f"{number(found[name])} ({found[name] / first[name]:.2f})" for _, found in steps.values()])
    return table(header, rows)
