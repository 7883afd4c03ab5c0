"""This kivactl as a wheel: whole, the same for the same files, and it works where it is unpacked."""

from __future__ import annotations

import sys
import zipfile

import pytest

from kivactl.tools import process
from kivactl.tools.wheel import write_wheel


def test_the_same_files_have_the_same_hash(tmp_path):
    path, once = write_wheel(tmp_path)
    assert write_wheel(tmp_path) == (path, once)
    names = zipfile.ZipFile(path).namelist()
    for name in ("kivactl/__main__.py", "kivactl/content/playbooks/site.yml", "kivactl/content/requirements/cpu.txt", "kivactl/py.typed"):
        assert name in names
    assert not [name for name in names if "__pycache__" in name]
    assert len(names) == len(set(names))


@pytest.mark.real
def test_pip_installs_it_and_it_makes_itself_again(tmp_path):
    path, made = write_wheel(tmp_path)
    site = tmp_path / "site"
    process.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, path], timeout_s=120)
    (tmp_path / "again").mkdir()
    script = f"from pathlib import Path\nfrom kivactl.tools.wheel import write_wheel\nprint(write_wheel(Path({str(tmp_path / 'again')!r}))[1])"
    done = process.run([sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(site)}, timeout_s=60)
    assert done.stdout.strip() == made
    assert (site / "bin/kivactl").exists()
