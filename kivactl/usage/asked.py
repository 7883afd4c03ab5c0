"""What reports and checks ask of a ledger, as JSON: so that one in a cluster, which only the meter's pod can read, is asked there.

`python3 -m kivactl.usage.asked ORDERS QUESTION` answers one question about the ledger of the meter's orders; a refusal is one sentence on stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from kivactl.errors import KivaError, PreconditionError
from kivactl.stack.metering import SQLITE, Orders, price_for, read_orders, tariff_from
from kivactl.usage.database import Database, Sqlite
from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import PriceList, Warned, open_ledger

Json = dict[str, Any]

REFUSED = 3
"""Exit code when the ledger cannot be asked; the sentence stands on stderr."""


class Book(Protocol):
    """What a report reads: an open ledger, or what one elsewhere has told."""

    def days(self, month: str | None = None) -> list[tuple[DayKey, Sums]]:
        """The sums of days, in order; of a month such as `2026-11`, or all."""

    def price_lists(self) -> dict[str, PriceList]:
        """What months cost, in their order."""

    def unreadable(self) -> dict[str, int]:
        """Lines of the logs that could not be read, ever, by log."""

    def warnings(self, month: str | None = None) -> list[Warned]:
        """The warnings of a month, or all, in the order they were given."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a ledger elsewhere has told; a `Book` of the months that were asked for."""

    kept_days: tuple[tuple[DayKey, Sums], ...]
    kept_prices: Mapping[str, PriceList]
    kept_unreadable: Mapping[str, int]
    kept_warnings: tuple[Warned, ...]

    def days(self, month: str | None = None) -> list[tuple[DayKey, Sums]]:
        return [(key, sums) for key, sums in self.kept_days if month is None or key.day.startswith(f"{month}-")]

    def price_lists(self) -> dict[str, PriceList]:
        return dict(self.kept_prices)

    def unreadable(self) -> dict[str, int]:
        return dict(self.kept_unreadable)

    def warnings(self, month: str | None = None) -> list[Warned]:
        return [one for one in self.kept_warnings if month is None or one.month == month]


def book_as_json(book: Book, month: str | None) -> Json:
    """Everything that a report of a month, or of all months, reads; JSON-ready."""
    prices = {
        name: {"currency": one.currency, "prices": {model: price_for(tariff) for model, tariff in one.tariffs.items()}}
        for name, one in book.price_lists().items()
    }
    warned = [[one.tenant, one.month, one.level, one.at_ms, str(one.spent), str(one.budget), one.currency] for one in book.warnings(month)]
    days = [[*key, *sums] for key, sums in book.days(month)]
    return {"days": days, "price_lists": prices, "unreadable": book.unreadable(), "warnings": warned}


def parse_book(data: Json) -> Told:
    """The same, read.

    Raises:
        ValueError: It is something else.
    """
    try:
        width = len(DayKey._fields)
        return Told(
            tuple((DayKey._make(map(str, row[:width])), Sums._make(map(int, row[width:]))) for row in data["days"]),
            {
                str(month): PriceList(str(one["currency"]), {model: tariff_from(price) for model, price in one["prices"].items()})
                for month, one in data["price_lists"].items()
            },
            {str(log): int(lines) for log, lines in data["unreadable"].items()},
            tuple(Warned(str(row[0]), str(row[1]), int(row[2]), int(row[3]), Decimal(row[4]), Decimal(row[5]), str(row[6])) for row in data["warnings"]),
        )
    except (KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        msg = f"not what a ledger tells: {type(error).__name__} {error}"
        raise ValueError(msg) from error


def failures_since(database: Database, since_ms: int) -> tuple[int, int]:
    """How many requests have ended since a moment (milliseconds since 1970), and how many of them the platform failed (status 500 and above)."""
    sql = "SELECT count(*), count(CASE WHEN status >= 500 THEN 1 END) FROM requests WHERE ended_ms >= ? AND status IS NOT NULL"
    ((all_of_them, failed),) = database.query(sql, (since_ms,))
    return int(all_of_them), int(failed)


def counted_in(database: Database) -> int:
    """How many requests were counted, of all days; those whose entries are gone count too."""
    ((count,),) = database.query("SELECT coalesce(sum(requests), 0) FROM days")
    return int(count)


def faults_in(database: Database) -> list[str]:
    """Damage of a ledger in a file, which is read as a whole; of one on a server its own tools know."""
    if not isinstance(database, Sqlite):
        return []
    return [str(row[0]) for row in database.query("PRAGMA quick_check(5)") if row != ("ok",)]


def database_of(ledger: str, platform: str) -> Database:
    """The database of a ledger, to be read.

    Args:
        ledger: Its address, as `open_ledger` takes it.
        platform: Whose.

    Raises:
        PreconditionError: There is no ledger yet.
        LedgerUnavailable: It cannot be read just now.
    """
    if ledger.startswith(SQLITE):
        path = Path(ledger.removeprefix(SQLITE))
        if not path.exists():
            raise PreconditionError(f"nothing has been metered for '{platform}' yet: there is no ledger", "kivactl deploy")
        return Sqlite(path, read_only=True)
    from kivactl.usage.postgresql import Postgresql, parse_address

    return Postgresql(parse_address(ledger), platform, read_only=True)


def answer(orders: Orders, question: Json) -> Json:
    """Answer a question: `{"book": MONTH or null}`, `{"failures_since_ms": N}`, `{"counted": true}` or `{"faults": true}`.

    Raises:
        PreconditionError: There is no ledger yet.
        LedgerUnavailable: It cannot be read just now.
        ValueError: It is none of these questions.
    """
    if "book" in question:
        with closing(open_ledger(orders.ledger, orders.platform, read_only=True)) as ledger:
            return book_as_json(ledger, question["book"])
    with closing(database_of(orders.ledger, orders.platform)) as database:
        if "failures_since_ms" in question:
            requests, failed = failures_since(database, int(question["failures_since_ms"]))
            return {"requests": requests, "failed": failed}
        if "counted" in question:
            return {"counted": counted_in(database)}
        if "faults" in question:
            return {"faults": faults_in(database)}
    msg = f"no question of the ledger: {', '.join(question)}"
    raise ValueError(msg)


def answered(act: Callable[[], str], what: str) -> int:
    """Do what a command line says: the answer on stdout, a refusal as one sentence on stderr.

    Args:
        act: Does it.
        what: What cannot be done with the ledger when it fails, such as `asked`.

    Returns:
        The exit code.
    """
    try:
        sys.stdout.write(act())
    except KivaError as error:
        sys.stderr.write(f"{error.message}\n")
        return REFUSED
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"the ledger cannot be {what}: {error}\n")
        return REFUSED
    return 0


def main(arguments: Sequence[str]) -> int:
    """Answer the question of the command line on stdout."""
    return answered(lambda: _answer_to(*arguments), "asked")


def _answer_to(orders: str, question: str) -> str:
    return json.dumps(answer(read_orders(Path(orders)), json.loads(question)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
