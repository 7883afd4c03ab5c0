"""The roots and modules of Terraform: the same files, variables and outputs everywhere, and every name that is used is there.

Terraform itself checks the AWS root (`test_terraform_validation.py`); providers of the other clouds are not everywhere to be had. What is
read here is the form that `terraform fmt` gives.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kivactl.root import content
from kivactl.stack.infrastructure.tfvars import CLOUDS

TERRAFORM = content("terraform")
MODULES = sorted(path.parent for path in (TERRAFORM / "modules").rglob("main.tf"))
ROOTS = [TERRAFORM / cloud for cloud in CLOUDS]
FOLDERS = [*ROOTS, *MODULES]
OWN = {"openstack": {"external_network"}, "stackit": {"project"}, "azure": {"project"}, "aws": {"ask_quotas"}}


def blocks(path: Path, kind: str) -> dict[str, str]:
    """The bodies of the blocks of a kind, by name."""
    return {found[1]: found[2] for found in re.finditer(rf'^{kind} "([^"]+)" \{{\n(.*?)^\}}', path.read_text(), re.MULTILINE | re.DOTALL)}


def label(folder: Path) -> str:
    return str(folder.relative_to(TERRAFORM))


@pytest.mark.parametrize("folder", FOLDERS, ids=label)
def test_the_same_five_files(folder):
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files - {".terraform.lock.hcl"} == {"main.tf", "variables.tf", "outputs.tf", "versions.tf", "README.md"}


@pytest.mark.parametrize("folder", FOLDERS, ids=label)
def test_everything_is_described_and_typed(folder):
    for name, body in blocks(folder / "variables.tf", "variable").items():
        assert re.search(r"^  description += \"\S", body, re.MULTILINE), name
        assert re.search(r"^  type +=", body, re.MULTILINE), name
    for name, body in blocks(folder / "outputs.tf", "output").items():
        assert re.search(r"^  description += \"\S", body, re.MULTILINE), name


@pytest.mark.parametrize("folder", FOLDERS, ids=label)
def test_every_variable_is_declared_and_used(folder):
    text = "\n".join((folder / name).read_text() for name in ("main.tf", "outputs.tf"))
    declared, used = set(blocks(folder / "variables.tf", "variable")), set(re.findall(r"\bvar\.([a-z_]+)", text))
    assert used <= declared
    assert declared - used <= {"image"} | ({"public_segments"} if folder in ROOTS else set())


@pytest.mark.parametrize("root", ROOTS, ids=label)
def test_modules_get_what_they_ask_for_and_give_what_is_taken(root):
    text = (root / "main.tf").read_text() + (root / "outputs.tf").read_text()
    modules = blocks(root / "main.tf", "module")
    assert {"blueprint", "network", "machines", "disks", "protection", "vpn"} == set(modules)
    for name, body in modules.items():
        folder = (root / re.search(r'source += "([^"]+)"', body)[1]).resolve()
        given = set(re.findall(r"^  ([a-z_]+) +=", body, re.MULTILINE)) - {"source", "count"}
        assert given == set(blocks(folder / "variables.tf", "variable")), name
        taken = set(re.findall(rf"module\.{name}(?:\[\*\])?\.([a-z_]+)", text))
        assert taken <= set(blocks(folder / "outputs.tf", "output")), name


@pytest.mark.parametrize("root", ROOTS, ids=label)
def test_roots_have_the_same_variables_and_outputs(root):
    reference = {name: body for name, body in blocks(TERRAFORM / "aws" / "variables.tf", "variable").items() if name not in OWN["aws"]}
    variables = blocks(root / "variables.tf", "variable")
    assert set(variables) - OWN[root.name] == set(reference)
    assert all(variables[name] == body for name, body in reference.items())  # validations too
    assert (root / "outputs.tf").read_text() == (TERRAFORM / "aws" / "outputs.tf").read_text()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_modules_of_every_cloud_have_the_same_names_and_outputs(cloud):
    ours = {path.name: set(blocks(path / "outputs.tf", "output")) for path in (TERRAFORM / "modules" / cloud).iterdir()}
    assert set(ours) == {"network", "machines", "disks", "vpn"}
    assert {"ids", "addresses", "public_addresses"} == ours["machines"]
    assert "security_group_ids" in ours["network"]
    assert "ids" in ours["disks"]
    assert ours["vpn"] == {"addresses"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_disks_stay_and_machines_are_no_reason_to_touch_them(cloud):
    text = (TERRAFORM / "modules" / cloud / "disks" / "main.tf").read_text()
    assert "prevent_destroy = true" in text
    body = blocks(TERRAFORM / cloud / "main.tf", "module")["disks"]
    assert not re.search(r"module\.(?!blueprint)", body)  # whatever depends on what goes would go with it


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.name not in {"blueprint", "protection"}], ids=label)
def test_providers_are_pinned(folder):
    versions = re.findall(r"^      version += \"([^\"]+)\"", (folder / "versions.tf").read_text(), re.MULTILINE)
    assert len(versions) == 1
    assert re.fullmatch(r"(~> )?\d+\.\d+(\.\d+)?", versions[0])


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not on PATH")
def test_the_form_is_terraforms_own():
    done = subprocess.run(["terraform", "fmt", "-check", "-recursive", "-list=true", str(TERRAFORM)], capture_output=True, text=True, env=quiet(), check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def quiet() -> dict[str, str]:
    """An environment in which Terraform asks nobody for news and reads nobody's settings."""
    import os

    return {**{name: value for name, value in os.environ.items() if not name.startswith("TF_")}, "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull}
