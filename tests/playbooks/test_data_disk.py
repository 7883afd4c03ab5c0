"""Which disk is a machine's data disk, by what lsblk, blkid and wipefs say of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kivactl import root

PROGRAM = root.content("playbooks") / "roles/kiva_storage/files/data_disk.py"
GIB = 2**30


def disk(name: str, size_gib: float, **differs) -> dict:
    """A disk as lsblk shows it."""
    return {"name": f"/dev/{name}", "type": "disk", "size": int(size_gib * GIB), "ro": False, "mountpoint": None, **differs}


ROOT = disk("nvme0n1", 50, children=[{"name": "/dev/nvme0n1p1", "type": "part", "size": 50 * GIB, "ro": False, "mountpoint": "/"}])


@pytest.fixture
def found(tmp_path):
    """What is found of 500 GiB on a machine with such disks, of which some bear a signature, and one perhaps the label."""

    def of(*disks: dict, signed: tuple[str, ...] = (), broken: str = "none", labelled: str = "") -> dict:
        listed = json.dumps({"blockdevices": [*disks, {**disk("sr0", 1), "type": "rom"}, disk("zram0", 500)]})
        signs = " ".join(f"/dev/{name}) echo ext4;;" for name in signed)
        programs = {
            "lsblk": f"cat <<'END'\n{listed}\nEND",
            "blkid": f"echo {labelled}" if labelled else "exit 2",
            "wipefs": f"case $2 in {signs} /dev/{broken}) exit 1;; *) ;; esac",
        }
        for name, script in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-I", PROGRAM, str(500 * GIB)], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return of


def test_the_blank_disk_of_that_size_is(found):
    assert found(ROOT, disk("nvme1n1", 500)) == {"device": "/dev/nvme1n1", "made": False}
    assert found(ROOT, disk("sdb", 465.8), disk("sdc", 2000))["device"] == "/dev/sdb", "500 of the maker's gigabytes"


def test_the_one_with_the_label_is_whatever_else_there_is(found):
    assert found(ROOT, disk("sdb", 500), labelled="/dev/sdc") == {"device": "/dev/sdc", "made": True}


@pytest.mark.parametrize(
    "used",
    [
        disk("sdb", 500, mountpoint="/data"),
        disk("sdb", 500, ro=True),
        disk("sdb", 500, children=[{"name": "/dev/sdb1", "type": "part", "size": GIB, "ro": False, "mountpoint": None}]),
    ],
)
def test_a_disk_in_use_is_not(found, used):
    assert found(ROOT, used) == {"wrong": "no blank disk is its data disk of 500.0GiB; it has: /dev/nvme0n1 (50.0GiB, in use), /dev/sdb (500.0GiB, in use)"}


def test_a_disk_that_bears_a_signature_is_not(found):
    assert found(ROOT, disk("sdb", 500), signed=("sdb",))["wrong"].endswith("/dev/sdb (500.0GiB, in use)")


def test_a_disk_that_cannot_be_looked_at_is_not(found):
    assert "wrong" in found(ROOT, disk("sdb", 500), broken="sdb")


def test_where_two_could_be_meant_none_is(found):
    assert found(disk("sdb", 500), disk("sdc", 500))["wrong"].startswith("2 blank disks could be its data disk of 500.0GiB")
    assert found(disk("sdb", 500), disk("sdc", 520))["device"] == "/dev/sdb", "one is of exactly that size"


def test_a_machine_without_a_disk_says_so(found):
    assert found()["wrong"] == "no blank disk is its data disk of 500.0GiB; it has: no disk at all"
