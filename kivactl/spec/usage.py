"""The spec's part on metering: where the ledger is, and what things cost."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from kivactl.spec.fields import Amount, PositiveDuration, Strict

_LEDGER = re.compile(r"sqlite|postgresql://[^\s@:/]+@[^\s@/?#]+/[^\s/?#]+")


class Price(Strict):
    """What a model costs a tenant, in `usage.currency`."""

    input: Amount = Field(default=Decimal(0), description="For a million prompt tokens.")
    cached: Amount | None = Field(default=None, description="For a million prompt tokens that came out of the cache; as `input` when absent.")
    output: Amount = Field(default=Decimal(0), description="For a million answer tokens.")
    flat: Amount = Field(default=Decimal(0), description="For each month in which a tenant used the model.")
    free_tokens: int = Field(default=0, strict=True, ge=0, description="Tokens a month, prompt and answer together, that cost a tenant nothing.")


def _ledger(text: str) -> str:
    if not _LEDGER.fullmatch(text):
        msg = "must be sqlite or postgresql://USER@HOST/DATABASE; the password comes from the variable KIVA_LEDGER_PASSWORD or ~/.pgpass"
        raise ValueError(msg)
    return text


class Usage(Strict):
    """The record of who used what."""

    ledger: Annotated[str, AfterValidator(_ledger)] = Field(
        default="sqlite", description="sqlite (a file below `storage.state`) or postgresql://USER@HOST/DATABASE; no password here."
    )
    currency: str = Field(default="EUR", pattern=r"^[A-Z]{3}$", description="ISO 4217 code of prices and budgets.")
    keep: PositiveDuration = Field(default=400 * 86400.0, description="How long single requests are kept; the sums of days stay.")
