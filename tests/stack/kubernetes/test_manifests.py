"""One form for manifests: the same objects from every version of Helm, the same meaning for every reader of YAML."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from kivactl.stack.kubernetes.manifests import parse_manifests, yaml_text

WORDS = ["yes", "No", "on", "~", "", "0440", "1e3", "1:30", "2026-01-01", "null", "a: b", "- a", "#", "=", "a:", '{"a": "\'b\'"}', "C:\\x"]
LINES = ["a\nb\n", " a\nb", "a\n\nb", "a\n", "\n", "a\n \nb", "x\ty\n"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from([*WORDS, *LINES])
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(DATA)
def test_what_is_written_is_read_back_by_readers_of_both_versions_of_yaml(data):
    text = yaml_text(data)
    assert YAML(typ="safe", pure=True).load(text) == data
    assert yaml.safe_load(text) == data


def test_text_stays_readable():
    data = {"kind": "ConfigMap", "image": "registry.example.org/kiva/engine@sha256:0a", "data": {"a.json": "{\n  x\n}\n"}, "on": ["yes", "plain", 1, True, {}]}
    assert yaml_text(data) == (
        "kind: ConfigMap\nimage: registry.example.org/kiva/engine@sha256:0a\ndata:\n  a.json: |\n    {\n      x\n    }\n"
        '"on":\n  - "yes"\n  - plain\n  - 1\n  - true\n  - {}\n'
    )


HEAD = "kind: A\nmetadata:\n  name: a\n"


@pytest.mark.parametrize("word", ["0440", "1e3", "true", "yes", "Off", "~", "1.5", "-1", "0x1F", "1:30", ".5", "2026-01-01", "1_000"])
def test_what_stood_without_quotes_and_may_be_no_text_stays_as_it_stood(word):
    (manifest,) = parse_manifests(f"{HEAD}value: {word}\n")
    assert yaml_text(manifest.content) == f"{HEAD}value: {word}\n"


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("'0440'", '"0440"'),
        ('"yes"', '"yes"'),
        ("'text'", "text"),
        ('"text"', "text"),
        ("text", "text"),
        ("8Gi", '"8Gi"'),
        ("a b", '"a b"'),
        ('"\\"a"', "'\"a'"),
    ],
)
def test_quotes_that_mean_nothing_are_not_kept(written, form):
    (manifest,) = parse_manifests(f"{HEAD}value: {written}\n")
    assert yaml_text(manifest.content) == f"{HEAD}value: {form}\n"


def test_objects_come_sorted_whatever_their_order_and_comments():
    text = "---\n# Source: x\nkind: B\nmetadata: {name: b}\n---\n# nothing\n---\nkind: A\nmetadata:\n  name: 'x:y'\n---\n"
    found = parse_manifests(text)
    assert [(one.kind, one.name, one.file_name) for one in found] == [("A", "x:y", "a-x_y.yaml"), ("B", "b", "b-b.yaml")]


@pytest.mark.parametrize("text", ["kind: A\n", "- a\n", "a: [", "metadata: {name: a}\n"])
def test_what_is_no_object_is_refused(text):
    with pytest.raises(ValueError, match="what Helm printed is no"):
        parse_manifests(text)
