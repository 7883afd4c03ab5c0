"""Every supported shape of every chart: linted, valid for three Kubernetes versions, after the house's rules, and the same from three Helm versions."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from helm.charts import (
    CHARTS,
    GOLDEN,
    KUBERNETES,
    LAYERS,
    Refused,
    all_shapes,
    charts,
    golden_file,
    golden_text,
    lint,
    notes,
    release_of,
    render,
    shape_values,
    shapes,
)
from helm.policies import faults_of
from helm.schemas import schema_faults

pytestmark = pytest.mark.charts

ASKED = {
    ("kiva-engine", "host-path"): {"no_host_path"},
}
"""Rules that a shape asks to leave out, because that is what it is about."""

each_shape = pytest.mark.parametrize(("chart", "shape"), all_shapes())
each_chart = pytest.mark.parametrize("chart", charts())


@each_shape
def test_a_shape_passes_helms_own_lint(chart: str, shape: str):
    assert "0 chart(s) failed" in lint(chart, shape_values(chart, shape))


@each_shape
def test_a_shape_is_valid_for_the_three_newest_kubernetes_versions(chart: str, shape: str):
    manifests = render(chart, shape_values(chart, shape), release_of(chart))
    assert [f"{version}: {fault}" for version in KUBERNETES for manifest in manifests for fault in schema_faults(manifest, version)] == []


@each_shape
def test_a_shape_keeps_the_rules_of_the_house(chart: str, shape: str):
    manifests = render(chart, shape_values(chart, shape), release_of(chart))
    assert manifests
    assert faults_of(manifests, without=ASKED.get((chart, shape), ())) == []


@each_shape
def test_a_rule_that_a_shape_leaves_out_is_one_that_it_breaks(chart: str, shape: str):
    for policy in ASKED.get((chart, shape), ()):
        assert any(fault.startswith(policy) for fault in faults_of(render(chart, shape_values(chart, shape), release_of(chart))))


@pytest.mark.parametrize("helm", LAYERS)
@each_shape
def test_a_shape_renders_as_reviewed_whatever_the_version_of_helm(chart: str, shape: str, helm: str):
    rendered = golden_text(render(chart, shape_values(chart, shape), release_of(chart), helm=helm))
    assert rendered == golden_file(chart, shape).read_text(), "look at the difference; python tests/helm/charts.py takes it over"


def test_no_golden_render_outlives_its_shape():
    assert set(GOLDEN.glob("*/*")) == {golden_file(chart, shape) for chart, shape in all_shapes()}


@each_chart
def test_a_chart_looks_the_same_to_the_oldest_and_the_newest_kubernetes(chart: str):
    values = shape_values(chart, shapes(chart)[0])
    assert render(chart, values, kube_version=KUBERNETES[0]) == render(chart, values, kube_version=KUBERNETES[-1])


@each_chart
def test_a_chart_says_something_useful_after_its_installation(chart: str):
    for shape in shapes(chart)[:1]:
        said = notes(chart, shape_values(chart, shape), release_of(chart))
        assert release_of(chart) in said
        assert "<no value>" not in said


@each_chart
def test_a_typo_in_the_values_is_refused_and_named(chart: str):
    values = {**shape_values(chart, shapes(chart)[0]), "replicsa": 3}
    with pytest.raises(Refused, match="replicsa"):
        render(chart, values)


def _objects(schema: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        return [found for index, part in enumerate(schema) for found in _objects(part, f"{path}[{index}]")]
    if not isinstance(schema, dict):
        return []
    own = [(path or "the top", schema)] if schema.get("type") == "object" else []
    return own + [found for key, part in schema.items() for found in _objects(part, f"{path}.{key}" if path else key)]


@each_chart
def test_a_schema_leaves_no_object_open(chart: str):
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
    assert [path for path, found in _objects(schema) if found.get("additionalProperties", True) is True] == []


@each_chart
def test_the_schema_knows_exactly_the_keys_of_the_values(chart: str):
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())

    def compare(part: dict[str, Any], known: dict[str, Any], path: str) -> list[str]:
        if part.get("additionalProperties") is not False or "properties" not in part:
            return []
        # Helm itself passes `global` and `enabled`-like switches of a parent chart.
        names = set(part["properties"]) - {"global"}
        wrong = [f"{path}{name}" for name in names ^ set(known)]
        nested = [
            found for name in names & set(known) if isinstance(known[name], dict) for found in compare(part["properties"][name], known[name], f"{path}{name}.")
        ]
        return wrong + nested

    assert compare(schema, values, "") == []


@each_chart
def test_every_value_is_explained(chart: str):
    lines = (CHARTS / chart / "values.yaml").read_text().splitlines()
    unexplained = [
        line.strip()
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\s*[A-Za-z][\w]*:", line) and not before.strip().startswith("#") and " # " not in line
    ]
    assert unexplained == []


@each_chart
def test_the_names_of_a_charts_templates_begin_with_the_charts_name(chart: str):
    names = [name for path in (CHARTS / chart / "templates").rglob("*") if path.is_file() for name in re.findall(r'define "([^"]+)"', path.read_text())]
    assert [name for name in names if not name.startswith(f"{chart}.")] == []


@each_chart
def test_a_chart_has_all_the_files_of_one(chart: str):
    for name in ("Chart.yaml", "values.yaml", "values.schema.json", "README.md", "templates/NOTES.txt"):
        assert (CHARTS / chart / name).is_file(), name
