"""Terraform's own checks of the AWS root and of the modules without a cloud: `validate` and `test`, with a mocked provider."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cloud
import pytest

from kivactl.root import content
from kivactl.tools.terraform import settings_for

pytestmark = [pytest.mark.real, pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not on PATH")]


def terraform(folder: Path, *words: str, settings: Path) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    environment = {**inherited, "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": str(settings)}
    return subprocess.run(["terraform", *words, "-no-color"], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["modules/blueprint", "modules/protection", "aws"])
def test_terraforms_own_tests(name, tmp_path):
    if name == "aws" and cloud.missing():
        pytest.skip(cloud.missing())
    copy = tmp_path / "terraform"
    shutil.copytree(content("terraform"), copy, ignore=shutil.ignore_patterns(".terraform"))
    settings = tmp_path / "terraform.rc"
    settings.write_text(settings_for(str(cloud.mirror()) if name == "aws" else None))
    folder = copy / name
    for words in (("init", "-backend=false", *(("-lockfile=readonly",) if name == "aws" else ())), ("validate",), ("test",)):
        done = terraform(folder, *words, settings=settings)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout
