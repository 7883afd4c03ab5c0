"""The supervisor's configuration is read back by supervisor itself."""

from pathlib import Path

import pytest
from generated import examples
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from kivactl.stack.engine import Process
from kivactl.stack.layout import Layout
from kivactl.stack.supervision import supervisor_for


def read_back(folder: Path, process: Process):
    layout = Layout(folder, folder / "cache")
    layout.logs.mkdir(parents=True, exist_ok=True)
    layout.run.mkdir(parents=True, exist_ok=True)
    config = folder / "supervisor.conf"
    config.write_text(supervisor_for(layout, [process], python=Path("/usr/bin/python3"), user="root", environment={"PATH": "/bin"}))
    options = ServerOptions()
    options.realize(["-c", str(config)])
    layout.run.rmdir()  # it may lie outside the test's folder
    return next(group.process_configs[0] for group in options.process_group_configs if group.name == process.name), options


def test_a_program_is_read_back_as_it_was_meant(tmp_path):
    program, _ = read_back(tmp_path, Process("m-0", ("/bin/echo", "a b", "100%"), {"A": "1,2"}, stop_within_s=75, settles_within_s=20))
    assert program.environment["A"] == "1,2"
    assert program.environment["PATH"] == "/bin"
    assert program.directory == str(tmp_path), "by this one is known who has lost its environment"
    assert (program.stopwaitsecs, program.startsecs, program.autostart, program.killasgroup) == (75, 20, False, True)


@pytest.mark.parametrize("name", ["m-0", "qwen2.5-7b-0"])
def test_names_survive(tmp_path, name):
    program, _ = read_back(tmp_path, Process(name, ("/bin/true",)))
    assert program.name == name


@examples(0.6)
@given(words=st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12), min_size=1, max_size=4))
def test_any_argument_survives_the_file(tmp_path, words):
    import shlex

    program, _ = read_back(tmp_path, Process("p", tuple(words)))
    assert shlex.split(program.command) == words
