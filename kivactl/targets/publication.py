"""What the gateway has to know of tokens: the keys that sign them, and the tokens that were revoked.

Both are files that a running gateway watches. A deploy writes them from the spec (`publish`); a command for tokens changes
only keys and revocations in what is deployed (`announce`), whatever the spec says by now, and waits until the gateway
has them. How a gateway is told is the target's (`steering`); `announce_here` is that of a gateway on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl.errors import NotReadyError, PreconditionError, ToolError
from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.gateway import access
from kivactl.stack.gateway.files import Json
from kivactl.stack.layout import Layout
from kivactl.targets.desired import files_of
from kivactl.targets.register import SKEW, Register, locked, read_register, write_register
from kivactl.targets.release import write_json
from kivactl.targets.steering import Steering, Told
from kivactl.tools.clock import Clock
from kivactl.tools.envoy import Admin

_TAKEN_OVER_WITHIN_S = 5.0


def publish(platform: Platform, layout: Layout, clock: Clock | None = None) -> bool:
    """Write both files as the spec and the register have them, for a deploy.

    Under the register's lock: a revocation that comes while a deploy runs is never undone by what the deploy knew before.

    Args:
        platform: The spec.
        layout: Where files lie.
        clock: Time.

    Returns:
        Whether anything changed.

    Raises:
        PreconditionError: There is no signing key, the register is damaged, or someone holds its lock.
    """
    with locked(layout, "deploy", clock or Clock()):
        register = tidied(layout, read_register(layout), datetime.now(UTC))
        wanted = _contents(platform, layout, register, datetime.now(UTC))
        changed = [path for path, content in wanted.items() if write_json(path, content)]
        return bool(changed)


def contents(platform: Platform, layout: Layout) -> dict[Path, Json]:
    """Both files by path, as `publish` would write them now.

    Raises:
        PreconditionError: There is no signing key, or the register is damaged.
    """
    return _contents(platform, layout, read_register(layout), datetime.now(UTC))


def unpublished(platform: Platform, layout: Layout) -> list[str]:
    """Names of the files that `publish` would change.

    Raises:
        PreconditionError: There is no signing key, or the register is damaged.
    """
    return [path.name for path, content in contents(platform, layout).items() if _read(path) != content]


def keys_of(layout: Layout, now: datetime | None = None) -> list[bytes]:
    """The keys whose tokens are good, PEM: the signing key, the one that a rotation brings in, retired ones.

    Raises:
        PreconditionError: There is no signing key, a key or the register is damaged.
    """
    return _keys(layout, read_register(layout), now or datetime.now(UTC))


def revoked_of(layout: Layout) -> list[str]:
    """Ids of the tokens that a gateway has to refuse though they are genuine.

    Raises:
        PreconditionError: There is no signing key, a key or the register is damaged.
    """
    register, now = read_register(layout), datetime.now(UTC)
    return _revoked(register, _keys(layout, register, now), now)


def signing_key(layout: Layout) -> bytes:
    """The private key that signs tokens, PEM.

    Raises:
        PreconditionError: There is none yet.
    """
    try:
        return layout.signing_key.read_bytes()
    except FileNotFoundError:
        raise PreconditionError(f"this machine is not provisioned: there is no signing key {layout.signing_key}", "kivactl provision") from None


def next_key(layout: Layout) -> Path:
    """Where a rotation keeps the new signing key until the gateway knows it."""
    return layout.signing_key.with_name(f"{layout.signing_key.name}.next")


def retired_key(layout: Layout, key: str) -> Path:
    """Where the public half of a retired key lies."""
    return layout.retired_keys / f"{key}.pem"


def key_id(pem: bytes) -> str:
    """The id of a key, which stands in every token that it signs.

    Raises:
        PreconditionError: It is not for ES256.
    """
    return str(tokens.jwks_for([pem])["keys"][0]["kid"])


def tidied(layout: Layout, register: Register, now: datetime) -> Register:
    """The register without what is over, written; the files of retired keys whose time is over are gone. Needs the lock."""
    tidy = register.without_spent(key_id(signing_key(layout)), now)
    if tidy != register:
        write_register(layout, tidy)
    for key in {key.key for key in register.keys} - {key.key for key in tidy.keys}:
        retired_key(layout, key).unlink(missing_ok=True)
    return tidy


def announce(layout: Layout, register: Register, gateway: Steering, *, look: bool = True) -> Told:
    """Tell a deployed gateway the keys and the revoked tokens, and wait until it has them. Needs the lock.

    Args:
        layout: Where files lie.
        register: As it is on disk.
        gateway: The one that is deployed.
        look: Whether a gateway far away is asked also when nothing had to be changed: an earlier command may not have waited.

    Raises:
        PreconditionError: A key or the gateway's file is damaged.
        ToolError: The gateway refuses what was written.
        NotReadyError: The gateway does not take it over in time.
        KivaError: The cluster does not answer, or refuses.
    """
    now = datetime.now(UTC)
    keys = _keys(layout, register, now)
    return gateway.announce(tokens.jwks_for(keys), _revoked(register, keys, now), look=look)


def announce_here(layout: Layout, jwks: Mapping[str, Any], revoked: Sequence[str], clock: Clock) -> bool:
    """Write keys and revoked tokens into the files of a gateway on this machine, and wait until it has them.

    Args:
        layout: Where files lie.
        jwks: Public keys that sign tokens.
        revoked: Ids of the tokens that are to be refused.
        clock: Time.

    Returns:
        Whether a running gateway took something over; False when nothing changed or none runs.

    Raises:
        PreconditionError: The gateway's file is damaged.
        ToolError: The gateway refuses what was written.
        NotReadyError: The gateway does not take it over in time.
    """
    files = files_of(layout)
    deployed = _read(files.authentication)
    if deployed is None:
        return False
    wanted = {
        access.AUTHENTICATION: (files.authentication, _with_keys(deployed, jwks, files.authentication)),
        access.REVOCATION: (files.revoked, access.revocation_for(revoked)),
    }
    before = {name: _reloads(layout, name) for name in wanted}
    changed = [name for name, (path, content) in wanted.items() if _read(path) != content and write_json(path, content)]
    waiting = {name for name in changed if before[name] is not None}
    for _ in clock.ticks(_TAKEN_OVER_WITHIN_S, every_s=0.02):
        for name in list(waiting):
            match before[name], _reloads(layout, name):
                case (int(good), int(_)), (int(good_now), int(_)) if good_now > good:
                    waiting.remove(name)
                case (int(_), int(bad)), (int(_), int(bad_now)) if bad_now > bad:
                    raise ToolError("the gateway refuses the new keys or revocations", "kivactl logs gateway")
                case _, None:  # it stopped; it reads the files when it starts again
                    return False
        if not waiting:
            return bool(changed) and before[changed[0]] is not None
    raise NotReadyError(f"the gateway did not take over the change within {_TAKEN_OVER_WITHIN_S:g} s", "kivactl status; then the same command again")


def _contents(platform: Platform, layout: Layout, register: Register, now: datetime) -> dict[Path, Json]:
    files, keys = files_of(layout), _keys(layout, register, now)
    return {
        files.authentication: access.authentication_for(platform, tokens.jwks_for(keys)),
        files.revoked: access.revocation_for(_revoked(register, keys, now)),
    }


def _keys(layout: Layout, register: Register, now: datetime) -> list[bytes]:
    keys = [signing_key(layout)]
    current = key_id(keys[0])
    coming = next_key(layout)
    if coming.exists() and _sound(coming.read_bytes()):
        keys.append(coming.read_bytes())
    over = {key.key for key in register.keys if key.key != current and not register.needs(key, now)}
    for path in sorted(layout.retired_keys.glob("*.pem")) if layout.retired_keys.is_dir() else ():
        if path.stem in over:
            continue
        if not _sound(path.read_bytes()):
            raise PreconditionError(f"the retired key {path} is damaged", "put it back, or remove it: tokens that it signed have to be issued again")
        keys.append(path.read_bytes())
    return keys


def _revoked(register: Register, keys: Iterable[bytes], now: datetime) -> list[str]:
    """What the gateway would accept otherwise: tokens that have ended, or whose key is gone, need no line."""
    known = {key_id(key) for key in keys}
    return [
        token.id
        for token in register.tokens
        if token.revoked_at is not None and token.key in known and (token.expires_at is None or now < token.expires_at + SKEW)
    ]


def _with_keys(content: Any, jwks: Mapping[str, Any], path: Path) -> Json:
    try:
        return access.with_keys(content, jwks)
    except ValueError:
        raise PreconditionError(f"the gateway's file {path} is not of this version of kivactl", "kivactl deploy") from None


def _reloads(layout: Layout, name: str) -> tuple[int, int] | None:
    """How often the gateway took a filter's file over, and how often it refused it; None when it does not run."""
    prefix = f"extension_config_discovery.http_filter.{name}."
    counters = Admin(layout.gateway_admin_socket, timeout_s=2).counters(prefix)
    good, bad = counters.get(f"{prefix}config_reload"), counters.get(f"{prefix}config_fail")
    return None if good is None or bad is None else (good, bad)


def _sound(pem: bytes) -> bool:
    try:
        key_id(pem)
    except PreconditionError:
        return False
    return True


def _read(path: Path) -> Any:
    """A JSON file's content; None when it is missing or none."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
