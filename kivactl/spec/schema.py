"""The JSON Schema of `kiva.yaml`, for editors that complete and check while one types."""

from __future__ import annotations

from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema, JSON-ready; unknown keys are not allowed anywhere."""
    from kivactl.spec.platform import Platform

    # Quantities are written as text in both directions; only this mode gives their defaults as text too.
    return {"$schema": DIALECT, "$id": "urn:kivactl:kiva.yaml", **Platform.model_json_schema(mode="serialization")}
