"""What was measured, in docs/performance.md: the text around the tables is written by hand, the tables are not."""

import re

from .compare import table
from .pictures import ROOT

DOCUMENT = f"{ROOT}/docs/performance.md"


def write(name, text):
    """Puts a table between its marks."""
    with open(DOCUMENT) as file:
        document = file.read()
    marks = re.compile(rf"(<!-- bench/run {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(document):
        raise SystemExit(f"{DOCUMENT} has no place for {name}")
    with open(DOCUMENT, "w") as file:
        file.write(marks.sub(lambda found: found[1] + text + found[2], document))


def ratio(found, peer):
    return found["imagewell"].per_second / found[peer].per_second


def targets(facts):
    """Each target with what came out, as far as it was measured in this run."""
    rows = []

    def add(work, measured, bound, at_least=True):
        met = measured >= bound if at_least else measured <= bound
        rows.append([work, f"{'≥' if at_least else '≤'} {bound}", f"{measured:.2f}", "yes" if met else "no"])

    for size, bound in (("50 KB", 0.9), ("500 KB", 1.1)):
        if found := facts.get(f"read {size} 1 private"):
            for peer in ("nginx", "nginx, sendfile"):
                add(f"private reads of {size}, of {peer}'s", ratio(found, peer), bound)
    for size, bound in (("50 KB", 1.5), ("500 KB", 1.3)):
        if found := facts.get(f"upload {size} 16"):
            add(f"durable form uploads of {size} over 16 connections, of Express's", ratio(found, "Express, multer, sharp"), bound)
            add("the same, of nginx's PUT", ratio(found, "nginx"), 0.6)
    if "memory 1 imagewell" in facts:
        add("MiB more during an upload of 100 MB", facts["memory 1 imagewell"], 8, at_least=False)
    if grown := facts.get("growth"):
        first, last = grown[min(grown)], grown[max(grown)]
        for name in ("reads, records in memory", "uploads, one org", "uploads, 64 orgs"):
            add(f"{name}, with {max(grown):,} images, of those with {min(grown):,}", last[name] / first[name], 0.9)
    if started := facts.get("start imagewell"):
        add("seconds until ready on an empty folder", started[0], 0.5, at_least=False)
        add("MiB resident then", started[1], 30, at_least=False)
    return table(["what", "target", "measured", "met"], rows)
