"""A built wheel works outside the checkout: playbooks, runbooks, load tests and charts travel in it."""

import os
import sys
import zipfile
from pathlib import Path

import pytest

from kivactl.tools import process

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked where no checkout is near."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = Path(__file__).parents[1]
    process.run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, checkout], timeout_s=120)
    (wheel,) = folder.glob("kivactl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, folder, *words):
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    return process.run([sys.executable, "-m", "kivactl", *words], cwd=folder, env=environment, inherit=False, timeout_s=120)


def test_the_content_folders_travel_in_the_wheel(installed, tmp_path):
    done = process.run(
        [
            sys.executable,
            "-c",
            "from kivactl import root; print(root.PACKAGE); "
            "[print(root.content(name)) for name in ('playbooks', 'runbooks', 'loadtests', 'helm', 'requirements', 'terraform')]",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
    )
    assert all(line.startswith(str(installed)) for line in done.stdout.splitlines())


def test_the_installed_program_works(installed, tmp_path):
    run(installed, tmp_path, "init")
    assert "no faults" in run(installed, tmp_path, "spec", "check").stdout
    assert "Start the platform" in run(installed, tmp_path, "runbook", "list").stdout
    run(installed, tmp_path, "provision", "--yes")
    assert (tmp_path / ".kiva" / "tls" / "gateway.pem").exists()
