"""`token rotate-keys`: change the key that signs tokens, with or without patience for those of the old one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from kivactl.errors import UsageError
from kivactl.flows.deployment import Deployment
from kivactl.flows.tokens import count
from kivactl.journal import Journal, run_name
from kivactl.plan import Change, Difference, Outcome, Plan, Status, Verb, digest
from kivactl.stack.certificates import new_key, public_half
from kivactl.targets.publication import announce, key_id, next_key, retired_key, signing_key, tidied
from kivactl.targets.register import Entry, Register, RetiredKey, locked, read_register, write_register
from kivactl.targets.release import write_file


def plan_rotation(deployment: Deployment, *, overlap: timedelta | None = None, at_once: bool = False) -> Plan:
    """What a new signing key would mean.

    Args:
        deployment: The platform.
        overlap: How long tokens of the old key are still good; None for as long as one of them lives.
        at_once: Whether they are good no longer.

    Raises:
        UsageError: Overlap and at once.
        PreconditionError: The machine is not provisioned, or the register is damaged.
    """
    if overlap is not None and at_once:
        raise UsageError("--overlap and --now exclude each other", "kivactl token rotate-keys --help")
    now = datetime.now(UTC)
    old = key_id(signing_key(deployment.layout))
    register = read_register(deployment.layout).without_spent(old, now)
    live = [token for token in register.tokens if token.live(now)]
    own = [token for token in live if token.key == old]
    if at_once:
        disruption, notes = _invalid(live, "at once"), ["tokens that kivactl made for itself, such as of a running load test, become invalid too"]
    elif overlap is not None:
        end = now + overlap
        disruption, notes = _invalid([token for token in own if not token.expires_at or token.expires_at > end], f"on {end:%Y-%m-%d %H:%M} UTC"), []
    else:
        disruption, notes = "", _lasting(own)
    changes = [Change(Verb.REPLACE, "signing key", (Difference("id", old, "a new one"),), disruption)]
    if at_once:
        changes += [Change(Verb.DELETE, f"retired key {key.key}") for key in register.keys]
    return Plan(f"rotate the signing key of {deployment.platform.name}", tuple(changes), tuple(notes), digest([old, [key.key for key in register.keys]]))


def apply_rotation(deployment: Deployment, *, overlap: timedelta | None = None, at_once: bool = False) -> Iterator[Outcome]:
    """Change the signing key.

    At no moment, and wherever this is killed, is a token signed by a key that the gateway does not know: the new key is
    made known first and signs afterwards.

    Raises:
        PreconditionError: The machine is not provisioned, or the register is damaged or locked.
        ToolError: The gateway refuses the change.
        NotReadyError: The gateway does not take it over in time.
    """
    layout, clock = deployment.layout, deployment.clock
    facts = {"overlap_s": None if overlap is None else overlap.total_seconds(), "now": at_once}
    with locked(layout, "token rotate-keys", clock), Journal(layout.journal, run_name("token-rotate-keys"), facts) as journal:
        yield from journal.record(_rotate(deployment, overlap, at_once=at_once))


def _rotate(deployment: Deployment, overlap: timedelta | None, *, at_once: bool) -> Iterator[Outcome]:
    layout, clock = deployment.layout, deployment.clock
    started_s = clock.now_s()
    yield Outcome("signing key", Status.STARTED, "the gateway learns the new key")
    now = datetime.now(UTC)
    register = tidied(layout, read_register(layout), now)
    if at_once:
        for path in layout.retired_keys.glob("*.pem"):
            path.unlink()
    # A key left by a rotation that was killed never signed anything, but may be as known as the old one.
    write_file(next_key(layout), new_key().decode())
    told = announce(layout, register, deployment.target.gateway)
    if told.within_s:
        yield Outcome("signing key", Status.PROGRESS, f"the new key signs in {told.within_s:g} s, when the gateway knows it{told.sentence('')}")
        clock.sleep(told.within_s)

    invalid = [token for token in register.tokens if at_once and token.live(now)]
    if at_once:
        register = Register(register.revoked(frozenset(token.id for token in invalid), now).tokens)
        write_register(layout, register)
    else:
        register = _retire(deployment, register, now, overlap)
    next_key(layout).replace(layout.signing_key)

    register = tidied(layout, register, datetime.now(UTC))
    told = announce(layout, register, deployment.target.gateway)
    message = f"new; {count(invalid, 'token')} became invalid" if at_once else "new; tokens of the old one stay good for their time"
    message += told.sentence("the gateway goes by it") if told.note else ""
    yield Outcome("signing key", Status.DONE, message, clock.now_s() - started_s, {"key": key_id(signing_key(layout)), "invalid": len(invalid)})


def _retire(deployment: Deployment, register: Register, now: datetime, overlap: timedelta | None) -> Register:
    """Keep the public half of the key that signs now, and when its time is over."""
    layout = deployment.layout
    old = signing_key(layout)
    retired = RetiredKey(key_id(old), now, None if overlap is None else now + overlap)
    register = Register(register.tokens, (*register.keys, retired))
    write_register(layout, register)
    layout.retired_keys.mkdir(mode=0o700, exist_ok=True)
    write_file(retired_key(layout, retired.key), public_half(old).decode())
    return register


def _invalid(cut: list[Entry], when: str) -> str:
    return f"invalid {when}: {count(cut, 'token')} of {count({token.tenant for token in cut}, 'tenant')}" if cut else ""


def _lasting(own: list[Entry]) -> list[str]:
    ends = [token.expires_at for token in own if token.expires_at]
    endless = [token for token in own if token.expires_at is None]
    notes = [f"{count(ends, 'token')} of the old key: good until their end, the last until {max(ends):%Y-%m-%d}"] if ends else []
    if endless:
        notes.append(f"{count(endless, 'token')} of the old key without end: it stays accepted until they are revoked, or use --overlap")
    return notes
