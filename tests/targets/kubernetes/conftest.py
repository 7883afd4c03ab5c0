"""The real Helm on PATH, and a cluster for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_site import Site
from helm.charts import binary


@pytest.fixture
def helm_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of the tests' Helm binaries as the program `helm`; nothing of whoever runs the tests."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "helm").symlink_to(binary("helm"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for what in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"HELM_{what}_HOME", str(tmp_path / f"helm-{what.lower()}"))


@pytest.fixture
def site(tmp_path: Path, helm_on_path: None) -> Iterator[Site]:
    one = Site(tmp_path)
    one.kubelet.node("gpu-1", gpus=2)
    try:
        with one.kubelet.running():
            yield one
    finally:
        one.api.stop()
