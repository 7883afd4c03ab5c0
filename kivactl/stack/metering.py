"""The meter's orders: what it has to know of the spec, as a file that a deploy writes and the meter reads.

The meter is a small process of its own: reading the orders loads no spec.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kivactl.spec.platform import Platform
    from kivactl.spec.usage import Price

Json = dict[str, Any]

OPERATOR = "kivactl:operator"
"""Tenant of the questions that kivactl asks to see whether the platform answers: no limits, no bill. No spec can name it."""

DEFAULT_ROTATE_BYTES = 64 * 2**20

SQLITE = "sqlite:"
"""How the address of a ledger in a file begins; the absolute path follows."""


class Places(Protocol):
    """Where the meter finds and leaves its files: a machine's layout, or a pod's."""

    @property
    def access_log(self) -> Path:
        """What the gateway writes."""

    @property
    def usage(self) -> Path:
        """Folder of what the engines counted."""

    @property
    def gateway_admin_socket(self) -> Path:
        """Where the gateway is told to open its logs anew."""

    @property
    def quota(self) -> Path:
        """The file that tells the gateway who is above a limit."""

    @property
    def ledger(self) -> Path:
        """A ledger in a file."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a model costs a tenant; amounts in the orders' currency.

    Attributes:
        input: For a million prompt tokens.
        cached: For a million prompt tokens that came out of the cache.
        output: For a million answer tokens.
        flat: For each month in which a tenant used the model.
        free_tokens: Tokens a month, prompt and answer together, that cost a tenant nothing.
    """

    input: Decimal = Decimal(0)
    cached: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    flat: Decimal = Decimal(0)
    free_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant as the meter sees it.

    Attributes:
        cost_centre: Where its use is billed.
        contact: Who is told.
        tokens_per_minute: By public model name; None is unlimited.
        monthly_budget: Amount after which it is refused until the month (UTC) ends; None is unlimited.
    """

    cost_centre: str | None = None
    contact: str | None = None
    tokens_per_minute: Mapping[str, int | None] = field(default_factory=dict)
    monthly_budget: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """What the meter has to do.

    Attributes:
        platform: Whose usage it is.
        access_log: What the gateway writes.
        usage_folder: Folder of what the engines write, `*.jsonl`.
        admin_socket: Where the gateway is told to open its logs anew.
        quota: The file that tells the gateway who is above a limit.
        ledger: `sqlite:/absolute/path` or `postgresql://USER@HOST/DATABASE`.
        currency: ISO 4217 code of all amounts.
        keep_s: Seconds that single requests are kept.
        accounts: By tenant.
        tariffs: By model of the spec.
        rotate_bytes: Size at which a log is set aside.
        engines: Names under which the name service knows the engines on other machines, `HOST` or `HOST:PORT`, from which what they
            counted is fetched into the usage folder; empty when they write there themselves.
        shared: Whether other gateways' meters write into the same ledger: those of other pods, when it is on a server, if nothing is said.
    """

    platform: str
    access_log: Path
    usage_folder: Path
    admin_socket: Path
    quota: Path
    ledger: str
    currency: str
    keep_s: float
    accounts: Mapping[str, Account]
    tariffs: Mapping[str, Tariff]
    rotate_bytes: int = DEFAULT_ROTATE_BYTES
    engines: tuple[str, ...] = ()
    shared: bool = False


def orders_for(platform: Platform, places: Places) -> Json:
    """The content of the orders file, JSON-ready.

    Args:
        platform: The spec.
        places: Where files lie.
    """
    usage = platform.usage
    return {
        "platform": platform.name,
        "access_log": str(places.access_log),
        "usage_folder": str(places.usage),
        "admin_socket": str(places.gateway_admin_socket),
        "quota": str(places.quota),
        "ledger": f"{SQLITE}{places.ledger}" if usage.ledger == "sqlite" else usage.ledger,
        "currency": usage.currency,
        "keep_s": usage.keep,
        "tenants": {
            tenant.name: {
                "cost_centre": tenant.cost_centre,
                "contact": tenant.contact,
                "limits": {name: tenant.limits_for(name).tokens_per_minute for name in platform.names_for(tenant)},
                "monthly_budget": None if tenant.monthly_budget is None else _plain(tenant.monthly_budget),
            }
            for tenant in platform.gateway.tenants
        },
        "prices": {model.name: price_for(_tariff(model.price)) for model in platform.models if model.price is not None},
    }


def orders_from(data: Json) -> Orders:
    """Read the content of the orders file.

    Raises:
        ValueError: Something is missing or of the wrong kind.
    """
    try:
        return Orders(
            platform=str(data["platform"]),
            access_log=Path(data["access_log"]),
            usage_folder=Path(data["usage_folder"]),
            admin_socket=Path(data["admin_socket"]),
            quota=Path(data["quota"]),
            ledger=str(data["ledger"]),
            currency=str(data["currency"]),
            keep_s=float(data["keep_s"]),
            accounts={name: _account(tenant) for name, tenant in data["tenants"].items()},
            tariffs={name: tariff_from(price) for name, price in data["prices"].items()},
            rotate_bytes=int(data.get("rotate_bytes", DEFAULT_ROTATE_BYTES)),
            engines=tuple(str(name) for name in data.get("engines", ())),
            shared=bool(data.get("shared", data.get("engines") and not str(data["ledger"]).startswith(SQLITE))),
        )
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        msg = f"not the meter's orders: {type(error).__name__} {error}"
        raise ValueError(msg) from error


def read_orders(path: Path) -> Orders:
    """Read the orders file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON, or not the meter's orders.
    """
    return orders_from(json.loads(path.read_text()))


def tariff_from(price: Json) -> Tariff:
    """Read one price of the orders; an absent `cached` is as `input`.

    Raises:
        ArithmeticError: An amount is no number.
    """
    per_input = Decimal(price["input"])
    cached = price.get("cached")
    return Tariff(per_input, per_input if cached is None else Decimal(cached), Decimal(price["output"]), Decimal(price["flat"]), int(price["free_tokens"]))


def price_for(tariff: Tariff) -> Json:
    """A price as the orders have it: what `tariff_from` reads."""
    return {
        "input": _plain(tariff.input),
        "cached": _plain(tariff.cached),
        "output": _plain(tariff.output),
        "flat": _plain(tariff.flat),
        "free_tokens": tariff.free_tokens,
    }


def _account(tenant: Json) -> Account:
    budget = tenant["monthly_budget"]
    return Account(tenant["cost_centre"], tenant["contact"], dict(tenant["limits"]), None if budget is None else Decimal(budget))


def _tariff(price: Price) -> Tariff:
    return Tariff(price.input, price.input if price.cached is None else price.cached, price.output, price.flat, price.free_tokens)


def _plain(amount: Decimal) -> str:
    """An amount without an exponent, which spreadsheets and people misread."""
    return f"{amount:f}"
