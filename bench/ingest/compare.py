"""The comparisons: each system in turn, several rounds, in one run."""

import contextlib
import os
import shutil
import statistics
import subprocess
import time

from . import systems, wrk
from .pictures import filling

# What systems have left behind. ext4 takes no inode again that was freed a minute ago (fs/ext4/ialloc.c, recently_deleted) and looks
# at every one of them whenever it makes a file, so nothing is removed before the end; only the space is given back.
graveyard = []


class Options:
    """How long, how often, and whom."""

    def __init__(self, seconds, rounds, with_pict_rs, steps):
        self.seconds, self.rounds, self.with_pict_rs, self.steps = seconds, rounds, with_pict_rs, steps
        self.facts = {}

    def peers(self, *named):
        return list(named) + ([systems.PictRs] if self.with_pict_rs else [])


def row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(header, rows):
    return "\n".join([row(header), row(["---"] * len(header)), *map(row, rows)]) + "\n"


def number(value):
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def medians(results):
    return wrk.Result(*(statistics.median(values) for values in zip(*((r.per_second, r.p50_ms, r.p99_ms) for r in results))))


@contextlib.contextmanager
def running(system, settings=None):
    """A system for one measurement, on a folder of its own."""
    instance = system(settings)
    try:
        yield instance
    finally:
        instance.stop()
        graveyard.append(instance.folder)
        for folder, _, names in os.walk(instance.folder):
            for name in names:
                os.truncate(f"{folder}/{name}", 0)
        # What one wrote must not be written back during the turn of the next.
        os.sync()


def bury():
    for folder in graveyard:
        shutil.rmtree(folder, ignore_errors=True)
    graveyard.clear()


def interleaved(named, rounds, measure):
    """`measure(system)` of each in turn; the medians of all rounds by name."""
    results = {name: [] for name in named}
    for _ in range(rounds):
        for name, system in named.items():
            results[name].append(measure(system))
    return {name: medians(found) for name, found in results.items()}


def rows_of(label, found, durable):
    """One row a system, with how much of it imagewell reaches."""
    ours = found["imagewell"].per_second
    return [[*label, name, durable[name], number(result.per_second), f"{result.p50_ms:.1f}", f"{result.p99_ms:.1f}",
             f"{ours / result.per_second:.2f}" if result.per_second else "–"] for name, result in found.items()]


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


def by_name(*kinds):
    return {kind.name: kind for kind in kinds}, {kind.name: kind.durable for kind in kinds}


def uploads(options, pictures):
    rows = []
    for size, picture in pictures.items():
        for connections in (1, 16, 64):
            kinds = [systems.Imagewell, systems.ImagewellRaw, systems.SyncedFiles, systems.Nginx, systems.Express]
            # One size is enough of what takes half a second each.
            named, durable = by_name(*(options.peers(*kinds) if size == "50 KB" else kinds))

            def measure(system):
                with running(system) as it:
                    if system is systems.SyncedFiles:
                        return it.write_files(picture, connections, options.seconds)
                    load = it.uploads(picture)
                    wrk.run(it.address, load, connections, 1)
                    return wrk.run(it.address, load, connections, max(options.seconds, it.seconds_min))

            found = interleaved(named, options.rounds, measure)
            rows += rows_of([size, connections], found, durable)
            options.facts[f"upload {size} {connections}"] = found
            say(f"uploads of {size} over {connections}: " + ", ".join(f"{n} {number(r.per_second)}" for n, r in found.items()))
    return table(["size", "connections", "system", "durable at the answer", "uploads/s", "p50, ms", "p99, ms", "imagewell ÷ it"], rows)


def reads(options, pictures):
    rows = []
    for size, count in (("50 KB", 1), ("500 KB", 1), ("50 KB", 4000), ("500 KB", 400)):
        for audience in ("private", "public"):
            kinds = [systems.Imagewell, systems.Nginx, systems.NginxSendfile, systems.Express]
            named, _ = by_name(*(options.peers(*kinds) if count == 1 and audience == "private" else kinds))

            def measure(system):
                with running(system) as it:
                    public = audience == "public" and system is systems.Imagewell
                    load = [wrk.Listed((it.public_reads if public else it.reads)(pictures[size], count))]
                    wrk.run(it.address, load, 32, 1)
                    return wrk.run(it.address, load, 32, options.seconds)

            found = interleaved(named, options.rounds, measure)
            options.facts[f"read {size} {count} {audience}"] = found
            temperature = "hot" if count == 1 else f"cold: {count:,} in turn"
            # Only ours checks rights: the others serve both alike.
            label = [size, temperature, audience]
            rows += [[*cells[:4], *cells[5:]] for cells in rows_of(label, found, {name: "" for name in named})]
            say(f"reads of {size}, {temperature}, {audience}: " + ", ".join(f"{n} {number(r.per_second)}" for n, r in found.items()))
    return table(["size", "images", "imagewell serves it as", "system", "reads/s", "p50, ms", "p99, ms", "imagewell ÷ it"], rows)


def variants(options, pictures):
    rows = []
    named, _ = by_name(systems.Imagewell, systems.Express)
    for temperature in ("cold", "hot"):
        def measure(system):
            with running(system) as it:
                # More than either makes in the time, so that each is asked for once.
                heads = it.variants(pictures["500 KB"], 1000 if temperature == "cold" else 20, 256)
                if temperature == "hot":
                    wrk.run(it.address, [wrk.Listed(heads)], 16, 2)
                    return wrk.run(it.address, [wrk.Listed(heads)], 16, options.seconds)
                return wrk.run(it.address, [wrk.Listed(heads)], 16, 2)
        found = interleaved(named, options.rounds, measure)
        rows += [[*cells[:2], *cells[3:]] for cells in rows_of([temperature], found, {name: "" for name in named})]
        say(f"variants, {temperature}: " + ", ".join(f"{n} {number(r.per_second)}" for n, r in found.items()))
    return table(["256 px of 500 KB", "system", "renderings/s", "p50, ms", "p99, ms", "imagewell ÷ it"], rows)


def mixed(options, pictures):
    named, durable = by_name(systems.Imagewell, systems.Nginx, systems.Express)

    def measure(system):
        with running(system) as it:
            load = [wrk.Listed(it.reads(pictures["50 KB"], 500), weight=9), *it.uploads(pictures["50 KB"])]
            wrk.run(it.address, load, 32, 1)
            return wrk.run(it.address, load, 32, options.seconds)

    found = interleaved(named, options.rounds, measure)
    say("mixed: " + ", ".join(f"{n} {number(r.per_second)}" for n, r in found.items()))
    return table(["system", "durable at the answer", "requests/s", "p50, ms", "p99, ms", "imagewell ÷ it"], rows_of([], found, durable))


def memory(options, pictures):
    """Growth while bodies of 100 MB come in: the high-water mark of the kernel less what was resident before."""
    kinds = options.peers(systems.Imagewell, systems.ImagewellRaw, systems.Nginx, systems.Express)
    rows = []
    picture = pictures["5 MB"]
    large = picture[:2] + filling(100_000_000 - len(picture)) + picture[2:]
    limits = {"IMAGEWELL_OPSPORTAL_UPLOAD_BYTES_MAX": "110000000", "IMAGEWELL_FILE_SERVICE_UPLOAD_BYTES_MAX": "110000000"}
    for system in kinds:
        with running(system, settings=limits) as it:
            it.store_one(pictures["50 KB"], 0)
            for count in (1, 16):
                before = it.memory_mib()
                if system is systems.PictRs and count > 1:
                    # It takes minutes over them, for which its callers don't wait.
                    continue
                peak = it.high_water_while(lambda: systems.at_once(lambda turn: it.store_one(large, count + turn), count))
                options.facts[f"memory {count} {system.name}"] = peak - before
                rows.append([f"{count} × 100 MB", system.name, f"{before:.1f}", f"{peak:.1f}", f"{peak - before:.1f}"])
                say(f"memory, {count} × 100 MB, {system.name}: {before:.1f} + {peak - before:.1f} MiB")
    return table(["uploads at once", "system", "resident before, MiB", "at most, MiB", "growth, MiB"], rows)


def start(options, _pictures):
    """From the start of the process on an empty folder until the first connection is answered."""
    kinds = options.peers(systems.ImagewellEmpty, systems.Nginx, systems.Express)
    rows = []
    for system in kinds:
        times, sizes = [], []
        for _ in range(5):
            with running(system) as it:
                times.append(it.started_after)
                sizes.append(it.memory_at_start)
        rows.append([system.name, f"{statistics.median(times):.3f}", f"{statistics.median(sizes):.1f}"])
        options.facts[f"start {system.name}"] = statistics.median(times), statistics.median(sizes)
        say(f"start of {system.name}: {statistics.median(times):.3f} s, {statistics.median(sizes):.1f} MiB")
    return table(["system", "seconds until it answers", "MiB resident then, all processes"], rows)


def syncs(options, pictures):
    """System calls that make data durable, counted by strace while 20 uploads come one after the other."""
    kinds = options.peers(systems.Imagewell, systems.ImagewellRaw, systems.Nginx, systems.Express)
    rows = []
    for system in kinds:
        with running(system) as it:
            it.store_one(pictures["50 KB"], 0)
            report = f"{it.folder}/syncs"
            tracer = subprocess.Popen(["strace", "-f", "-q", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range,msync", "-o", report,
                                       *(part for pid in it.processes() for part in ("-p", str(pid)))], stderr=subprocess.DEVNULL)
            time.sleep(1)
            for turn in range(1, 21):
                it.store_one(pictures["50 KB"], turn)
            tracer.terminate()
            tracer.wait()
            with open(report) as file:
                calls = sum("sync" in line and "resumed" not in line for line in file)
            rows.append([system.name, system.durable, f"{calls / 20:.1f}"])
            say(f"syncs of {system.name}: {calls / 20:.1f} per upload")
    return table(["system", "durable at the answer", "syncs per upload"], rows)
