"""A disk that remembers every write and flush, and the states it could be in had the power failed at any of them.

qemu-storage-daemon's blklogwrites filter records what ext4 sends down; its log format is that of Linux' dm-log-writes."""

import os
import random
import shutil
import struct
import subprocess
import time

SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class RecordingDisk:
    """A fresh ext4 file system, mounted at `mount`, whose every write is logged."""

    def __init__(self, folder, mebibytes):
        self.folder = folder
        self.mount = f"{folder}/mount"
        self.log = f"{folder}/log.raw"
        os.makedirs(self.mount)
        for name, size in (("disk.raw", mebibytes), ("log.raw", mebibytes * 8)):
            with open(f"{folder}/{name}", "wb") as file:
                file.truncate(size << 20)
        run("mkfs.ext4", "-q", "-F", f"{folder}/disk.raw")
        shutil.copyfile(f"{folder}/disk.raw", f"{folder}/base.raw")

    def __enter__(self):
        folder = self.folder
        export = f"{folder}/export"
        open(export, "w").close()
        self.daemon = subprocess.Popen([
            "qemu-storage-daemon",
            "--blockdev", f"file,node-name=disk-file,filename={folder}/disk.raw", "--blockdev", "raw,node-name=disk,file=disk-file",
            "--blockdev", f"file,node-name=log-file,filename={self.log}", "--blockdev", "raw,node-name=log,file=log-file",
            "--blockdev", "blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512,log-super-update-interval=1",
            "--export", f"fuse,id=export,node-name=logged,mountpoint={export},writable=on",
        ])
        deadline = time.time() + 20
        while os.stat(export).st_size == 0:
            if time.time() > deadline:
                raise SystemExit("qemu-storage-daemon exports nothing: is /dev/fuse there?")
            time.sleep(0.02)
        self.loop = subprocess.check_output(["losetup", "-f", "--show", export], text=True).strip()
        run("mount", self.loop, self.mount)
        return self

    def position(self):
        """How many entries the log has now."""
        with open(self.log, "rb") as file:
            return struct.unpack("<QQQI", file.read(28))[2]

    def __exit__(self, *_):
        self.end = self.position()
        run("umount", self.mount)
        run("losetup", "-d", self.loop)
        self.daemon.terminate()
        self.daemon.wait()

    def entries(self):
        """The recorded writes: sector, number of sectors, flags, bytes (None for a discard)."""
        with open(self.log, "rb") as file:
            count, sector_size = struct.unpack("<QQQI", file.read(28))[2:]
            offset = sector_size
            for _ in range(min(count, self.end)):
                file.seek(offset)
                sector, sectors, flags, _ = struct.unpack("<QQQQ", file.read(32))
                offset += sector_size
                if flags & DISCARD:
                    yield sector, sectors, flags, None
                    continue
                file.seek(offset)
                yield sector, sectors, flags, file.read(sectors * sector_size)
                offset += sectors * sector_size

    def states(self, mode, seed=1):
        """Every disk that a power cut could have left, with the log position up to which acknowledgements are due.

        `prefix`: writes reach the medium in order and the cut comes between two. `subset`: the medium has a volatile cache, so
        that of the writes since the last flush any subset may have landed."""
        chance = random.Random(seed)
        image = bytearray(open(f"{self.folder}/base.raw", "rb").read())
        pending = []
        for position, entry in enumerate(self.entries(), 1):
            if mode == "prefix":
                apply(image, entry)
                yield position, image
                continue
            if entry[2] & FLUSH:
                for write in pending:
                    apply(image, write)
                pending = []
            if entry[1]:
                if entry[2] & FUA:
                    apply(image, entry)
                else:
                    pending.append(entry)
            state = bytearray(image)
            for write in pending:
                if chance.random() < 0.5:
                    apply(state, write)
            yield position, state


def apply(image, entry):
    sector, sectors, _, data = entry
    start = sector * SECTOR
    image[start:start + sectors * SECTOR] = bytes(sectors * SECTOR) if data is None else data


class MountedState:
    """A rebuilt disk, mounted, its journal replayed."""

    def __init__(self, folder, image):
        self.mount = f"{folder}/state"
        self.file = f"{folder}/state.img"
        os.makedirs(self.mount, exist_ok=True)
        with open(self.file, "wb") as file:
            file.write(image)

    def __enter__(self):
        run("mount", "-o", "loop", self.file, self.mount)
        return self.mount

    def __exit__(self, *_):
        run("umount", self.mount)
