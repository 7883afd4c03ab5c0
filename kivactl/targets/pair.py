"""The gateway's key and certificate, replaced as one while it runs.

`gateway.key` and `gateway.pem` are links through `current`, itself a link to a folder with a pair that belongs together.
Renaming another link onto `current` changes both in one step, in the folder that the gateway watches: whenever it reads
or is started, and wherever this is killed, it finds a pair.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kivactl.stack.layout import Layout
from kivactl.targets.release import write_file

_CURRENT, _PAIRS = "current", "pairs"


def install_pair(layout: Layout, key: bytes, certificate: bytes) -> None:
    """Put a key and its certificate (PEM, chain) in the place of the present ones.

    Needs the platform's lock.
    """
    names = (layout.certificate_key, layout.certificate)
    if all(path.exists() for path in names) and not all(_linked(layout, path) for path in names):
        # Plain files, as provisioning makes them, become links to copies of themselves first: each step changes nothing for a reader.
        _point(layout, _written(layout, layout.certificate_key.read_bytes(), layout.certificate.read_bytes()))
        for path in names:
            _link(path, f"{_CURRENT}/{path.name}")
    before = _present(layout)
    _point(layout, _written(layout, key, certificate))
    for path in names:
        if not _linked(layout, path):
            _link(path, f"{_CURRENT}/{path.name}")
    # Who has just begun to read finds the pair before this one still there.
    for number in _numbers(layout):
        if number not in {before, _present(layout)}:
            shutil.rmtree(layout.tls / _PAIRS / str(number))


def _written(layout: Layout, key: bytes, certificate: bytes) -> int:
    """A folder with a pair; its number."""
    number = max(_numbers(layout), default=0) + 1
    folder = layout.tls / _PAIRS / str(number)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700)
    write_file(folder / layout.certificate_key.name, key.decode())
    write_file(folder / layout.certificate.name, certificate.decode())
    for written in (folder, folder.parent, layout.tls):
        _sync(written)
    return number


def _point(layout: Layout, number: int) -> None:
    _link(layout.tls / _CURRENT, f"{_PAIRS}/{number}")


def _present(layout: Layout) -> int | None:
    """Number of the pair that `current` leads to."""
    try:
        name = (layout.tls / _CURRENT).readlink().name
    except OSError:
        return None
    return int(name) if name.isdecimal() else None


def _numbers(layout: Layout) -> list[int]:
    folder = layout.tls / _PAIRS
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []


def _linked(layout: Layout, path: Path) -> bool:
    return path.is_symlink() and path.readlink() == Path(_CURRENT, path.name) and (layout.tls / _CURRENT).is_symlink()


def _link(path: Path, target: str) -> None:
    """Put a link in a file's place in one step."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
