"""The SSH key for the machines: the user's, or one made for the platform."""

from __future__ import annotations

import os
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.spec.infrastructure import Infrastructure
from kivactl.stack.layout import Layout
from kivactl.targets.release import write_file
from kivactl.tools.folders import make_private


def key_for(infrastructure: Infrastructure, folder: Path, layout: Layout) -> Path | None:
    """The file of the private key; None where the SSH agent has it.

    Args:
        infrastructure: The spec's part on machines.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie; a cloud's key is there unless the spec names one.
    """
    if infrastructure.access.key is not None:
        return folder / Path(infrastructure.access.key).expanduser()
    return None if infrastructure.provider == "static" else layout.infrastructure / "id_ed25519"


def public_key_for(infrastructure: Infrastructure, folder: Path, layout: Layout) -> str:
    """The public half of the key; a platform's own is made when it is not there yet.

    Raises:
        PreconditionError: The key that the spec names has no public half beside it.
        ValueError: The SSH agent has the key.
    """
    path = key_for(infrastructure, folder, layout)
    if path is None:
        msg = "the key is the SSH agent's"
        raise ValueError(msg)
    public = path.with_name(f"{path.name}.pub")
    if infrastructure.access.key is None:
        _make(path, public)
    try:
        return public.read_text().strip()
    except FileNotFoundError:
        raise PreconditionError(f"there is no public key {public}", f"ssh-keygen -y -f {path} > {public}") from None


def _make(path: Path, public: Path) -> None:
    """Make the key unless it is there. The private half comes first: without it the public one is worth nothing."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    make_private(path.parent)
    if not path.exists():
        key = ed25519.Ed25519PrivateKey.generate()
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()).decode()
        write_file(path, text)
        public.unlink(missing_ok=True)
    if not public.exists():
        loaded = serialization.load_ssh_private_key(path.read_bytes(), password=None)
        line = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        write_file(public, line + os.linesep, 0o644)
