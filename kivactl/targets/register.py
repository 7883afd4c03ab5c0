"""The register of tokens: which were issued, until when, which were revoked, which keys signed them. Never a token.

Strict in what it writes, lenient in what it reads: keys of a newer version are left out. Every change is made under a lock
of its own, for tokens are issued and revoked while a deploy runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.stack.layout import Layout
from kivactl.targets.lock import held
from kivactl.targets.release import write_file
from kivactl.tools.clock import Clock

SKEW = timedelta(minutes=2)
"""The gateway takes a token for up to a minute after its end; what concerns a token is kept longer than that."""

OWN_TOKENS_LIVE = timedelta(days=1)
"""Longest life of the tokens kivactl makes for itself (a probe, a load test). They are not registered: nobody keeps them."""

_KEPT = timedelta(days=400)
"""Time that a token's entry outlives the token, for questions about old records."""

_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An issued token.

    Attributes:
        id: Its `jti`.
        tenant: Whose it is.
        name: What it is for.
        issued_at: Aware UTC.
        expires_at: Aware UTC; None when it never ends.
        revoked_at: Aware UTC; None when it was not revoked.
        key: Id of the key that signed it.
    """

    id: str
    tenant: str
    name: str
    issued_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    key: str

    def live(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """A key that signs no more.

    Attributes:
        key: Its id; also the name of its file.
        retired_at: Aware UTC.
        until: Its tokens are accepted until then; None for as long as one of them lives.
    """

    key: str
    retired_at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Register:
    """All of it.

    Attributes:
        tokens: In the order of their issue.
        keys: In the order of their retirement.
    """

    tokens: tuple[Entry, ...] = ()
    keys: tuple[RetiredKey, ...] = ()

    def needs(self, key: RetiredKey, now: datetime) -> bool:
        """Whether tokens of a retired key are still to be accepted."""
        if key.until is not None:
            return now < key.until
        own = key.retired_at + OWN_TOKENS_LIVE + SKEW
        return now < own or any(token.key == key.key and token.live(now - SKEW) for token in self.tokens)

    def with_token(self, token: Entry) -> Register:
        """With one more token."""
        return replace(self, tokens=(*self.tokens, token))

    def revoked(self, ids: frozenset[str], now: datetime) -> Register:
        """With some tokens revoked; one that was already stays as it was."""
        return replace(self, tokens=tuple(replace(token, revoked_at=now) if token.id in ids and not token.revoked_at else token for token in self.tokens))

    def with_history_of(self, later: Register, keys: frozenset[str], now: datetime) -> Register:
        """With what a later register knows, when this one comes out of a backup: nobody who was refused is let in again.

        Args:
            later: The register that this one replaces; its revocations hold, and its tokens stay known.
            keys: Ids of the keys whose tokens are accepted; tokens of others count as revoked.
            now: Aware.
        """
        known = {token.id for token in self.tokens}
        gone = frozenset(token.id for token in later.tokens if token.revoked_at is not None)
        tokens = self.revoked(gone, now).tokens + tuple(token for token in later.tokens if token.id not in known)
        other = frozenset(token.id for token in tokens if token.key not in keys)
        return replace(self, tokens=tokens).revoked(other, now)

    def without_spent(self, current: str, now: datetime) -> Register:
        """Without retired keys whose time is over and without what ended long ago.

        Args:
            current: Id of the key that signs now, which is never retired.
            now: Aware.
        """
        spent = {key.key for key in self.keys if key.key != current and not self.needs(key, now)}
        # A key that was dropped before its tokens' end takes them along: they show as revoked.
        over = frozenset(token.id for token in self.tokens if token.key in spent and token.live(now))
        kept = [token for token in self.revoked(over, now).tokens if token.expires_at is None or now < token.expires_at + _KEPT]
        return Register(tuple(kept), tuple(key for key in self.keys if key.key not in spent and key.key != current))


def read_register(layout: Layout) -> Register:
    """The register, or an empty one when no token was issued yet.

    Raises:
        PreconditionError: The file is there and cannot be read as a register.
    """
    path = layout.token_register
    try:
        data = json.loads(path.read_text())
        return Register(tuple(map(_token, data["tokens"])), tuple(map(_key, data.get("keys", ()))))
    except FileNotFoundError:
        return Register()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PreconditionError(
            f"the register of tokens is damaged: {path}",
            f"put it back from a backup, or begin anew: mv {path} {path}.broken && kivactl token rotate-keys --now    # no old token is good any more",
        ) from None


def write_register(layout: Layout, register: Register) -> None:
    """Replace the register in one step."""
    layout.token_register.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(layout.token_register, json.dumps(asdict(register), default=datetime.isoformat, indent=1) + "\n")


@contextmanager
def locked(layout: Layout, verb: str, clock: Clock) -> Iterator[None]:
    """Hold the register's lock; others hold it for moments only, so it is waited for.

    Args:
        layout: Where files lie.
        verb: What the holder does, for the other one's message.
        clock: Time.

    Raises:
        PreconditionError: There is no folder for it yet, or someone held it for ten seconds.
    """
    folder = layout.token_register.parent
    if not folder.is_dir():
        raise PreconditionError(f"this machine is not provisioned: there is no folder {folder}", "kivactl provision")
    with ExitStack() as stack:
        for elapsed_s in clock.ticks(_PATIENCE_S, every_s=0.05):
            try:
                stack.enter_context(held(folder / "lock", verb))
                break
            except PreconditionError:
                if elapsed_s >= _PATIENCE_S:
                    raise
        yield


def _token(data: Mapping[str, Any]) -> Entry:
    return Entry(
        id=str(data["id"]),
        tenant=str(data["tenant"]),
        name=str(data.get("name", "")),
        issued_at=_required(data["issued_at"]),
        expires_at=_time(data["expires_at"]),
        revoked_at=_time(data["revoked_at"]),
        key=str(data["key"]),
    )


def _key(data: Mapping[str, Any]) -> RetiredKey:
    return RetiredKey(str(data["key"]), _required(data["retired_at"]), _time(data["until"]))


def _time(text: str | None) -> datetime | None:
    return None if text is None else _required(text)


def _required(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
