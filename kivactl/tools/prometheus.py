"""Prometheus' text format: reads metrics over HTTP, and does with histograms what PromQL would do.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import http.client
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kivactl.errors import NotReadyError

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_EDGE = re.compile(r'(?:^|,)le="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by size.

    Attributes:
        counts: How many were at most so large, by that size; ascending, the last is infinity.
    """

    counts: Mapping[float, float]

    @property
    def count(self) -> float:
        """All observations."""
        return self.counts[math.inf]

    def since(self, before: Histogram) -> Histogram:
        """What was observed since an earlier reading; all of it when the process was started anew in between."""
        if self.count < before.count or self.counts.keys() != before.counts.keys():
            return self
        return Histogram({edge: count - before.counts[edge] for edge, count in self.counts.items()})

    def with_those_of(self, other: Histogram) -> Histogram:
        """The observations of two processes of the same kind."""
        return Histogram({edge: count + other.counts.get(edge, other.count) for edge, count in self.counts.items()})

    def without_smallest(self, number: float) -> Histogram:
        """The same without the so many smallest observations."""
        return Histogram({edge: max(0.0, count - number) for edge, count in self.counts.items()})

    def quantile(self, ratio: float) -> float | None:
        """The size that a part of the observations does not exceed, as `histogram_quantile` estimates it; infinity above the last edge.

        Args:
            ratio: 0..1.

        Returns:
            None without observations.
        """
        if self.count <= 0:
            return None
        rank = ratio * self.count
        below_edge, below = 0.0, 0.0
        for edge, count in self.counts.items():
            if count >= rank and count > below:
                return edge if math.isinf(edge) else min(edge, below_edge + (edge - below_edge) * (rank - below) / (count - below))
            below_edge, below = edge, count
        return math.inf


def parse_histogram(text: str, name: str) -> Histogram | None:
    """A histogram, added up over all its labels; None when it is not there.

    Args:
        text: What a process offers.
        name: Without `_bucket`.
    """
    counts: dict[float, float] = {}
    for line in text.splitlines():
        if not line.startswith(f"{name}_bucket"):
            continue
        match = _SAMPLE.match(line)
        edge = _EDGE.search(match[2] or "") if match and match[1] == f"{name}_bucket" else None
        if match is None or edge is None:
            continue
        size = float(edge[1].replace("+Inf", "inf"))
        counts[size] = counts.get(size, 0.0) + float(match[3])
    return Histogram(dict(sorted(counts.items()))) if math.inf in counts else None


def parse_totals(text: str, names: Collection[str]) -> dict[str, float]:
    """Values by name, each added up over all its labels; those that are not there are absent.

    Args:
        text: What a process offers.
        names: Whole names, such as `vllm:num_requests_running`.
    """
    totals: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is not None and match[1] in names:
            totals[match[1]] = totals.get(match[1], 0.0) + float(match[3])
    return totals


def scrape(authority: str, path: str, timeout_s: float = 5) -> str:
    """What is offered at an address.

    Args:
        authority: `host:port`.
        path: Such as `/metrics`.
        timeout_s: Seconds an answer may take.

    Raises:
        NotReadyError: Nothing sensible is.
    """
    connection = http.client.HTTPConnection(authority, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise NotReadyError(f"no metrics are to be had at http://{authority}{path}: {error}", "kivactl status") from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise NotReadyError(f"no metrics are to be had at http://{authority}{path}: status {answer.status}", "kivactl status")
    return text
