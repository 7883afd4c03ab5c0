"""Prints which disk is the machine's data disk as one line of JSON; reads only.

The one that carries the label is, whatever else there is. Without it, it is the blank disk of about the size that the spec says: no partition, no
signature of any kind, not mounted. Where two could be meant, none is.
"""

import json
import subprocess
import sys

LABEL = "kiva-data"
NEAR = 0.1
"""Makers count in other gigabytes than the spec, and clouds round."""


def said(words: list[str]) -> "str | None":
    """What a program printed; None when it failed or is not there."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def shown(disk: dict) -> str:
    """A disk as a person reads it."""
    use = "" if disk["blank"] else ", in use"
    return f"{disk['name']} ({disk['size'] / 2**30:.1f}GiB{use})"


def data_disk(wanted: int) -> dict:
    """The device and whether it has its file system already; or what is wrong."""
    if ours := said(["blkid", "-L", LABEL]):
        return {"device": ours, "made": True}
    listed = json.loads(said(["lsblk", "-J", "-b", "-p", "-o", "NAME,TYPE,SIZE,RO,MOUNTPOINT"]) or '{"blockdevices": []}')
    disks = [each for each in listed["blockdevices"] if each["type"] == "disk" and not each["name"].startswith(("/dev/zram", "/dev/ram"))]
    for each in disks:
        free = not each.get("children") and not each["mountpoint"] and each["ro"] in (False, 0, "0")
        each["size"] = int(each["size"])
        each["blank"] = free and said(["wipefs", "--no-act", each["name"]]) == ""  # one that cannot be looked at is not
    near = [each for each in disks if each["blank"] and abs(each["size"] - wanted) <= NEAR * wanted]
    exact = [each for each in near if each["size"] == wanted] or near
    if len(exact) == 1:
        return {"device": exact[0]["name"], "made": False}
    seen = ", ".join(map(shown, disks)) or "no disk at all"
    what = f"{len(exact)} blank disks could be" if exact else "no blank disk is"
    return {"wrong": f"{what} its data disk of {wanted / 2**30:.1f}GiB; it has: {seen}"}


print(json.dumps(data_disk(int(sys.argv[1]))))  # noqa: T201  (its answer)
