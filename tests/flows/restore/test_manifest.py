"""What a backup says of itself: refused when it leads out of its tree, is damaged, or of another version; every changed file is named."""

from __future__ import annotations

import json
import os

import pytest
from backed_up import know, rewrite
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows.restore.manifest import FILE, faults_of_files, read_manifest


def faults(tree):
    return list(faults_of_files(tree, read_manifest(tree)))


def test_a_backup_as_it_was_made_is_good(tree):
    manifest = read_manifest(tree, "kiva")
    assert faults(tree) == []
    assert manifest.spec == "spec/kiva.yaml"
    assert (manifest.tokens.live, manifest.tokens.revoked) == (2, 1)


@pytest.mark.parametrize("name", ["../out", "state/../../out", "/etc/passwd", "", "state/\0", ".."])
def test_a_file_that_leads_out_of_the_tree(tree, name):
    rewrite(tree, files={name: {}})
    with pytest.raises(CheckError, match="damaged") as caught:
        read_manifest(tree)
    assert "leads out of the backup" in caught.value.details[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"external": [{"path": "/etc/key.pem", "at": "../key.pem"}]},
        {"models": [{"name": "m", "at": "/models"}]},
        {"spec_files": ["../kiva.yaml"]},
    ],
)
def test_whatever_else_leads_out_of_the_tree(tree, changes):
    rewrite(tree, **changes)
    with pytest.raises(CheckError) as caught:
        read_manifest(tree)
    assert "leads out of the backup" in caught.value.details[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"external": [{"path": "/etc/key.pem", "at": "external/0/key.pem"}]}, "the file /etc/key.pem is not in the backup"),
        ({"models": [{"name": "m", "with_content": True, "path": "/m", "at": "models/m"}]}, "the content of the model m is not in the backup"),
        ({"models": [{"name": "m", "with_content": True, "at": "state"}]}, "the content of the model m is not in the backup"),
    ],
)
def test_what_is_promised_and_not_there_is_told_before_anything_is_put_in_place(tree, changes, sentence):
    rewrite(tree, **changes)
    with pytest.raises(CheckError) as caught:
        read_manifest(tree)
    assert sentence in caught.value.details[0]


def test_without_a_manifest(tree):
    (tree / FILE).unlink()
    with pytest.raises(CheckError, match="kivactl did not make it"):
        read_manifest(tree)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}"])
def test_what_is_not_json(tree, content):
    (tree / FILE).write_bytes(content)
    with pytest.raises(CheckError, match="not JSON"):
        read_manifest(tree)


def test_a_manifest_that_is_no_file_of_the_backup(tree, tmp_path):
    (tree / FILE).rename(tmp_path / "elsewhere")
    (tree / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckError, match="no plain file"):
        read_manifest(tree)
    (tree / FILE).unlink()
    os.mkfifo(tree / FILE)  # whoever reads it waits for ever
    with pytest.raises(CheckError, match="no plain file"):
        read_manifest(tree)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"format": "1"}', '{"format": true}', '{"format": 1.0}'])
def test_a_manifest_that_names_no_format(tree, content):
    (tree / FILE).write_text(content)
    with pytest.raises(CheckError, match="names no format"):
        read_manifest(tree)


def test_an_older_and_a_newer_format_are_told_apart_whatever_else_they_say(tree):
    for number, sentence in ((0, "older kivactl"), (-1, "older kivactl"), (2, "newer kivactl")):
        (tree / FILE).write_text(json.dumps({"format": number}))
        with pytest.raises(PreconditionError, match=sentence):
            read_manifest(tree, "kiva")


@pytest.mark.parametrize("key", ["platform", "made_at", "state", "spec_files", "files", "keys"])
def test_what_has_to_be_there(tree, key):
    rewrite(tree, **{key: None})
    with pytest.raises(CheckError) as caught:
        read_manifest(tree)
    assert caught.value.details[0].startswith(key)


def test_a_time_without_a_zone_is_none(tree):
    rewrite(tree, made_at="2026-01-01T00:00:00")
    with pytest.raises(CheckError) as caught:
        read_manifest(tree)
    assert caught.value.details[0].startswith("made_at")


def test_another_platforms_backup(tree):
    rewrite(tree, platform="other")
    with pytest.raises(PreconditionError, match="of the platform 'other', not of 'kiva'"):
        read_manifest(tree, "kiva")
    assert read_manifest(tree).platform == "other"


def test_what_a_later_version_adds_is_passed_over(tree):
    rewrite(tree, colour="red", keys={**json.loads((tree / FILE).read_text())["keys"], "colour": "red"})
    assert faults(tree) == []


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9))
def test_whatever_a_manifest_says_it_is_read_or_refused(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("any")
    said = {
        "format": 1,
        "platform": "kiva",
        "made_at": "2026-01-01T00:00:00Z",
        "state": "/s",
        "spec_files": ["kiva.yaml"],
        "files": {},
        "keys": {"signing": "k"},
    }
    for key in said.keys() - {"format"}:
        (folder / FILE).write_text(json.dumps({**said, key: value}))
        try:
            manifest = read_manifest(folder)
        except CheckError:
            continue
        assert list(faults_of_files(folder, manifest)) == [f"{name} is missing" for name in sorted(manifest.files)]


def test_a_changed_byte_a_cut_off_end_and_a_missing_file_are_named(tree):
    path = tree / "state" / "tokens" / "register.json"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert faults(tree) == ["state/tokens/register.json was changed: its hash is another"]
    path.write_bytes(content[:-1])
    assert faults(tree) == [f"state/tokens/register.json has {len(content) - 1} bytes instead of {len(content)}"]
    path.unlink()
    assert faults(tree) == ["state/tokens/register.json is missing"]
    path.mkdir()
    assert faults(tree) == ["state/tokens/register.json is missing"]


def test_a_pipe_in_a_files_place_is_not_read(tree):
    path = tree / "state" / "tokens" / "register.json"
    path.unlink()
    os.mkfifo(path)
    assert faults(tree) == ["state/tokens/register.json is not a plain file"]


def test_what_the_manifest_does_not_know(tree):
    (tree / "state" / "deep" / "er").mkdir(parents=True)
    (tree / "state" / "deep" / "er" / "more").write_text("x")
    (tree / "state" / "link").symlink_to("deep")
    assert faults(tree) == ["state/deep/er/more is not in the manifest", "state/link is not in the manifest"]


def test_names_that_only_look_like_a_files(tree):
    files = json.loads((tree / FILE).read_text())["files"]
    rewrite(tree, files={f"./{name}" if name == "state/release.json" else name: known for name, known in files.items()})
    assert faults(tree) == ["./state/release.json is missing", "state/release.json is not in the manifest"]


OUT = "is a link that leads out of the backup"


@pytest.mark.parametrize(
    ("name", "target", "fault"),
    [
        ("state/link", "/etc/passwd", OUT),
        ("state/link", "../../out", OUT),
        ("state/link", "tls/../../../out", OUT),
        ("state/link", "../spec/kiva.yaml", OUT),  # the spec will not lie there
        ("spec/link", "../state/tokens/signing.key", OUT),
        ("external/0/link", "../1/other", OUT),
        ("models/a/link", "../b/weights", OUT),
        ("spec/link", "nowhere", "is a link to what was not backed up"),
        ("models/a/link", "nowhere", "is a link to what was not backed up"),
        ("state/link", "nowhere", None),
        ("state/link", "tls/../tokens/signing.key", None),
        ("state/link", "link", None),
        ("spec/link", "kiva.yaml", None),
    ],
)
def test_a_link(tree, name, target, fault):
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).symlink_to(target)
    know(tree, name)
    assert faults(tree) == ([f"{name} {fault}"] if fault else [])


def test_a_link_that_leads_out_over_another_one(tree):
    folder = tree / "state" / "x" / "y" / "z"
    folder.mkdir(parents=True)
    (folder / "up").symlink_to("../../..")
    (folder / "out").symlink_to("up/../../../..")  # by its letters it stays inside
    for link in ("up", "out"):
        know(tree, f"state/x/y/z/{link}")
    assert faults(tree) == [f"state/x/y/z/out {OUT}"]


def test_a_link_in_place_of_a_file_and_the_other_way_round(tree):
    key, current = tree / "state" / "tokens" / "signing.key", tree / "state" / "tls" / "current"
    key.rename(key.with_name("elsewhere"))
    key.symlink_to("elsewhere")
    current.unlink()
    current.write_text("pairs/1")
    found = faults(tree)
    assert "state/tokens/signing.key is not the link that was backed up" in found
    assert "state/tls/current is not the link that was backed up" in found
