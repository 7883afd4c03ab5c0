"""This very kivactl as a wheel, to be carried to other machines; made from a checkout or from an installed one alike."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from kivactl import root

_CONTENT = ("playbooks", "runbooks", "loadtests", "helm", "requirements", "terraform")
"""Folders that travel inside the wheel; `kivactl.root` finds them."""

_LEFT_OUT = {"__pycache__", "content", ".terraform"}
_DATE = (2020, 1, 1, 0, 0, 0)


def write_wheel(folder: Path) -> tuple[Path, str]:
    """Write the wheel; one that is there is replaced.

    Args:
        folder: Where to; it exists.

    Returns:
        The file, and a SHA-256 over what is in it (the archive's own bytes depend on the zlib at hand).

    Raises:
        OSError: It cannot be written.
        PackageNotFoundError: This kivactl was never installed, not even as a link to a checkout.
    """
    known = distribution("kivactl")
    path = folder / f"kivactl-{known.version}-py3-none-any.whl"
    partial = path.with_suffix(".partial")
    files = _files() | _metadata(known)
    info = f"kivactl-{known.version}.dist-info"
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in sorted(files.items())) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*sorted(files.items()), (f"{info}/RECORD", record.encode())]:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    partial.replace(path)
    return path, hashlib.sha256(record.encode()).hexdigest()


def _files() -> dict[str, bytes]:
    places = {"kivactl": root.PACKAGE} | {f"kivactl/content/{name}": root.content(name) for name in _CONTENT}
    found = {}
    for inside, place in places.items():
        for path in place.rglob("*"):
            relative = path.relative_to(place)
            if path.is_file() and not _LEFT_OUT.intersection(relative.parts) and not path.name.endswith(".pyc"):
                found[f"{inside}/{relative.as_posix()}"] = path.read_bytes()
    return found


def _metadata(known: Distribution) -> dict[str, bytes]:
    info = f"kivactl-{known.version}.dist-info"
    texts = {name: known.read_text(name) or "" for name in ("METADATA", "entry_points.txt")}
    return {
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: kivactl\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **{f"{info}/{name}": text.encode() for name, text in texts.items()},
    }


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
