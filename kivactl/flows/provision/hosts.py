"""What goes along to machines that run a whole platform each: kivactl itself, public keys, the register. No private key does."""

from __future__ import annotations

from typing import Any

from kivactl import root
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.hosts import Provided, host_variables_for
from kivactl.stack.infrastructure.inventory import Inventory
from kivactl.stack.layout import Layout
from kivactl.targets.publication import key_id, keys_of
from kivactl.tools.folders import make_private
from kivactl.tools.wheel import write_wheel


def hosts_variables(platform: Platform, inventory: Inventory, layout: Layout, authority: str) -> dict[str, Any]:
    """The variables of the role kiva_engine_host; none where no machine has a platform of its own.

    Args:
        platform: The spec, with its infrastructure.
        inventory: The machines.
        layout: Where the platform's files lie here.
        authority: Certificate (PEM) of the platform's own authority; empty when there is none.

    Raises:
        PreconditionError: A key or the register is damaged.
        OSError: The state folder cannot be written.
    """
    if not any(machine.role == "host" for machine in inventory.machines):
        return {}
    make_private(layout.infrastructure)
    wheel, wheel_hash = write_wheel(layout.infrastructure)
    keys = keys_of(layout) if layout.signing_key.exists() else []
    provided = Provided(
        authority=authority,
        authority_file=layout.ca_certificate.absolute(),
        authority_key=layout.ca_key.absolute(),
        keys={key_id(pem): _public(pem) for pem in keys},
        register=layout.token_register.read_text() if layout.token_register.exists() else "",
        requirements=root.content("requirements").absolute(),
        wheel=wheel.absolute(),
        wheel_hash=wheel_hash,
    )
    return host_variables_for(platform, inventory, provided)


def _public(pem: bytes) -> str:
    """The public half of a key, be it private or public (a retired one)."""
    from cryptography.hazmat.primitives import serialization

    if b"PRIVATE" in pem:
        loaded = serialization.load_pem_private_key(pem, password=None).public_key()
        return loaded.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    return pem.decode()
