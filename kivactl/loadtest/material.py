"""All that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kivactl.loadtest.engine_samples import EngineSample
from kivactl.loadtest.metrics import Window
from kivactl.loadtest.probe import Probe
from kivactl.loadtest.record import Record


@dataclass(frozen=True, slots=True)
class Material:
    """What a run left behind; of several runs the one that decides.

    Attributes:
        summary: As in `summary.json`: what `Summary.as_dict` says, and `bottleneck` where it is known.
        records: All of the run, in any order.
        window: The measured phase; None when it was not reached.
        environment: Sections, each with values by their names.
        engine: What the engines said of themselves, by time; may be empty.
        probes: Of a sweep or a search for the capacity, in the order in which they ran; empty for a single run.
    """

    summary: Mapping[str, Any]
    records: Sequence[Record]
    window: Window | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    engine: tuple[EngineSample, ...] = ()
    probes: tuple[Probe, ...] = ()
