from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import SpecError
from kivactl.spec import document
from kivactl.spec.document import Node, Place, merge, parse, path_of, read, same_names, write_yaml

FILE = Path("kiva.yaml")


def tree(text: str) -> Node:
    node, faults = parse(text, FILE)
    assert node is not None
    assert faults == []
    return node


def written(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)  # YAML has no escapes in two halves


def told(text: str) -> list[str]:
    return [str(fault) for fault in parse(text, FILE)[1]]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\ta: 1", "kiva.yaml:1: a tab stands where spaces must; indent with spaces"),
        ("a:\n\t- b", "kiva.yaml:2: a tab stands where spaces must; indent with spaces"),
        ("a: b: c", "kiva.yaml:1: a ':' is not expected here; check the indentation of this line and the one above, or quote the text"),
        ("a: [1,2", "kiva.yaml:1: a bracket is never closed"),
        ("a: 'x", "kiva.yaml:1: a quote is never closed"),
        ("a: *x", "kiva.yaml:1: an alias (*) has no anchor (&) above it"),
        ("a: 1\n---\nb: 2", "kiva.yaml:2: a second document begins (---); a file holds one"),
        ("- a\nb: 1", "kiva.yaml:2: the indentation does not fit the lines above"),
        ("a: 1\nb: \x00", "kiva.yaml:2: a character that YAML does not allow (U+0000)"),
        ("a: @x", "kiva.yaml:1: text that begins with this character must be quoted"),
        ("a: " + "[" * 500, "kiva.yaml:1: not YAML"),
    ],
)
def test_broken_syntax_is_one_sentence_with_its_line(text: str, fault: str):
    assert told(text) == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", "kiva.yaml:3: a: stands here a second time (first in line 1)"),
        ("m:\n- k: 1\n  k: 2", "kiva.yaml:3: m[0].k: stands here a second time (first in line 2)"),
        ("1: x", "kiva.yaml:1: a key must be text, not '1'"),
        ("? [a]\n: x", "kiva.yaml:1: a key must be text, not a list or mapping"),
        ("a: !foo {b: 1}", "kiva.yaml:1: a: the tag !foo is not known here"),
        ("a: !foo b", "kiva.yaml:1: a: 'b' cannot be read as !foo"),
        ("a: !!int x", "kiva.yaml:1: a: 'x' cannot be read as int"),
        ("a: &a [*a]", "kiva.yaml:1: a[0]: contains itself through an alias (*)"),
        ("a: {<<: 3}", "kiva.yaml:1: a: '<<' takes a mapping, such as an alias (*) of one"),
    ],
)
def test_what_is_wrong_inside_is_told(text: str, fault: str):
    assert told(text) == [fault]


def test_all_faults_are_told_at_once():
    assert len(told("a: 1\na: 2\n1: x\nb: !foo y")) == 3


def test_the_same_text_in_two_files_has_the_places_and_faults_of_each():
    text = "a: {b: 1}\na: 2"
    for file in (FILE, Path("other.yaml"), FILE):
        node, faults = parse(text, file)
        assert node is not None
        assert node.value["a"].value["b"].place == Place(file, 1)
        assert [str(fault) for fault in faults] == [f"{file}:2: a: stands here a second time (first in line 1)"]
        faults.clear()


def test_words_of_yaml_1_1_stay_text():
    assert tree("a: yes\nb: on\nc: 1:30\nd: 2024-01-01\ne: 012").plain == {"a": "yes", "b": "on", "c": "1:30", "d": "2024-01-01", "e": 12}


def test_an_empty_value_stands_in_its_keys_line():
    assert tree("a:\n\n\nb: 1").value["a"].place == Place(FILE, 1)


def test_merge_keys_take_over_what_is_not_written():
    assert tree("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}").plain["b"] == {"k": 3, "l": 2}


def test_aliases_that_multiply_are_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(SpecError, match="more than 100000 values"):
        parse("\n".join(lines), FILE)


# YAML forbids control characters outright and folds the exotic separators.
texts = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(texts, json_values, min_size=1, max_size=5))
def test_what_is_written_as_yaml_is_read_back(data: dict[str, Any]):
    assert tree(write_yaml(data)).plain == data


@given(st.dictionaries(st.text("abc", max_size=3), json_values, min_size=1, max_size=5))
def test_json_is_yaml(data: dict[str, Any]):
    assert tree(written(data)).plain == data


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_fail(text: str):
    node, faults = parse(text, FILE)
    assert node is None or faults == [] or all(fault.place.line >= 1 for fault in faults)


mappings = st.dictionaries(st.sampled_from("abcd"), json_values, max_size=4)


@given(mappings)
def test_an_overlay_of_itself_changes_nothing(data: dict[str, Any]):
    node = tree(written(data))
    assert merge(node, node).plain == data


@given(mappings)
def test_an_empty_overlay_changes_nothing(data: dict[str, Any]):
    assert merge(tree(written(data)), tree("{}")).plain == data


@given(mappings, mappings)
def test_every_key_of_both_is_there_and_the_overlays_scalars_win(base: dict[str, Any], over: dict[str, Any]):
    merged = merge(tree(written(base)), tree(written(over))).plain
    assert set(merged) == set(base) | set(over)
    for key, value in over.items():
        if not isinstance(value, (dict, list)):
            assert merged[key] == value
    for key in set(base) - set(over):
        assert merged[key] == base[key]


entries = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "c", "d"])}, optional={"x": st.integers(), "y": st.integers()}),
    unique_by=lambda e: e["name"],
    max_size=4,
)


@given(entries, entries)
def test_named_entries_merge_by_name_and_new_ones_come_last(base: list[dict[str, Any]], over: list[dict[str, Any]]):
    merged = merge(tree(written({"l": base})), tree(written({"l": over}))).plain["l"]
    by_name = {entry["name"]: entry for entry in over}
    names = [entry["name"] for entry in base]
    assert [entry["name"] for entry in merged] == names + [entry["name"] for entry in over if entry["name"] not in names]
    for entry in merged:
        before = next((e for e in base if e["name"] == entry["name"]), {})
        assert entry == {**before, **by_name.get(entry["name"], {})}


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"l": [1, 2]}, {"l": [3]}, {"l": [3]}),
        ({"l": [{"k": 1}]}, {"l": [{"name": "a"}]}, {"l": [{"name": "a"}]}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": 1}, {"a": None}, {"a": None}),
    ],
)
def test_everything_else_is_replaced(base: Any, over: Any, merged: Any):
    assert merge(tree(written(base)), tree(written(over))).plain == merged


def test_a_merged_value_knows_the_file_it_came_from():
    over, _ = parse("a:\n  c: 3", Path("kiva.prod.yaml"))
    assert over is not None
    merged = merge(tree("a:\n  b: 1\n  c: 2"), over)
    assert str(merged.value["a"].value["b"].place) == "kiva.yaml:2"
    assert str(merged.value["a"].value["c"].place) == "kiva.prod.yaml:2"


def test_entries_of_the_same_name_are_told():
    assert [str(fault) for fault in same_names(tree("m:\n- name: a\n- name: b\n- name: a"))] == [
        "kiva.yaml:4: m[2].name: 'a' is already the name of the entry in line 2"
    ]


def test_paths_are_written_as_people_do():
    assert path_of(("models", 0, "engine", "dtype")) == "models[0].engine.dtype"


def test_a_missing_file_hints_at_init(tmp_path: Path):
    with pytest.raises(SpecError, match="there is no file") as caught:
        read(tmp_path / "kiva.yaml")
    assert caught.value.hint == "kivactl init"


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(SpecError, match="is a folder, not a file"):
        read(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(SpecError, match="no permission to read"):
        read(tmp_path / "kiva.yaml")


def test_a_link_to_itself_is_refused(tmp_path: Path):
    (tmp_path / "kiva.yaml").symlink_to("kiva.yaml")
    with pytest.raises(SpecError, match="cannot read"):
        read(tmp_path / "kiva.yaml")


def test_a_file_without_end_is_refused():
    with pytest.raises(SpecError, match="larger than 1MiB"):
        document.read(Path("/dev/zero"))


@pytest.mark.parametrize(("data", "line"), [(b"a: 1\nb: \xe4", 2), ("a: 1".encode("utf-16"), 1)])
def test_what_is_not_utf_8_is_told_with_its_line(tmp_path: Path, data: bytes, line: int):
    path = tmp_path / "kiva.yaml"
    path.write_bytes(data)
    node, faults = read(path)
    assert node is None
    assert faults[0].place.line == line
    assert "not UTF-8" in faults[0].message


def test_a_byte_order_mark_and_foreign_line_ends_are_fine(tmp_path: Path):
    path = tmp_path / "kiva.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    node, faults = read(path)
    assert (node and node.plain, faults) == ({"a": 1, "b": 2}, [])
