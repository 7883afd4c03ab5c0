"""A runbook is read and bound whole before anything runs."""

import pytest

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.runbooks.binding import available, bind, bind_file

GOOD = """
title: {en: Greet, de: Grüßen}
purpose: {en: Says hello., de: Sagt hallo.}
steps:
  - name: hello
    title: {en: Say hello, de: Hallo sagen}
    action: platform.answer
    params: {prompt: Hello}
    timeout: 30s
"""


def written(tmp_path, text):
    folder = tmp_path / "runbooks"
    folder.mkdir(exist_ok=True)
    (folder / "greet.yaml").write_text(text)
    return folder / "greet.yaml"


@pytest.mark.parametrize("name", sorted(path.stem for path in root.content("runbooks").glob("*.yaml")))
def test_every_shipped_runbook_binds_and_speaks_german(name):
    bound = bind(name, None)
    assert bound.steps
    assert all(step.title("de") != step.title("en") for step in bound.steps)


def test_ones_own_runbooks_are_found_beside_the_spec(tmp_path):
    written(tmp_path, GOOD)
    assert {"greet", "start", "stop"} <= set(available(tmp_path))
    assert bind("greet", tmp_path).steps[0].timeout_s == 30


def test_a_mistyped_name_gets_the_nearest():
    with pytest.raises(UsageError, match="no runbook named 'strat'") as caught:
        bind("strat", None)
    assert caught.value.hint == "kivactl runbook start"


def test_all_faults_are_told_at_once_with_file_and_line(tmp_path):
    path = written(
        tmp_path,
        GOOD.replace("platform.answer", "platform.anwser")
        + """
  - name: two
    title: {en: Two, de: Zwei}
    action: platform.answer
    params: {promt: Hello, max_tokens: 0}
    undo: {action: platform.undo-it}
""",
    )
    with pytest.raises(SpecError) as caught:
        bind_file(path)
    details = "\n".join(caught.value.details)
    assert "greet.yaml:7: steps[0].action: there is no action 'platform.anwser'; did you mean 'platform.answer'?" in details
    assert "unknown key 'promt'; did you mean 'prompt'?" in details
    assert "max_tokens: must be at least 1, not 0" in details
    assert "steps[1].undo.action" in details


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps:", "stepz:"), "unknown key 'stepz'; did you mean 'steps'?"),
        (("timeout: 30s", "timeout: 30"), "has no unit"),
        ((", de: Grüßen", ""), "title.de: is missing"),
        (("name: hello", "name: Hello World"), "must match"),
    ],
)
def test_faults_of_form(tmp_path, change, said):
    with pytest.raises(SpecError) as caught:
        bind_file(written(tmp_path, GOOD.replace(*change)))
    assert said in "\n".join(caught.value.details)


def test_an_empty_file(tmp_path):
    with pytest.raises(SpecError):
        bind_file(written(tmp_path, ""))
