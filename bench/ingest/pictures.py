"""JPEGs of wanted sizes, all valid and all different."""

import os
import struct
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SIZES = {"4 KB": 4_000, "50 KB": 50_000, "500 KB": 500_000, "5 MB": 5_000_000}
# Where the digits stand that make each one different: behind SOI, the marker, its length and a tag.
DIGITS_AT = 2 + 4 + 4


def comment(text):
    """A COM segment (ITU-T T.81, B.2.4.5)."""
    return b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text


def filling(count):
    """Comments of `count` bytes in all. One takes at least 4 bytes and at most 65,537."""
    made = []
    while count > 65_537:
        take = min(65_537, count - 4)
        made.append(comment(bytes(take - 4)))
        count -= take
    return b"".join([*made, comment(bytes(count - 4))])


IDENTITY = comment(b"id: " + b"0" * 16)


def padded(jpeg, size):
    """The same picture, exactly as long."""
    return jpeg[:2] + IDENTITY + filling(size - len(IDENTITY) - len(jpeg)) + jpeg[2:]


def photograph(folder, bytes_max):
    """The largest rendering of a photograph that fits."""
    side, path = 6000.0, f"{folder}/photograph.jpg"
    while True:
        command = ["vipsthumbnail", f"{ROOT}/testdata/photos/hubble_deep_field.jpg", "--size", f"{side:.0f}x{side:.0f}",
                   "-o", f"{path}[Q=88,strip]"]
        subprocess.run(command, check=True)
        if os.path.getsize(path) <= bytes_max:
            with open(path, "rb") as file:
                return file.read()
        side *= 0.95


def pictures(folder):
    """One of each size, exactly as long as it says. The digits stand in its first comment; what is missing is filled with more."""
    made = {}
    for name, size in SIZES.items():
        made[name] = padded(photograph(folder, size - len(IDENTITY) - 4), size)
    return made
