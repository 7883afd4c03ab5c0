"""What the fields of a spec are made of: names, sizes, addresses, amounts; strict, and with sentences for people."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from kivactl.spec.quantities import Bytes, Duration

NAME = re.compile(r"^[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?$")
_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


class Strict(BaseModel):
    """A part of the spec: unknown keys are faults, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def form(pattern: str, what: str) -> tuple[AfterValidator, WithJsonSchema]:
    """Text of a form, for `Annotated`; text that is not of it `must be` what is said here."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            msg = f"must be {what}, not '{text}'"
            raise ValueError(msg)
        return text

    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        msg = f"must be 1 to 63 lower-case letters, digits, dots or dashes and begin and end with a letter or digit, not '{text}'"
        raise ValueError(msg)
    return text


def _more_than_nothing(amount: float) -> float:
    if amount <= 0:
        msg = "must be more than 0"
        raise ValueError(msg)
    return amount


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        msg = f"must be an IP address such as 127.0.0.1 or 0.0.0.0, not '{text}'"
        raise ValueError(msg) from None


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        msg = f"must be a URL without user, query and fragment, such as https://sso.example.com/realms/land, not '{text}'"
        raise ValueError(msg)
    return text


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME.pattern})]
"""Lower-case letters, digits, dots and dashes: fits a file name, a Kubernetes object and a URL."""

PositiveBytes = Annotated[Bytes, AfterValidator(_more_than_nothing)]
PositiveDuration = Annotated[Duration, AfterValidator(_more_than_nothing)]

Address = Annotated[str, AfterValidator(_address)]
"""An IP address to listen on."""

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]

Url = Annotated[str, AfterValidator(_url)]
"""An http or https URL that names no secret."""

Amount = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9), WithJsonSchema({"type": ["number", "string"], "minimum": 0})]
"""Money, in the currency of `usage.currency`; exact, never a float."""
