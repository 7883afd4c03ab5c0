"""Versions of installed packages."""

from __future__ import annotations

from importlib import metadata

import pytest

from kivactl.tools.version import package_version


def test_the_version_of_a_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_version("locust")
    monkeypatch.setattr(metadata, "version", lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError))
    assert package_version("locust") is None
