"""Patches and ownership of fields, as pure functions."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kube_api.answers import Refusal
from kube_api.merge import json_patch, merge_patch, strategic_merge
from kube_api.ownership import applied_to, decode, encode, fields_of
from kube_api.quantities import number, text
from kube_api.schemas import faults_of, missing_in, schema_of

POD = schema_of("", "v1", "Pod")
JSON = st.recursive(st.booleans() | st.integers() | st.text(max_size=5), lambda below: st.dictionaries(st.text(min_size=1, max_size=4), below, max_size=4))


def pod(*containers, **more):
    return {"spec": {"containers": list(containers), **more}}


def test_a_strategic_merge_goes_by_the_names_of_items():
    before = pod({"name": "a", "image": "1"}, {"name": "b", "image": "1"})
    patch = pod({"name": "b", "image": "2"}, {"name": "c", "image": "1"})
    assert [(one["name"], one["image"]) for one in strategic_merge(before, patch, POD)["spec"]["containers"]] == [("a", "1"), ("b", "2"), ("c", "1")]


@pytest.mark.parametrize(
    ("patch", "names"),
    [
        (pod({"name": "a", "$patch": "delete"}), ["b"]),
        (pod({"$patch": "replace"}, {"name": "c"}), ["c"]),
        ({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}, ["b", "a"]),
        ({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}}, ["c", "a", "b"]),
        ({"spec": {"$patch": "replace", "containers": [{"name": "z"}]}}, ["z"]),
        ({"spec": {"$retainKeys": ["containers"], "containers": []}}, ["a", "b"]),
    ],
)
def test_its_directives(patch, names):
    before = pod({"name": "a"}, {"name": "b"}, restartPolicy="Never")
    kept = copy.deepcopy(before)
    assert [one["name"] for one in strategic_merge(before, patch, POD)["spec"]["containers"]] == names
    assert before == kept


def test_primitive_lists_lose_what_they_are_told_to():
    before = {"metadata": {"finalizers": ["a", "b"]}}
    assert strategic_merge(before, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}, POD)["metadata"]["finalizers"] == ["b"]
    assert strategic_merge(before, {"metadata": {"finalizers": ["c"]}}, POD)["metadata"]["finalizers"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("patch", "after"),
    [
        ([{"op": "add", "path": "/b/-", "value": 3}], {"a": {"c/d": 1}, "b": [1, 2, 3]}),
        ([{"op": "remove", "path": "/a/c~1d"}], {"a": {}, "b": [1, 2]}),
        ([{"op": "replace", "path": "/b/0", "value": 9}], {"a": {"c/d": 1}, "b": [9, 2]}),
        ([{"op": "move", "from": "/b", "path": "/e"}], {"a": {"c/d": 1}, "e": [1, 2]}),
        ([{"op": "test", "path": "/b", "value": [1, 2]}], {"a": {"c/d": 1}, "b": [1, 2]}),
    ],
)
def test_json_patches(patch, after):
    assert json_patch({"a": {"c/d": 1}, "b": [1, 2]}, patch) == after


@pytest.mark.parametrize("patch", [[{"op": "test", "path": "/a", "value": 2}], [{"op": "remove", "path": "/x"}], [{"op": "replace", "path": "/x", "value": 1}]])
def test_json_patches_that_do_not_fit(patch):
    with pytest.raises(Refusal) as caught:
        json_patch({"a": 1}, patch)
    assert caught.value.code == 422


@given(JSON, JSON)
def test_a_merge_patch_twice_is_the_same_as_once(value, patch):
    once = merge_patch(value, patch)
    assert merge_patch(once, patch) == once


@given(st.dictionaries(st.text(min_size=1, max_size=4), JSON, max_size=4))
def test_fields_survive_their_encoding(spec):
    paths = fields_of({"spec": spec}, None)
    assert decode(encode(paths)) == paths


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)), st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)))
def test_one_owner_alone_gets_exactly_what_it_applies(first, second):
    schema = schema_of("", "v1", "ConfigMap")

    def applied(data):
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, **({"data": data} if data else {})}

    made = applied_to(None, applied(first), schema, "me", "now", force=False)
    assert applied_to(made, applied(second), schema, "me", "now", force=False).get("data", {}) == second


def test_what_is_unknown_wrong_or_missing():
    unknown, wrong = faults_of({"spec": {"containers": [{"name": 1, "imag": "x"}], "hostnetwork": True}}, POD)
    assert unknown == ["spec.containers[0].imag", "spec.hostnetwork"]
    assert wrong == [("spec.containers[0].name", "string")]
    assert missing_in({"spec": {"containers": [{"image": "x"}]}}, POD) == ["spec.containers[0].name"]


@pytest.mark.parametrize(
    ("written", "amount", "again"), [("500m", 0.5, "500m"), ("2", 2, "2"), ("16Gi", 16 * 2**30, "16Gi"), ("1000", 1000, "1000"), ("1.5", 1.5, "1500m")]
)
def test_quantities(written, amount, again):
    assert float(number(written)) == amount
    assert text(number(written)) == again
    with pytest.raises(ValueError, match="quantities must match"):
        number("16 GiB")
