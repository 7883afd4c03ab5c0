"""The reference of the format is complete and current."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from own_runbooks import faults_in

from kivactl.runbooks.format import Act, Approval, Check, Escalation, Load, Objectives, Parameter, Retries, Roles, Runbook, SteadyState, Step, Tolerance
from kivactl.runbooks.listing import RESERVED_NAMES

DOCS = Path(__file__).parents[2] / "docs"
MODELS = (Act, Approval, Check, Escalation, Load, Objectives, Parameter, Retries, Roles, Runbook, SteadyState, Step, Tolerance)


@pytest.fixture(scope="module")
def reference():
    found = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_lists_of_actions_and_probes_are_current(reference, language):
    text = reference.FILES[language].read_text()
    assert reference.renewed(text, reference.tables(language)) == text, "run: python docs/reference.py"


@pytest.mark.parametrize("file", ["runbooks.md", "runbooks.de.md"])
def test_every_key_of_the_format_is_explained(file):
    text = (DOCS / file).read_text()
    named = set(re.findall(r"`([a-z_]+)`", text))
    assert {key for model in MODELS for key in model.model_fields} - named == set()


def test_the_example_binds(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "runbooks.md").read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    assert faults_in(tmp_path / "example.yaml") == ""


def test_every_command_is_explained_and_no_runbook_can_have_its_name():
    from kivactl.cli.commands.runbook import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names <= set(RESERVED_NAMES)
    for file in ("runbooks.md", "runbooks.de.md"):
        assert all(f"kivactl runbook {name}" in (DOCS / file).read_text() for name in names - {"run"})
