"""A whole platform for tests that are about everything but the engine: the real command line, Ansible, supervisor, Envoy, meter
and restic; the engine is `tests/light`, which takes vLLM's place by a virtual environment of its own and starts at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import tiny_model

from kivactl.spec.load import load, paths
from kivactl.stack.layout import Layout
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers
from kivactl.tools.ports import free_pair

SPEC = """\
name: test
models:
  - {{name: tiny, source: "path:{model}", replicas: {replicas}, max_length: 512, concurrency: 16, drain_within: 5s, engine: {{load-format: dummy}}}}
{more}gateway: {{port: {port}{gateway}}}
service_levels: {{ttft_p95: 30s, tpot_p95: 30s, error_ratio: 0.5}}
storage: {{cache: {cache}}}
backup: {{repository: {repository}, password_file: {password}}}
"""
SECOND = '  - {{name: tiny2, source: "path:{model}", replicas: 1, max_length: 512, concurrency: 16, drain_within: 5s, engine: {{load-format: dummy}}}}\n'
ALIAS = "aliases:\n  - {name: chat, models: {tiny: 1, tiny2: 0}}\n"


def interpreter(folder: Path) -> Path:
    """A Python that has everything of this one, but our stand-in instead of vLLM."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    ours = Path(__file__).parent
    (packages / "light.pth").write_text(f"{ours / 'light'}\n{ours.parent}\n{sysconfig.get_path('purelib')}\n")
    for program in ("ansible-playbook", "ansible", "locust", "envoy"):  # found beside the interpreter
        original = Path(sys.executable).parent / program
        if original.exists():
            (folder / "bin" / program).symlink_to(original)
    return folder / "bin" / "python"


class Light:
    """Someone with a shell in a platform's folder.

    Args:
        folder: Of the platform.
        python: As `interpreter` made it.
        cache: Of models.
    """

    def __init__(self, folder: Path, python: Path, cache: Path) -> None:
        self.folder, self.python, self.cache = folder, python, cache
        self.model = tiny_model.build(cache.parent / "light-model")
        self.repository, self.password = folder.parent / f"{folder.name}-backup", folder.parent / f"{folder.name}-password"
        self.password.write_text("a passphrase of the tests\n")
        self.password.chmod(0o600)
        self.port = free_pair()
        self.environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}

    def write(self, *, replicas: int = 2, versions: bool = False, gateway: str = "", extra: str = "") -> None:
        more = (SECOND.format(model=self.model) + ALIAS) if versions else ""
        values = {"model": self.model, "port": self.port, "cache": self.cache, "repository": self.repository, "password": self.password}
        (self.folder / "kiva.yaml").write_text(SPEC.format(replicas=replicas, more=more, gateway=gateway, **values) + extra)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen([self.python, "-m", "kivactl", *words], cwd=self.folder, env=self.environment, **pipes)

    def run(self, *words: str, code: int | None = 0) -> tuple[str, str]:
        child = self.start(*words)
        out, err = child.communicate(timeout=300)
        assert code is None or child.returncode == code, f"kivactl {' '.join(words)}: exit code {child.returncode}\n{out}\n{err}"
        return out, err

    @property
    def layout(self) -> Layout:
        return Layout(*paths(load(self.folder / "kiva.yaml")))

    @property
    def status(self) -> dict[str, Any]:
        return json.loads(self.run("status", "--output", "json", code=None)[0])

    def pids(self) -> list[int]:
        return leftovers.marked(STATE_VARIABLE, str(self.layout.state))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    (where / "platform").mkdir(parents=True, exist_ok=True)
    light = Light(where / "platform", interpreter(where / "python"), where / "cache")
    light.write(versions=True)
    print(f"cd {light.folder}; {light.python} -m kivactl")
