from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from kivactl.stack.layout import Layout
from kivactl.targets.pair import install_pair


class Killed(BaseException):
    pass


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path, tmp_path / "cache")
    layout.tls.mkdir(mode=0o700)
    return layout


def _provisioned(layout: Layout) -> None:
    layout.certificate_key.write_text("key 0")
    layout.certificate.write_text("certificate 0")


def _pair(layout: Layout) -> tuple[str, str]:
    return layout.certificate_key.read_text(), layout.certificate.read_text()


def _install(layout: Layout, number: int) -> None:
    install_pair(layout, f"key {number}".encode(), f"certificate {number}".encode())


def test_a_pair_after_another(layout):
    _provisioned(layout)
    for number in range(1, 5):
        _install(layout, number)
        assert _pair(layout) == (f"key {number}", f"certificate {number}")
    assert len(list((layout.tls / "pairs").iterdir())) == 2
    assert layout.certificate.is_symlink()
    for folder in (layout.tls / "pairs", *(layout.tls / "pairs").iterdir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(layout.certificate_key.stat().st_mode) == 0o600


def test_where_there_is_none_yet(layout):
    _install(layout, 1)
    assert _pair(layout) == ("key 1", "certificate 1")


@pytest.mark.parametrize("name", ["certificate", "certificate_key"])
def test_a_missing_half(layout, name):
    _provisioned(layout)
    getattr(layout, name).unlink()
    _install(layout, 1)
    assert _pair(layout) == ("key 1", "certificate 1")


def test_after_provisioning_renewed_the_certificate_alone(layout):
    _provisioned(layout)
    _install(layout, 1)
    renewed = layout.certificate.with_suffix(".new")
    renewed.write_text("certificate 1, renewed")
    renewed.replace(layout.certificate)
    _install(layout, 2)
    assert _pair(layout) == ("key 2", "certificate 2")
    assert layout.certificate.is_symlink()


@pytest.mark.parametrize("prepare", ["plain", "linked", "half"])
def test_wherever_it_is_killed_there_is_a_pair_and_the_next_time_succeeds(layout, monkeypatch, prepare):
    """Both halves are looked at before and after every change of a name."""
    real = Path.replace
    steps = 0

    def belongs_together() -> None:
        (key, certificate) = _pair(layout)
        assert key.split()[1] == certificate.split()[1], (key, certificate)

    for killed_at in range(1, 100):
        shutil.rmtree(layout.tls)
        layout.tls.mkdir(mode=0o700)
        _provisioned(layout)
        if prepare != "plain":
            _install(layout, 1)
        if prepare == "half":
            layout.certificate.unlink()
            layout.certificate.write_text("certificate 1")
        steps = 0

        def replace(self, target, killed_at=killed_at):
            nonlocal steps
            steps += 1
            if steps == killed_at:
                raise Killed
            moved = real(self, target)
            belongs_together()
            return moved

        monkeypatch.setattr(Path, "replace", replace)
        try:
            _install(layout, 2)
        except Killed:
            belongs_together()
            monkeypatch.setattr(Path, "replace", real)
            _install(layout, 3)
            assert _pair(layout) == ("key 3", "certificate 3")
        else:
            monkeypatch.setattr(Path, "replace", real)
            assert _pair(layout) == ("key 2", "certificate 2")
            assert killed_at > 3
            return
    pytest.fail("never done")
