"""The record of what is deployed: whole or not at all, and clear when it is broken."""

import errno
import json

import pytest

from kivactl.errors import PreconditionError
from kivactl.targets.release import Release, read_release, write_file, write_release


def test_what_is_written_is_read(tmp_path):
    release = Release(platform="kiva", processes={"gateway": {"argv": ["envoy"]}}, replicas={"m": ["m-0"]})
    write_release(tmp_path / "release.json", release)
    assert read_release(tmp_path / "release.json") == release


def test_nothing_deployed_is_an_empty_record(tmp_path):
    assert read_release(tmp_path / "release.json") == Release()


def test_keys_of_a_newer_version_are_let_be(tmp_path):
    (tmp_path / "release.json").write_text(json.dumps({"platform": "kiva", "colour": "blue"}))
    assert read_release(tmp_path / "release.json").platform == "kiva"


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00\x01"])
def test_an_unreadable_record_is_named_with_the_way_out(tmp_path, content):
    path = tmp_path / "release.json"
    path.write_text(content)
    with pytest.raises(PreconditionError, match="unreadable") as caught:
        read_release(path)
    assert str(path) in caught.value.message
    assert "kivactl deploy" in caught.value.hint


def test_a_file_is_private_and_written_only_when_it_differs(tmp_path):
    path = tmp_path / "file"
    assert write_file(path, "a")
    assert not write_file(path, "a")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_file(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
