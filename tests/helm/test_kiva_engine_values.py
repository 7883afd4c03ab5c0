"""The chart kiva-engine: names, what is refused and how, and what is said after an installation."""

from __future__ import annotations

import re

import pytest
from helm.charts import Json, Refused, notes, render, shape_values, the
from helm.engine_release import CHART, engine, merged, pod, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.charts

# Names, and what is refused by the schema


releases = st.from_regex(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])?", fullmatch=True)


@settings(max_examples=12)
@given(release=releases | st.just("k" * 53))
def test_whatever_the_release_is_called_every_name_fits_a_label(release: str):
    from helm.policies import names_fit, selectors_are_stable

    manifests = engine("preload", release)
    assert names_fit(manifests) + selectors_are_stable(manifests) == []
    assert the(manifests, "Service", release)


def test_jobs_of_releases_that_begin_alike_are_not_confused():
    names = {the(engine("preload", "k" * 52 + last), "Job")["metadata"]["name"] for last in "ab"}
    assert len(names) == 2
    assert {len(name) for name in names} == {63}


def test_several_engines_may_share_a_release_under_names_of_their_own():
    first, second = (engine(name=name) for name in ("one", "two"))
    assert {manifest["metadata"]["name"] for manifest in first}.isdisjoint({manifest["metadata"]["name"] for manifest in second})
    assert not the(first, "Service", "one")["spec"]["selector"].items() <= pod(second)["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"resources": {"gpus": 1}}, "gpus"),
        ({"resources": {"gpu": {"counts": 1}}}, "counts"),
        ({"storage": {"kind": "nfs"}}, "storage"),
        ({"storage": {"subPath": "../other"}}, "subPath"),
        ({"strategy": {"kind": "blue-green"}}, "strategy"),
        ({"environment": {"A": 1}}, "environment"),
        ({"environment": {"A B": "1"}}, "A B"),
        ({"command": "python3"}, "command"),
        ({"resources": {"memory": "16 GB"}}, "memory"),
        ({"model": {"name": "Llama 3"}}, "model"),
        ({"labels": {"a": "b c"}}, "labels"),
        ({"networkPolicy": {"egress": [{"port": 443}]}}, "egress"),
        ({"secretEnvironment": {"A": {"secret": "x", "value": "y"}}}, "value"),
        ({"autoscaling": {"cacheRatio": 80}}, "cacheRatio"),
        ({"stalled": {"afterSeconds": 0}}, "afterSeconds"),
    ],
)
def test_a_value_that_nobody_knows_or_that_cannot_be_is_refused_and_named(values: Json, named: str):
    said = refusal(**values)
    assert "don't meet the specifications of the schema" in said
    assert named in said


def test_a_chart_without_values_says_what_it_needs():
    with pytest.raises(Refused, match=r"image\.reference is empty"):
        render(CHART)


# What it says


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("minimal", r"1 engine\(s\), on CPUs"),
        ("minimal", "One engine: while its node"),
        ("gpu", r"3 engine\(s\), each pod with 1 nvidia.com/gpu"),
        ("multi-node", "of 2 pods each, each pod with 8 nvidia.com/gpu"),
        ("recreate", "an outage of up to 690 s"),
        ("preload", "once the job kiva-x-load-... has loaded"),
        ("preload-one-node", "Only pods on one node"),
        ("scale-to-zero", r"0 to 2 engine\(s\)"),
    ],
)
def test_its_notes_follow_from_the_values(shape: str, said: str):
    assert re.search(said, notes(CHART, shape_values(CHART, shape)))


@pytest.mark.parametrize(("values", "said"), [({"networkPolicy": {"enabled": False}}, "No NetworkPolicy"), ({"image": {"unpinned": True}}, "go by tag")])
def test_its_notes_warn_of_what_is_not_for_production(values: Json, said: str):
    minimal = shape_values(CHART, "minimal")
    assert said not in notes(CHART, minimal)
    assert said in notes(CHART, merged(minimal, values))
