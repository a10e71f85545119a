"""Follows docs/operating.md word for word: every command of the document is run as it is written
there, in its order, on three machines, a PostgreSQL server and an S3 store. What the sentence
under a command says is then checked.

A machine is a folder. Names of hosts, ports, folders and keys are replaced by `Machine.names`,
and systemd by `stand_in.py`, which follows the shipped units. An older program is not at hand: an
upgrade installs another copy of the same program, and a row of the schema's history makes the
database newer than the program that one goes back to."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time

from document import blocks_of
from machine import HERE  # which adds tests/cluster to the path
from parts import BUCKET, end
from story import Story


@contextlib.contextmanager
def asked_all_the_time(machines, images):
    """Meanwhile these machines serve without a failure."""
    ended, faults = threading.Event(), []

    def ask():
        while not ended.wait(0.05):
            for machine in machines:
                try:
                    machine.serves(images)
                except (OSError, AssertionError) as error:
                    faults.append(f"{machine.name}: {error}")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not faults, faults[:3]


# While these run, their machine serves as always.
UNNOTICED = ("systemctl reload", "imagewell-admin migrate")
# Each block of the document: how the paragraph before it begins, how the one after it does, what it
# needs first, and its check.
STEPS = [
    ("On the PostgreSQL server", "The owner can connect", None, Story.database_is_made),
    ("All nodes have the same settings", "On each machine, in a folder", None, None),
    (
        "On each machine, in a folder",
        "From now on `imagewell-admin COMMAND`",
        None,
        Story.program_is_installed,
    ),
    ("On one machine, make orgs", "It prints what it has made", None, Story.accounts_are_made),
    ("On each machine, start the service", "It prints `ready`", None, Story.nodes_are_started),
    ("**The role** of the service", "A node that connects as `imagewell`", None, Story.role_serves),
    ("**Of the S3 protocol**", "The bucket gives it back", None, Story.bucket_has_rule),
    (
        "On one machine after the other",
        "The other machines serve meanwhile",
        Story.bring_new_program,
        Story.is_upgraded,
    ),
    ("On one machine after the other", "The older program works with", None, Story.is_back),
    (
        "On each machine, with the certificate",
        "It answers `https://`",
        Story.bring_certificate,
        Story.speaks_tls,
    ),
    (
        "On each machine, to renew it",
        "New connections get the new",
        Story.bring_certificate,
        Story.is_renewed,
    ),
    ("On any machine", "It looks at everything", None, Story.doctor_has_looked),
    (
        "On one machine, while no service runs",
        "It counts rows, blobs",
        Story.stop_all,
        Story.is_adopted,
    ),
    (
        "On one machine that has another disk",
        "The disk is mounted",
        None,
        Story.disk_is_mounted,
    ),
    (
        "On that machine, while the service runs",
        "The first backup is made at once",
        None,
        Story.is_backed_up,
    ),
    ("On each machine, stop", "No service runs", None, Story.nothing_runs),
    (
        "On the PostgreSQL server, make the database anew",
        "It is empty",
        Story.lose_database,
        Story.database_is_empty,
    ),
    ("On the machine that has the backup", "It says what it has restored", None, Story.is_restored),
    ("On each machine, start again", "Every image of the backup", None, Story.backup_is_served),
    ("On one machine, say that", "It exits with 0", None, Story.sweeps_go_on),
    ("On the machine that has the backup, say", "From now on the", None, Story.backups_go_on),
    ("On all machines but one", "The one that is left", None, Story.one_is_left),
    ("On that machine", 'It ends with "every row', None, Story.is_moved),
    (
        "On that machine, put",
        "It serves everything from the folder",
        None,
        Story.serves_from_folder,
    ),
    (
        "On the PostgreSQL server, make an empty database",
        "It is empty",
        None,
        Story.second_database_is_empty,
    ),
    ("On that machine", "It ends with the same words", None, Story.is_moved),
    ("On each machine, put", "Three nodes serve everything", None, Story.three_serve_again),
]


def run_block(story, block):
    """Runs it where the sentence before it says."""
    if block.language == "ini":
        for machine in story.machines:
            machine.write("secrets.env", machine.replaced(block.text))
    elif block.language == "sql":
        done = story.sql("images", block.text)
        assert done.returncode == 0, done.stderr
    elif block.language == "json":
        story.s3().put_bucket_lifecycle_configuration(
            Bucket=BUCKET, LifecycleConfiguration=json.loads(block.text)
        )
    elif block.before.startswith("On one machine after the other"):
        run_one_after_the_other(story, block)
    else:
        machines = machines_of(story, block.before)
        served = machines if any(word in block.text for word in UNNOTICED) else []
        with asked_all_the_time(served, dict(story.images)):
            story.said = {machine.name: machine.run(block.text) for machine in machines}


def machines_of(story, sentence):
    if sentence.startswith("On each machine"):
        return story.machines
    if sentence.startswith("On all machines but one"):
        return story.machines[1:]
    return [story.one]


def run_one_after_the_other(story, block):
    for machine in story.machines:
        others = [other for other in story.machines if other is not machine]
        with asked_all_the_time(others, dict(story.images)):
            machine.run(block.text)


def follow(document, story):
    blocks = blocks_of(document)
    assert len(blocks) == len(STEPS), (
        f"the document has {len(blocks)} blocks, and {len(STEPS)} are known here"
    )
    for block, (before, after, prepare, check) in zip(blocks, STEPS, strict=True):
        where = f"docs/operating.md:{block.line}"
        assert block.language in ("sh", "ini", "sql", "json"), f"{where}: what is {block.language}?"
        assert block.before.startswith(before), f"{where}: {block.before!r} is not {before!r}"
        assert block.after.startswith(after), f"{where}: {block.after!r} is not {after!r}"
        begun = time.monotonic()
        if prepare:
            prepare(story)
        run_block(story, block)
        if check:
            check(story)
        print(
            f"{where}: {block.after.split('. ')[0]}  ({time.monotonic() - begun:.1f} s)", flush=True
        )
    print(
        f"{len(blocks)} blocks of commands were followed; each did what the sentence under it says."
    )


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--program", required=True)
    options.add_argument(
        "--unshared", action="store_true", help="what is mounted is gone at the end"
    )
    arguments = options.parse_args()
    if not arguments.unshared:
        command = ["unshare", "--mount", sys.executable, *sys.argv, "--unshared"]
        os.execvp(command[0], command)
    with open(os.path.join(HERE, "../../docs/operating.md")) as file:
        document = file.read()
    children = []
    with tempfile.TemporaryDirectory(
        prefix="imagewell-operating-", ignore_cleanup_errors=True
    ) as folder:
        story = None
        try:
            story = Story(folder, os.path.abspath(arguments.program), children)
            follow(document, story)
        except BaseException:
            for machine in story.machines if story else []:
                print(f"== {machine.name}\n{machine.log()[-1500:]}", file=sys.stderr)
            raise
        finally:
            if story:
                story.stop_all()
            end(reversed(children))


if __name__ == "__main__":
    main()
