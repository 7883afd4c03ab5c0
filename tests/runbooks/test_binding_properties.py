"""Whatever people write, binding tells it: never a traceback, never a silent wrong value."""

from __future__ import annotations

import re
import string

import pytest
from generated import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from own_runbooks import GOOD, spec, written

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.runbooks import parameters, tolerances
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import Kind
from kivactl.runbooks.binding import bind_file
from kivactl.runbooks.format import Parameter, ParameterType, Text, Tolerance
from kivactl.spec.document import write_yaml

FILES = {path.stem: path.read_text() for path in root.content("runbooks").glob("*.yaml")}
WORD = st.text(string.ascii_lowercase + "-.", min_size=1, max_size=20)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["${x}", "${", "${hello.x}", "$${x}", "30s", "1GiB"])
TREE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)
KINDS = [ParameterType.INTEGER, ParameterType.NUMBER, ParameterType.DURATION, ParameterType.SIZE, ParameterType.FLAG, ParameterType.TEXT]


def binds(path, loaded=None, chosen=None) -> bool:
    """Whether it binds; any other end than a told fault is a bug, and each fault says where it is."""
    try:
        bind_file(path, loaded, chosen)
    except SpecError as error:
        told = error.details
    else:
        return True
    assert told
    assert all(detail.startswith(f"{path.name}:") for detail in told)
    return False


@examples(0.4)
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_a_damaged_line_of_a_shipped_runbook_is_told_or_harmless(data, name, tmp_path):
    lines = FILES[name].splitlines(keepends=True)
    index = data.draw(st.integers(0, len(lines) - 1))
    damaged = data.draw(
        st.sampled_from(["", lines[index] * 2, lines[index].replace(":", "", 1), lines[index].replace("e", "ee", 1), " " + lines[index], lines[index][:-3]])
    )
    binds(written(tmp_path, "".join([*lines[:index], damaged, *lines[index + 1 :]]), "damaged"))


@examples(0.4)
@given(key=st.sampled_from(["title", "purpose", "roles", "steps", "parameters", "load", "steady_state", "objectives", "approval", "escalation"]), value=TREE)
def test_anything_in_place_of_a_part_is_told_or_harmless(key, value, tmp_path):
    whole = {
        "title": {"en": "T", "de": "T"},
        "purpose": {"en": "P", "de": "P"},
        "roles": {"responsible": ["operator"], "accountable": "platform-lead"},
        "steps": [{"name": "hello", "title": {"en": "H", "de": "H"}, "action": "platform.answer"}],
    }
    try:
        text = write_yaml({**whole, key: value})
    except Exception:  # noqa: BLE001  (what cannot be written cannot be read either)
        assume(False)
    path = written(tmp_path, text)
    if binds(path, spec(tmp_path)):
        assert bind_file(path).steps[0].name


@given(word=WORD)
def test_an_unknown_action_never_binds(word, tmp_path):
    assume(word not in ACTIONS)
    path = written(tmp_path, GOOD.replace("platform.answer", f"'{word}'"))
    with pytest.raises(SpecError, match="has a fault") as caught:
        bind_file(path)
    assert f"there is no action '{word}'" in caught.value.details[0]


@given(word=WORD)
def test_an_unknown_probe_never_binds(word, tmp_path):
    assume(word not in PROBES)
    check = f"    check: {{title: {{en: Ok, de: Gut}}, probe: '{word}', tolerance: {{equals: 1}}}}\n"
    with pytest.raises(SpecError) as caught:
        bind_file(written(tmp_path, GOOD + check))
    assert f"there is no probe '{word}'" in caught.value.details[0]


@given(key=st.sampled_from(["title", "purpose", "roles", "steps"]))
def test_a_duplicate_key_never_binds(key, tmp_path):
    assert not binds(written(tmp_path, f"{GOOD}{key}: 1\n"))


@given(value=TREE)
def test_anything_as_a_parameter_of_an_action_is_told_or_taken(value, tmp_path):
    try:
        text = write_yaml({"prompt": value}).replace("\n", "\n      ")
    except Exception:  # noqa: BLE001  (as above)
        assume(False)
    path = written(tmp_path, GOOD.replace("params: {prompt: Hello}", f"params:\n      {text}".rstrip()))
    if binds(path):
        given_value = bind_file(path).steps[0].do.params.prompt
        assert isinstance(given_value, str)


@given(text=st.text("${}.abc", max_size=30))
def test_placeholders_are_known_told_or_plain_text(text, tmp_path):
    path = written(tmp_path, GOOD.replace("{prompt: Hello}", f"{{prompt: '{text}'}}"))
    if binds(path):
        assert bind_file(path).steps[0].do.params.prompt == re.sub(r"\$(\$\{[^{}]*\})", r"\1", text)


@given(st.sampled_from(KINDS), TREE)
def test_whatever_is_given_a_parameter_gets_its_type_or_a_sentence(kind, value):
    declared = Parameter(type=kind, description=Text(en="A", de="A"))
    try:
        read = parameters.value_of(declared, value, None)
    except ValueError as error:
        read, sentence = None, str(error)
    if read is None:
        assert sentence
        return
    expected = {ParameterType.INTEGER: int, ParameterType.SIZE: int, ParameterType.FLAG: bool, ParameterType.TEXT: str}.get(kind, float)
    assert isinstance(read, (expected, int) if expected is float else expected)


@given(st.sampled_from(KINDS[:4]), st.integers(0, 10**9))
def test_what_is_written_is_read_back(kind, number):
    declared = Parameter(type=kind, description=Text(en="A", de="A"))
    assert parameters.value_of(declared, parameters.written(kind, number), None) == number


@given(st.sampled_from(list(Kind)), st.sampled_from(["equals", "at_least", "at_most"]), st.integers() | st.floats() | st.text(max_size=10))
def test_a_tolerance_without_faults_can_be_held_against_a_value(kind, key, value):
    try:
        tolerance = Tolerance(**{key: value})
    except ValueError:
        return
    if not list(tolerances.faults_of(tolerance, kind)) and kind in {Kind.NUMBER, Kind.BYTES, Kind.SECONDS, Kind.LIST}:
        assert isinstance(tolerances.limit(value, kind), (int, float))


@given(st.lists(st.text(max_size=12), max_size=4))
def test_words_behind_set_are_assignments_or_told(words):
    try:
        found = parameters.assignments(words)
    except UsageError:
        return
    assert [f"{name}={text}" for name, text in found.items()] == words
