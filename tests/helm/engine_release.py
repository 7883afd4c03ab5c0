"""Releases of the chart kiva-engine as its tests ask for them, and the parts of them that the tests look at."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from helm.charts import Json, Refused, render, shape_values, the

CHART = "kiva-engine"
IMAGE = shape_values(CHART, "minimal")["image"]["reference"]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def merged(base: Json, over: Json) -> Json:
    """Values laid over others, as Helm does."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and isinstance(result.get(key), dict) else value
    return result


def engine(shape: str = "minimal", release: str = "kiva-x", **values: Any) -> list[Json]:
    """The manifests of a shape with some values changed."""
    return render(CHART, merged(shape_values(CHART, shape), values), release)


def pod(manifests: list[Json]) -> Json:
    """Template of an engine's pods; of an engine over several nodes, of the first."""
    (workload,) = [manifest["spec"] for manifest in manifests if manifest["kind"] in {"Deployment", "LeaderWorkerSet"}]
    return workload["template"] if "template" in workload else workload["leaderWorkerTemplate"]["leaderTemplate"]


def container(manifests: list[Json]) -> Json:
    """The engine's container."""
    (only,) = pod(manifests)["spec"]["containers"]
    return only


def environment(of: Json) -> dict[str, Any]:
    """Variables of a container and their values or sources."""
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in of["env"]}


def patience_s(probe: Json) -> int:
    """Seconds until a probe gives up."""
    return probe["periodSeconds"] * probe["failureThreshold"]


def refusal(**values: Any) -> str:
    """What Helm says to values that are refused."""
    with pytest.raises(Refused) as refused:
        engine(**values)
    return str(refused.value)


def loading(manifests: list[Json]) -> Json:
    """The pod of the job that loads."""
    return the(manifests, "Job")["spec"]["template"]["spec"]


def marker(of: Json) -> str:
    """The file that a small container makes or waits for."""
    return str(of["command"][-1])
