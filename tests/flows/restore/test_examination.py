"""Everything in a backup that could be wrong is found before anything is overwritten, and said in a sentence."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from backed_up import KEYS, NOW, know, meter, platform_in, provision, rewrite, tree_of

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows.backup.making import age_s
from kivactl.flows.restore.examination import examine, examined
from kivactl.flows.restore.manifest import read_manifest
from kivactl.plan import Status
from kivactl.stack.certificates import authority_for, new_key, public_half
from kivactl.stack.layout import Layout
from kivactl.tools.restic import Snapshot


def faults(deployment, tree):
    """What is found, whole."""
    with pytest.raises(CheckError, match="is damaged") as caught:
        list(examine(deployment, tree))
    return list(caught.value.details)


@pytest.fixture
def layout(tree):
    """Of the state within the backup."""
    return Layout(tree / "state", tree)


def changed(tree, path, content):
    """A file that was backed up as it is: faithfully, but wrong in itself."""
    path.write_bytes(content)
    know(tree, str(path.relative_to(tree)))


def without(tree, *names):
    files = json.loads((tree / "manifest.json").read_text())["files"]
    for name in names:
        (tree / name).unlink()
        del files[name]
    rewrite(tree, files=files)


def test_a_good_backup_of_a_platform_as_it_is_has_no_notes(deployment, tree):
    outcomes = [one for one in examine(deployment, tree) if one.status is not Status.STARTED]
    assert [(one.step, one.status, one.message) for one in outcomes] == [
        (step, Status.DONE, "good") for step in ("files", "spec", "keys and certificates", "tokens", "ledger")
    ]
    assert examined(deployment, tree).notes == ()


def test_damaged_files_are_all_named_and_nothing_else_is_read(deployment, tree, layout):
    layout.signing_key.write_text("x")
    layout.ca_key.unlink()
    (tree / "state" / "more").touch()
    found = faults(deployment, tree)
    assert [one.split()[0] for one in found] == ["state/tls/ca.key", "state/more", "state/tokens/signing.key"]
    seen = []
    with suppress(CheckError):
        seen.extend(one for one in examine(deployment, tree) if seen.append(one))
    assert (seen[-1].step, seen[-1].status) == ("files", Status.FAILED)


def test_several_aspects_are_told_at_once(deployment, tree, layout):
    changed(tree, layout.signing_key, new_key())
    rewrite(tree, tokens={"live": 7, "revoked": 0})
    assert faults(deployment, tree) == [
        "the signing key is not the one that was backed up",
        "the register has 2 live and 1 revoked tokens instead of 7 and 0",
    ]


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\xff" * 99])
def test_a_signing_key_that_is_none(deployment, tree, layout, content):
    changed(tree, layout.signing_key, content)
    assert len(faults(deployment, tree)) == 1


def test_a_signing_key_that_is_only_public(deployment, tree, layout):
    changed(tree, layout.signing_key, public_half(KEYS["signing"]))
    assert len(faults(deployment, tree)) == 1


def test_without_a_signing_key(deployment, tree):
    without(tree, "state/tokens/signing.key")
    assert faults(deployment, tree)[0].endswith("signing.key is missing")


def test_retired_keys(deployment, tree, layout):
    (path,) = layout.retired_keys.iterdir()
    name = path.stem
    changed(tree, path, public_half(new_key()))
    assert faults(deployment, tree) == [f"the retired key {name} is another one"]
    without(tree, f"state/tokens/retired/{name}.pem")
    assert faults(deployment, tree) == [f"the retired key {name} is missing"]


def test_a_retired_key_that_is_a_folder(deployment, tree, layout):
    (layout.retired_keys / "x.pem").mkdir()
    (layout.retired_keys / "x.pem" / "file").touch()
    know(tree, "state/tokens/retired/x.pem/file")
    assert faults(deployment, tree)[0].endswith("x.pem cannot be read: Is a directory")


@pytest.mark.parametrize("content", [b"", b"no certificate"])
def test_a_certificate_that_is_none(deployment, tree, layout, content):
    changed(tree, layout.ca_certificate, content)
    assert len(faults(deployment, tree)) == 1


def test_certificates_of_another_key(deployment, tree, layout):
    changed(tree, layout.ca_certificate, authority_for(new_key(), platform="kiva", now=NOW))
    changed(tree, (layout.tls / "pairs" / "1" / "gateway.key"), new_key())
    assert faults(deployment, tree) == ["ca.pem does not belong to ca.key", "gateway.pem does not belong to gateway.key"]


def test_a_clock_that_is_set_back_meanwhile_is_none_of_the_keys_faults(deployment, tree, monkeypatch):
    class Ahead(type(NOW)):
        @classmethod
        def now(cls, tz=None):
            return NOW + timedelta(days=1)

    monkeypatch.setattr("kivactl.flows.restore.examination.datetime", Ahead)
    assert examined(deployment, tree).notes == ()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"tokens": [{}]}'])
def test_a_register_that_is_none(deployment, tree, layout, content):
    changed(tree, layout.token_register, content)
    assert "the register of tokens is damaged" in faults(deployment, tree)[0]


def test_a_register_with_fewer_tokens(deployment, tree, layout):
    register = json.loads(layout.token_register.read_text())
    changed(tree, layout.token_register, json.dumps({**register, "tokens": register["tokens"][:2]}).encode())
    assert faults(deployment, tree) == ["the register has 2 live and 0 revoked tokens instead of 2 and 1"]


def test_tokens_that_ended_since_the_backup_count_as_they_did_then(deployment, tree, layout):
    register = json.loads(layout.token_register.read_text())
    for token in register["tokens"]:
        if token["id"] == "b":
            token["expires_at"] = (read_manifest(tree).made_at + timedelta(seconds=1)).isoformat()
    changed(tree, layout.token_register, json.dumps(register).encode())
    assert examined(deployment, tree).manifest.tokens.live == 2


def test_a_record_of_what_is_deployed_that_is_none(deployment, tree, layout):
    changed(tree, layout.release, b"[]")
    assert "the record of what is deployed is unreadable" in faults(deployment, tree)[0]


def test_ledgers(deployment, tree, layout):
    good = layout.ledger.read_bytes()
    meter(layout, "kiva", {"tax": 1})
    with closing(sqlite3.connect(layout.ledger)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    changed(tree, layout.ledger, layout.ledger.read_bytes())
    assert faults(deployment, tree) == ["the ledger's sums are not those that were backed up"]
    changed(tree, layout.ledger, good[: len(good) // 2])
    assert "is damaged" in faults(deployment, tree)[0]
    changed(tree, layout.ledger, b"no ledger")
    assert "is damaged" in faults(deployment, tree)[0]
    without(tree, "state/usage/ledger.db")
    assert faults(deployment, tree) == ["the ledger is missing"]


def test_a_ledger_that_nobody_knows(deployment, tree):
    rewrite(tree, ledger=None)
    assert faults(deployment, tree) == ["there is a ledger that the manifest does not know"]


def test_a_platform_that_metered_nothing_yet(deployment, tree):
    without(tree, "state/usage/ledger.db")
    rewrite(tree, ledger=None)
    assert examined(deployment, tree).notes == ()


def test_specs(deployment, tree):
    spec = tree / "spec" / "kiva.yaml"
    good = spec.read_bytes()
    changed(tree, spec, good.replace(b"name: kiva", b"name: other"))
    assert faults(deployment, tree) == ["the spec is of the platform 'other'"]
    changed(tree, spec, good + b"colour: red\n")
    assert faults(deployment, tree)[0].endswith("has a fault")
    rewrite(tree, environment="prod")
    changed(tree, spec, good)
    assert "there is no overlay kiva.prod.yaml" in faults(deployment, tree)[0]
    rewrite(tree, environment="../../x")
    assert "is not the name of an environment" in faults(deployment, tree)[0]
    without(tree, "spec/kiva.yaml")
    assert faults(deployment, tree) == ["the spec's file kiva.yaml is missing"]


def test_a_spec_of_another_name(tmp_path):
    deployment = provision(platform_in(tmp_path / "platform"))
    folder = deployment.loaded.folder
    (folder / "kiva.yaml").rename(folder / "site.yaml")
    deployment = replace(deployment, loaded=replace(deployment.loaded, files=(folder / "site.yaml",)))
    tree = tree_of(deployment, tmp_path / "tree")
    assert examined(deployment, tree).notes == ()
    changed(tree, tree / "spec" / "site.yaml", b"name: [")
    assert faults(deployment, tree)


def test_another_platforms_backup_is_refused_before_anything_is_read(deployment, tree):
    rewrite(tree, platform="other")
    with pytest.raises(PreconditionError, match="of the platform 'other', not of 'kiva'") as caught:
        next(examine(deployment, tree))
    assert "name: other" in caught.value.hint


def test_an_older_formats_backup_is_refused_before_anything_is_read(deployment, tree):
    rewrite(tree, format=0)
    with pytest.raises(PreconditionError, match=r"older kivactl \(format 0; this one reads 1\)") as caught:
        next(examine(deployment, tree))
    assert "the version that wrote it" in caught.value.hint


def test_what_a_person_should_know(deployment, tree, tmp_path):
    elsewhere = platform_in(tmp_path / "elsewhere", port=5000)
    notes = examined(elsewhere, tree).notes
    assert len(notes) == 2
    assert notes[0] == f"the spec in the backup differs from {tmp_path}/elsewhere/kiva.yaml, which stays as it is"
    assert notes[1] == f"the backup was made of {deployment.layout.state}; it is put back into {elsewhere.layout.state}"


def test_models_that_are_not_the_ones_that_were_backed_up(deployment, tree, tmp_path):
    (tmp_path / "model" / "tokenizer.json").write_text('{"version": "2"}')
    (note,) = examined(deployment, tree).notes
    assert note.startswith("model tiny here is not the one that was backed up (folder:")
    (tmp_path / "model" / "tokenizer.json").unlink()
    (note,) = examined(deployment, tree).notes
    assert note == f"model tiny: the model folder {tmp_path}/model has no tokenizer"


def test_a_model_that_is_gone_and_comes_out_of_the_backup(tmp_path):
    deployment = provision(platform_in(tmp_path / "platform", more="backup: {models: content}\n"))
    tree = tree_of(deployment, tmp_path / "tree")
    (tmp_path / "model").rename(tmp_path / "gone")
    (note,) = examined(deployment, tree).notes
    assert note.endswith("it comes out of the backup")


def test_a_backup_of_the_future_is_told_and_counts_as_made_now(deployment, tree):
    """A clock that was wrong must not pass for a backup of no age."""
    manifest = read_manifest(tree)
    rewrite(tree, made_at=(manifest.made_at + timedelta(days=2)).isoformat())
    (note,) = examined(deployment, tree).notes
    assert "yet to come: a clock was wrong, its age cannot be told" in note
    later = read_manifest(tree)
    assert later.age_s(manifest.made_at) == 0
    assert later.age_s(later.made_at + timedelta(seconds=5)) == 5
    rewrite(tree, made_at=(manifest.made_at + timedelta(seconds=30)).isoformat())
    assert examined(deployment, tree).notes == (), "two machines' clocks differ by a little"


def test_the_age_of_a_backup_of_the_future_is_none(deployment, monkeypatch):
    ahead = Snapshot("aa", "", NOW + timedelta(days=2), ("kivactl", "platform=kiva"))
    monkeypatch.setattr("kivactl.flows.backup.making.backups", lambda _: [ahead])
    assert age_s(deployment) == 0
