"""How long `kivactl deploy --plan` takes when nothing, one model or every model changed, beside `helm template` of the same releases on the same cores.

Run: .venv/bin/python benchmarks/cluster_plan.py [--models 1 200] [--rounds 5]

The API server is the tests' own, on the same cores: what it takes is in the figures. The deploy before is real, but for the pods, which are declared
ready at once. `helm template` asks no cluster and compares nothing; it is what any tool pays at least that renders by Helm. Both take turns in each
round; figures are medians, ratios are of the same round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cluster_platform import CONTEXT, NAMESPACE, Operator, helm_on_path  # noqa: E402
from cluster_specs import model  # noqa: E402
from kube_api.kubelet import Kubelet  # noqa: E402
from kube_api.server import KubeApi  # noqa: E402

from kivactl.flows.deploy.cluster import desired_for  # noqa: E402
from kivactl.flows.deployment import Deployment  # noqa: E402
from kivactl.spec.load import load  # noqa: E402
from kivactl.targets.kubernetes.course import Surveyor  # noqa: E402
from kivactl.targets.kubernetes.target import KubernetesTarget  # noqa: E402

AT_ONCE = 8
"""Helm processes at a time: as many as a plan starts."""


@dataclass(frozen=True)
class Figures:
    """What was measured, in seconds; medians. Seconds of processors are those of kivactl and Helm, without the API server."""

    models: int
    deploy_s: float
    plan_s: float
    plan_cpu_s: float
    changed_plan_s: float
    all_changed_plan_s: float
    helm_s: float
    helm_cpu_s: float
    ratio: float


def measure(folder: Path, models: int, rounds: int) -> Figures:
    """Deploy so many models, and plan them again.

    Args:
        folder: An empty one.
        models: How many.
        rounds: How often.
    """
    with KubeApi() as api, _ready(api):
        kubelet = Kubelet(api)
        for number in range(models // 8 + 1):
            kubelet.node(f"gpu-{number}", gpus=8, cpu="128", memory="1Ti")
        api.namespace(NAMESPACE)
        operator = Operator(folder, api.kubeconfig(folder / "kubeconfig", CONTEXT))
        names = [f"model-{number:03}" for number in range(models)]
        operator.spec(*(model(name) for name in names))
        operator.provision()
        deployment = Deployment(load(folder / "kiva.yaml"), operator.layout, lambda: load(folder / "kiva.yaml"))
        target = deployment.target
        assert isinstance(target, KubernetesTarget)
        desired = desired_for(deployment, {})
        deploy_s, _ = _seconds(lambda: list(target.apply(desired)))
        target.finish(deployment.loaded.digest, "2026-11-29T12:00:00+00:00")
        releases = [one.release for one in Surveyor(target.cluster, target.helm, target.charts).course(desired).steps]

        def template() -> None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda one: target.helm.template(one.name, target.charts / one.chart, one.values), releases))

        _plan(folder, 0)  # compiles the modules
        pairs = [(_seconds(lambda: _plan(folder, 0)), _seconds(template)) for _ in range(rounds)]
        changed = []
        for some in (names[:1], names):
            operator.spec(*(model(name, **({"max_length": 4096} if name in some else {})) for name in names))
            changed.append(median(_seconds(lambda: _plan(folder, 2))[0] for _ in range(rounds)))
    plans, helms = zip(*pairs, strict=True)
    plan_s, plan_cpu_s, helm_s, helm_cpu_s = (median(one[place] for one in group) for group in (plans, helms) for place in (0, 1))
    return Figures(models, deploy_s, plan_s, plan_cpu_s, *changed, helm_s, helm_cpu_s, median(plan[0] / helm[0] for plan, helm in pairs))


def _plan(folder: Path, code: int) -> None:
    """One run of the program; its modules are compiled, as after an installation, whatever the environment says of that."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    done = subprocess.run([sys.executable, "-m", "kivactl", "deploy", "--plan"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr


def _seconds(act: Callable[[], object]) -> tuple[float, float]:
    """Those of the clock, and those of processors that ended programs took."""
    before, began_s = getrusage(RUSAGE_CHILDREN), time.monotonic()
    act()
    took_s, after = time.monotonic() - began_s, getrusage(RUSAGE_CHILDREN)
    return took_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def _ready(api: KubeApi) -> Iterator[None]:
    """Deployments are done as soon as they are written."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.1):
            for one in api.list("Deployment"):
                wanted, generation = one["spec"].get("replicas", 1), one["metadata"].get("generation", 1)
                if (one.get("status") or {}).get("observedGeneration") != generation:
                    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
                    status = {"status": {"observedGeneration": generation, **counts}}
                    api.change("Deployment", one["metadata"]["name"], status, one["metadata"]["namespace"], subresource="status")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, nargs="+", default=[1, 200])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; seconds, medians of {asked.rounds}")
    titles = ("models", "deploy", "plan, nothing changed", "(cpu)", "one changed", "all changed", "helm template", "(cpu)", "plan / helm")
    print("  ".join(titles))
    for models in asked.models:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            helm_on_path(Path(folder), patch)
            found = measure(Path(folder), models, asked.rounds)
        values = (found.deploy_s, found.plan_s, found.plan_cpu_s, found.changed_plan_s, found.all_changed_plan_s, found.helm_s, found.helm_cpu_s, found.ratio)
        cells = [str(models), *(f"{value:.2f}" for value in values)]
        print("  ".join(cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True)), flush=True)


if __name__ == "__main__":
    main()
