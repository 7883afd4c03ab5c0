"""What a run of Ansible is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from kivactl.tools.ansible import command_line, local_inventory, settings_for


def test_nothing_of_a_run_lies_in_the_home_folder(tmp_path):
    settings = settings_for(tmp_path, "/bin")
    for name in ("ANSIBLE_HOME", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_CONFIG", "TMPDIR"):
        assert Path(settings[name]).is_relative_to(tmp_path)
    assert settings["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert local_inventory()["all"]["hosts"]["localhost"]["ansible_connection"] == "local"


def test_a_run_is_limited_to_names_and_never_to_patterns():
    assert command_line(check=True, diff=True, limit=["one", "two"], forks=9) == "--extra-vars @vars.json --forks 9 --check --diff --limit one,two"
    assert command_line(check=False, diff=False, limit=(), forks=5) == "--extra-vars @vars.json --forks 5"
    for pattern in ("all:!one", "*", "~x", "@file", "one two", ""):
        with pytest.raises(ValueError, match="no name of a host"):
            command_line(check=False, diff=False, limit=[pattern], forks=5)
