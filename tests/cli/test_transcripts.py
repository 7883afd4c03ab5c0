"""What a person sees: exit code, stdout, stderr."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kivactl import __version__
from kivactl.cli.commands import REGISTRY, registered


def test_help_lists_every_command_without_loading_one(kivactl):
    seen = kivactl("--help")
    assert (seen.code, seen.stderr) == (0, "")
    for entry in registered():
        assert f"{entry.name} " in seen.stdout
        assert entry.summary in seen.stdout


def test_help_loads_nothing_heavy():
    code = "import sys; sys.argv = ['kivactl', '--help']; from kivactl.cli.boundary import run; run(['--help']); print(','.join(sys.modules), file=sys.stderr)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.strip().split(","))
    assert not loaded & {"pydantic", "rich", "httpx", "ruamel.yaml", "ansible_runner", "kubernetes", "transformers", "locust", "kivactl.cli.commands.spec"}


def test_options_that_are_not_given_load_no_pydantic(tmp_path):
    code = "import sys; from kivactl.cli.boundary import run; run(['spec', '--output', 'json']); print('pydantic' in sys.modules, file=sys.stderr)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stderr == "False\n"


def test_no_words_show_the_help_and_are_a_usage_error(kivactl):
    seen = kivactl()
    assert seen.code == 2
    assert seen.stdout.startswith("Usage: kivactl ")


def test_version(kivactl):
    assert kivactl("--version").stdout == f"kivactl {__version__}\n"


@pytest.mark.parametrize("entry", registered(), ids=lambda entry: entry.name)
def test_every_command_helps_and_takes_the_common_options(kivactl, entry):
    seen = kivactl(entry.name, "--help")
    assert (seen.code, seen.stderr) == (0, "")
    assert seen.stdout.startswith(f"Usage: kivactl {entry.name} ")
    assert "--output" in seen.stdout


def test_every_module_of_a_command_is_registered_once():
    import kivactl.cli.commands

    modules = {path.stem for path in Path(kivactl.cli.commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules <= {entry.module for entry in REGISTRY}
    assert len({entry.name for entry in REGISTRY}) == len(REGISTRY)


@pytest.mark.parametrize("entry", registered(), ids=lambda entry: entry.name)
def test_a_module_has_a_command_or_an_app(entry):
    module = importlib.import_module(f"kivactl.cli.commands.{entry.module}")
    assert hasattr(module, "command") != hasattr(module, "app")


def test_click_itself_is_never_imported():
    import kivactl

    for path in Path(kivactl.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "click" in text else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "click" or "_click" in name for name in names), path


@pytest.mark.parametrize(
    ("argv", "error", "hint"),
    [
        (("sepc",), "there is no command 'kivactl sepc'", "kivactl spec"),
        (("spec", "chek"), "there is no command 'kivactl spec chek'", "kivactl spec check"),
        (("xyzzy",), "there is no command 'kivactl xyzzy'", "kivactl --help"),
        (("spec",), "Missing command", "kivactl spec --help"),
        (("spec", "check", "--outptu", "json"), "No such option: --outptu (Possible options: --output)", "kivactl spec check --help"),
        (("spec", "check", "surplus"), "Got unexpected extra argument(s) (surplus)", "kivactl spec check --help"),
        (("init", "--env", "qa"), "there is no prepared overlay 'qa'", "choose one of dev, prod, init, or write kiva.qa.yaml yourself"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(kivactl, argv, error, hint):
    seen = kivactl(*argv)
    assert (seen.code, seen.stdout) == (2, "")
    assert seen.stderr == f"error: {error}\nhint: {hint}\n"


def test_a_wrong_command_line_obeys_the_output_option(kivactl):
    seen = kivactl("--output=json", "sepc")
    assert (seen.code, seen.stderr) == (2, "")
    assert json.loads(seen.stdout) == {"error": {"code": 2, "message": "there is no command 'kivactl sepc'", "hint": "kivactl spec", "details": []}}


def test_init_check_show(kivactl, tmp_path):
    seen = kivactl("init", "--name", "kiva")
    assert (seen.code, seen.stdout, seen.stderr) == (0, f"wrote {tmp_path}/kiva.yaml\n", "next: kivactl spec check\n")
    seen = kivactl("spec", "check")
    assert (seen.code, seen.stdout, seen.stderr) == (0, f"{tmp_path}/kiva.yaml: no faults ('kiva' on local, models: 1, replicas: 2)\n", "")
    shown = kivactl("spec", "show")
    assert (shown.code, shown.stdout.splitlines()[:2]) == (0, ["name: kiva", "target: local"])
    (tmp_path / "again.yaml").write_text(shown.stdout)
    assert kivactl("spec", "show", "--spec", "again.yaml").stdout == shown.stdout
    assert json.loads(kivactl("spec", "show", "--output", "json").stdout)["gateway"]["request_timeout"] == "10m"


def test_init_does_not_overwrite(kivactl, tmp_path):
    (tmp_path / "kiva.yaml").write_text("mine")
    seen = kivactl("init")
    assert (seen.code, seen.stdout, seen.stderr) == (2, "", f"error: {tmp_path}/kiva.yaml is there already\nhint: kivactl init --force    # replaces it\n")
    assert (tmp_path / "kiva.yaml").read_text() == "mine"
    assert kivactl("init", "--force").code == 0


@pytest.mark.parametrize("environment", ["dev", "prod", "init"])
def test_init_of_an_environment(kivactl, tmp_path, environment):
    assert kivactl("init", "--env", environment).stdout == f"wrote {tmp_path}/kiva.yaml\nwrote {tmp_path}/kiva.{environment}.yaml\n"
    seen = kivactl("--env", environment, "spec", "check", "--output", "json")
    assert json.loads(seen.stdout)["files"] == [f"{tmp_path}/kiva.yaml", f"{tmp_path}/kiva.{environment}.yaml"]


@pytest.mark.parametrize(
    "argv",
    [("spec", "check", "-o", "json"), ("-o", "json", "spec", "check"), ("spec", "-o", "json", "check"), ("-o", "human", "spec", "check", "--output=json")],
)
def test_common_options_stand_anywhere_and_the_last_wins(kivactl, argv):
    kivactl("init", "--name", "kiva")
    assert json.loads(kivactl(*argv).stdout)["name"] == "kiva"


def test_faults_come_with_their_lines(kivactl, tmp_path):
    (tmp_path / "kiva.yaml").write_text("name: kiva\nmodels:\n  - name: m\n    source: a/b\n    replica: 2\n    max_length: -3\n")
    seen = kivactl("spec", "check")
    assert seen.code == 2
    assert seen.stdout == ""
    assert seen.stderr == (
        f"error: {tmp_path}/kiva.yaml has 2 faults\n"
        "  kiva.yaml:5: models[0]: unknown key 'replica'; did you mean 'replicas'?\n"
        "  kiva.yaml:6: models[0].max_length: must be at least 16, not -3\n"
        "hint: correct it, then: kivactl spec check\n"
    )
    error = json.loads(kivactl("spec", "check", "--output", "json").stdout)["error"]
    assert (error["code"], len(error["details"])) == (2, 2)


def test_no_spec_hints_at_init(kivactl, tmp_path):
    seen = kivactl("spec", "check")
    assert (seen.code, seen.stderr) == (2, f"error: there is no kiva.yaml in {tmp_path} or a folder above\nhint: kivactl init\n")


def test_an_unreadable_spec(kivactl, tmp_path, monkeypatch):
    (tmp_path / "kiva.yaml").write_text("name: kiva")

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    seen = kivactl("spec", "check")
    assert (seen.code, seen.stderr) == (2, f"error: no permission to read {tmp_path}/kiva.yaml\nhint: ls -l {tmp_path}/kiva.yaml\n")


def test_a_full_disk(kivactl, monkeypatch):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    seen = kivactl("init")
    assert seen.code == 3
    assert seen.stderr.startswith("error: no space left on the disk that holds ")


def test_schema_is_json_either_way(kivactl):
    assert json.loads(kivactl("spec", "schema").stdout) == json.loads(kivactl("spec", "schema", "--output", "json").stdout)


def test_as_a_process(kivactl_process, tmp_path):
    assert kivactl_process("--version").stdout == f"kivactl {__version__}\n"
    assert kivactl_process("init", "--name", "kiva").code == 0
    seen = kivactl_process("spec", "check", environment={"KIVACTL_SPEC": str(tmp_path)})
    assert (seen.code, seen.stderr) == (0, "")
    assert kivactl_process("spec", "check", "--env", "prod").code == 2


@pytest.mark.parametrize(
    ("line", "offered"),
    [("kivactl in", {"init"}), ("kivactl spec ", {"check", "show", "schema"}), ("kivactl spec check --output ", {"human", "json"})],
)
def test_bash_completes(completed, line, offered):
    seen = completed(line)
    assert seen.code == 0
    assert set(seen.stdout.split()) == offered


def test_bash_completes_every_command(kivactl_process):
    """As a process of its own, as bash asks."""
    environment = {"_KIVACTL_COMPLETE": "complete_bash", "COMP_WORDS": "kivactl ", "COMP_CWORD": "1"}
    seen = kivactl_process(environment=environment)
    assert (seen.code, seen.stderr) == (0, "")
    assert {entry.name for entry in registered()} <= set(seen.stdout.split())


def test_a_reader_that_goes_away_is_met_quietly(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "kivactl", "spec", "schema"], stdout=write, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_standard_output_is_told(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "kivactl", "spec", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: no space left")
    assert "Traceback" not in done.stderr
