"""Enters what was read into the ledger: one batch, one transaction, and what it changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kivactl.stack.metering import Account
from kivactl.usage.follow import Piece
from kivactl.usage.join import Counted, DayKey, Entry, StreamAverages, Sums, better, day_of, joined, key_of, sums_of
from kivactl.usage.ledger import Ledger
from kivactl.usage.records import Access, Count, parse_access, parse_count

REFUSALS_KEPT = 200
"""Entries of refused requests that one batch makes; of the others only the sums are kept, lest a client that hammers fills the disk."""

Change = tuple[Entry | None, Entry]
"""An entry before (None when there was none) and after."""


@dataclass(slots=True)
class Batch:
    """What was read, by request.

    Attributes:
        accesses: What the gateway said of whom it knew; its first word.
        counts: What the engines said; the best word.
        unkept: Requests that get no entry: without a token, or refused too often.
        unreadable: Lines that were none, by log.
    """

    accesses: dict[str, Access] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    unkept: list[Access] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)


def batch_of(pieces: Iterable[Piece], access_log: str) -> Batch:
    """Sort out what was read.

    Args:
        pieces: Of all logs.
        access_log: Which one is the gateway's.
    """
    batch = Batch()
    refusals = 0
    for piece in pieces:
        unreadable = 0
        if piece.source == access_log:
            for line in piece.lines:
                access = parse_access(line)
                if access is None:
                    unreadable += 1
                    continue
                refused = access.version is None and access.replica is None
                refusals += refused
                if not access.request_id or access.tenant is None or (refused and refusals > REFUSALS_KEPT):
                    batch.unkept.append(access)
                else:
                    batch.accesses.setdefault(access.request_id, access)
        else:
            for line in piece.lines:
                count = parse_count(line)
                if count is None:
                    unreadable += 1
                elif count.request_id not in batch.counts or better(count, batch.counts[count.request_id]):
                    batch.counts[count.request_id] = count
        if unreadable:
            batch.unreadable[piece.source] = batch.unreadable.get(piece.source, 0) + unreadable
    return batch


def post(ledger: Ledger, batch: Batch, accounts: Mapping[str, Account], averages: StreamAverages, too_old_ms: int | None = None) -> list[Change]:
    """Enter a batch, within the caller's transaction.

    Args:
        ledger: Into which.
        batch: What was read.
        accounts: The tenants, for their cost centres.
        averages: For estimates; learns from the batch.
        too_old_ms: When a count that no entry is known for is of a request long forgotten, for it ended earlier: milliseconds since
            1970 UTC. A gateway's new pod fetches again what the engines still have.

    Returns:
        The entries that changed.

    Raises:
        LedgerUnavailable: Nothing is entered, and the averages are worth nothing.
    """
    request_ids = list(batch.accesses | batch.counts)
    known = ledger.entries(request_ids)
    changes: list[Change] = []
    days: dict[DayKey, Sums] = {}
    learned: dict[str, tuple[int, int]] = {}
    for request_id in request_ids:
        old, access, count = known.get(request_id), batch.accesses.get(request_id), batch.counts.get(request_id)
        if old is None and access is None and count is not None and too_old_ms is not None and count.at_ms < too_old_ms:
            continue
        account = accounts.get(access.tenant) if access is not None and access.tenant else None
        new = joined(old, access, count, account.cost_centre if account else None, averages)
        if new is old:
            continue
        changes.append((old, new))
        if old is not None:
            _add(days, key_of(old), Sums().minus(sums_of(old)))
        _add(days, key_of(new), sums_of(new))
        if not _complete(old) and _complete(new):
            more = averages.learn(new)
            if more is not None and new.version is not None:
                sent_bytes, tokens = learned.get(new.version, (0, 0))
                learned[new.version] = (sent_bytes + more[0], tokens + more[1])
    for access in batch.unkept:
        account = accounts.get(access.tenant) if access.tenant else None
        failed = int(access.status >= 400 or access.status == 0)
        _add(days, DayKey(day_of(access.at_ms), access.tenant or "", (account.cost_centre if account else None) or "", "", ""), Sums(1, failed))
    ledger.keep([new for _, new in changes])
    ledger.add_to_days(days)
    ledger.add_averages(learned)
    ledger.add_unreadable(batch.unreadable)
    return changes


def _complete(entry: Entry | None) -> bool:
    return entry is not None and entry.status is not None and entry.counted == Counted.ENGINE


def _add(days: dict[DayKey, Sums], key: DayKey, more: Sums) -> None:
    before = days.get(key)
    days[key] = more if before is None else before.plus(more)
