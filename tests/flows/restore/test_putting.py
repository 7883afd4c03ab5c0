"""A backup is put back and taken back: what is in place, what stays, what lies aside, wherever it is cut off and whatever the disk says."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backed_up import (
    Folders,
    change,
    contents,
    fill,
    full,
    killed,
    know,
    meter,
    platform_in,
    provision,
    reset,
    rewrite,
    run,
    small_disk,
    snapshot,
    tree_of,
    watching,
)

from kivactl import journal
from kivactl.errors import CheckError, KivaError, PreconditionError
from kivactl.flows.restore import exchange as exchanging
from kivactl.flows.restore.fetching import fetch
from kivactl.flows.restore.manifest import read_manifest
from kivactl.flows.restore.places import KEPT, places_for
from kivactl.flows.restore.putting import as_before, clear, finish, put_back, put_files, take_back
from kivactl.plan import Status
from kivactl.targets.register import read_register, write_register
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.usage.snapshot import sums_of

RUN, OTHER, SNAPSHOT = "restore-20260101T000000Z-1", "restore-20260101T000000Z-2", "aa"
STAYS = (*KEPT, "run")


def put(deployment, run=RUN, snapshot=SNAPSHOT):
    return list(put_back(deployment, run, snapshot))


def old_of(deployment):
    return contents(deployment.layout.state, *STAYS)


@pytest.fixture
def fetched(deployment, tree, places):
    """A platform that has gone on since its backup, which is fetched."""
    shutil.copytree(tree, places.fetched, symlinks=True)
    change(deployment)
    return deployment


def restored(deployment, tree):
    """Whether the state is that of the backup, and goes on from there."""
    manifest, layout = read_manifest(tree), deployment.layout
    names = {name.removeprefix("state/") for name in manifest.files if name.startswith("state/") and not name.startswith("state/runs/")}
    state = layout.state
    same = all(
        (state / name).readlink() == (tree / "state" / name).readlink()
        if (tree / "state" / name).is_symlink()
        else (state / name).read_bytes() == (tree / "state" / name).read_bytes()
        for name in names - {"journal.jsonl"}
    )
    there = {name for name, one in contents(state, *STAYS).items() if one != "folder"}
    return same and sums_of(layout.ledger) == manifest.ledger.sums and there - names == {"logs/access.log", "logs/tiny-0.log", "usage/tiny-0.jsonl"}


def test_the_state_is_that_of_the_backup_and_the_old_one_lies_aside(fetched, tree, places):
    old = old_of(fetched)
    outcomes = put(fetched)
    assert restored(fetched, tree)
    assert contents(places.aside(RUN), "run") == old  # the folder of sockets lies in the state where its path is short enough
    assert outcomes[-1].message.endswith("UTC; the old one lies aside")
    assert [token.id for token in read_register(fetched.layout).tokens] == ["a", "b", "c", "d"]
    list(finish(fetched, RUN))
    assert not places.folder.exists()
    assert restored(fetched, tree)


def test_the_journal_goes_on_from_the_restored_one(fetched):
    put(fetched)
    entries = journal.read(fetched.layout.journal)
    assert [entry["run"] for entry in entries] == ["deploy-1", RUN]
    assert (entries[-1]["event"], entries[-1]["snapshot"]) == ("restored", SNAPSHOT)


def test_requests_that_came_after_the_backup_are_still_there_to_be_counted(fetched):
    put(fetched)
    assert fetched.layout.access_log.read_text() == "a request\nanother\n"


def test_runs_come_back_beside_those_that_are_here(fetched, tree):
    gone, here = "backup-20260101T000000Z-1", "restart-20260102T000000Z-1"
    shutil.rmtree(fetched.layout.state / "runs" / gone)
    run(fetched.layout, RUN, "the one that restores")
    put(fetched)
    runs = fetched.layout.state / "runs"
    assert sorted(path.name for path in runs.iterdir()) == sorted([gone, here, RUN])
    assert contents(runs / gone) == contents(tree / "state" / "runs" / gone)
    assert (runs / here / "journal.jsonl").read_text() == "two\n"
    assert (runs / RUN / "journal.jsonl").read_text() == "the one that restores\n"


def test_a_run_that_is_here_stays_as_it_is(fetched):
    (fetched.layout.state / "runs" / "backup-20260101T000000Z-1" / "journal.jsonl").write_text("longer\n")
    put(fetched)
    assert (fetched.layout.state / "runs" / "backup-20260101T000000Z-1" / "journal.jsonl").read_text() == "longer\n"


def test_runs_come_back_where_nothing_is(tmp_path, tree):
    deployment = platform_in(tmp_path / "elsewhere")
    places = places_for(deployment.layout)
    places.folder.mkdir(parents=True)
    shutil.copytree(tree, places.fetched, symlinks=True)
    outcomes = put(deployment)
    assert outcomes[-1].message == "in place"
    assert (deployment.layout.state / "runs" / "backup-20260101T000000Z-1" / "figures" / "one.json").exists()
    assert [one.message for one in take_back(deployment, RUN)] == ["nothing was replaced"]
    assert deployment.layout.signing_key.exists()


def test_taken_back_it_is_as_it_was(fetched):
    old = old_of(fetched)
    put(fetched)
    assert [one.message for one in take_back(fetched, RUN)] == ["the old one is in place again"]
    assert old_of(fetched) == old
    assert [one.message for one in take_back(fetched, RUN)] == ["nothing was replaced"]
    put(fetched)
    list(take_back(fetched, RUN))
    assert old_of(fetched) == old


def again(fetched):
    """The same platform again and again, in the same place: the backup knows where that is."""
    was = contents(fetched.layout.state)
    while True:
        yield fetched
        reset(fetched.layout.state, was)
        assert contents(fetched.layout.state) == was


EVERY = pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.thorough), 7])
"""At every place where it can be cut off, and for a quick look at some of them."""


@EVERY
def test_killed_at_any_moment_it_is_put_back_when_that_is_done_again_and_taken_back_after_that(nothing_runs, fetched, tree, every):
    old = old_of(fetched)
    for at, platform in zip(itertools.count(step=every), again(fetched), strict=False):
        if not killed(at, lambda platform=platform: put(platform)):
            break
        put(platform)
        assert restored(platform, tree), at
        list(take_back(platform, RUN))
        assert old_of(platform) == old, at
    assert at > 100


@EVERY
def test_killed_at_any_moment_it_is_taken_back_or_given_up_for_another_run(nothing_runs, fetched, tree, every):
    old = old_of(fetched)
    for at, platform in zip(itertools.count(step=every), again(fetched), strict=False):
        if not killed(at, lambda platform=platform: put(platform)):
            break
        if at % 2:
            list(take_back(platform, RUN))
            assert old_of(platform) == old, at
            continue
        whole = (begun := exchanging.read_exchange(places_for(platform.layout))) is not None and begun.placed
        put(platform, OTHER)
        assert restored(platform, tree), at
        list(take_back(platform, OTHER))
        assert old_of(platform) == old or whole, at
    assert at > 100


@EVERY
def test_a_disk_that_is_full_at_any_moment_is_named_and_nothing_of_the_old_state_is_lost(nothing_runs, fetched, tree, every):
    old, said = old_of(fetched), []
    for at, platform in zip(itertools.count(step=every), again(fetched), strict=False):
        with watching(at, full, room=True) as calls:
            try:
                put(platform)
            except KivaError as error:
                said.append(error.message)
        if at >= calls.count:
            break
        if at % 2:
            list(take_back(platform, RUN))
            assert old_of(platform) == old, at
        put(platform)
        assert restored(platform, tree), at
    assert len(said) * every > 50
    assert all(one.startswith(f"no space left on the disk that holds {fetched.layout.state}") for one in said)


def test_a_truly_full_disk_while_it_is_fetched_built_and_put_back(tmp_path):
    with small_disk(tmp_path / "disk", "12m") as disk:
        deployment = provision(platform_in(disk / "platform"))
        (deployment.layout.gateway / "big.json").write_bytes(os.urandom(2**20))
        tree = tree_of(deployment, tmp_path / "tree")
        shutil.rmtree(deployment.layout.state / "backup")
        change(deployment)
        old, places, repository = old_of(deployment), places_for(deployment.layout), Folders()
        repository.put(snapshot("aa"), tree)
        places.folder.mkdir(parents=True)

        def get():
            return list(fetch(repository, deployment.layout, places.fetched, platform="kiva", named=None))

        ballast = fill(disk, but=2**19)
        with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {places.fetched}"):
            get()
        assert old_of(deployment) == old
        assert not places.fetched.exists()
        ballast.unlink()
        get()
        for left in (0, 2**13, 2**17, 2**20):
            ballast = fill(disk, but=left)
            with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {disk}"):
                put(deployment)
            assert old_of(deployment) == old, left
            assert not places.new.exists(), left
            assert list(take_back(deployment, RUN))[-1].message == "nothing was replaced"
            ballast.unlink()
        put(deployment)
        assert restored(deployment, tree)
        ballast = fill(disk)
        list(take_back(deployment, RUN))
        assert old_of(deployment) == old, "taking back needs no room"


def test_a_file_that_was_damaged_since_it_was_examined_is_told_before_anything_is_replaced(fetched, places):
    old = old_of(fetched)
    (places.fetched / "state" / "tokens" / "signing.key").write_text("x")
    with pytest.raises(CheckError, match="its hash is another"):
        put(fetched)
    assert old_of(fetched) == old


def test_another_platforms_or_another_versions_backup_is_not_put_back(fetched, places):
    old = old_of(fetched)
    rewrite(places.fetched, platform="other")
    with pytest.raises(PreconditionError, match="of the platform 'other'"):
        put(fetched)
    rewrite(places.fetched, platform="kiva", format=0)
    with pytest.raises(PreconditionError, match="older kivactl"):
        put(fetched)
    assert old_of(fetched) == old


def test_in_the_place_of_another_platforms_state_it_is_the_specs_name_that_counts(fetched):
    """The spec was renamed: a backup of the old name would lock everybody out."""
    platform = fetched.platform.model_copy(update={"name": "renamed"})
    with pytest.raises(PreconditionError, match="of the platform 'kiva', not of 'renamed'"):
        put(replace(fetched, loaded=replace(fetched.loaded, platform=platform)))


@pytest.fixture
def running(fetched):
    """A process of the platform."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE, env={STATE_VARIABLE: str(fetched.layout.state)}
    )
    child.stdout.readline()
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_running_platform_is_only_replaced_when_that_is_said(fetched, running, places):
    with pytest.raises(PreconditionError, match="the platform 'kiva' is running: a restore would replace it") as caught:
        list(clear(fetched, RUN, replace=False))
    assert caught.value.hint == "kivactl runbook restore --replace"
    with pytest.raises(PreconditionError, match="is running"):
        put(fetched)
    assert running.poll() is None
    assert exchanging.before_of(places, RUN) is None
    assert [one.message for one in clear(fetched, RUN, replace=True)][-1] == "stopped"
    assert running.wait() == -signal.SIGTERM
    assert exchanging.before_of(places, RUN) == {"run": RUN, "running": True}
    assert [one.message for one in clear(fetched, RUN, replace=False)] == ["nothing runs"]
    assert exchanging.before_of(places, RUN)["running"], "the first word counts"


def test_what_did_not_run_is_not_started(fetched):
    assert [one.message for one in clear(fetched, RUN, replace=False)] == ["nothing runs"]
    assert [one.message for one in as_before(fetched, RUN)] == ["nothing ran before"]
    assert [one.message for one in as_before(fetched, OTHER)] == ["nothing ran before"]


def test_what_ran_is_started_again(fetched, running, monkeypatch):
    list(clear(fetched, RUN, replace=True))
    monkeypatch.setattr("kivactl.targets.local.LocalTarget.start", lambda _: iter(["started"]))
    assert list(as_before(fetched, RUN)) == ["started"]


def test_taken_back_what_runs_of_the_restored_platform_is_stopped(fetched):
    old = old_of(fetched)
    put(fetched)
    child = subprocess.Popen(["sleep", "600"], env={STATE_VARIABLE: str(fetched.layout.state), "PATH": os.environ["PATH"]})
    list(take_back(fetched, RUN))
    assert child.wait() == -signal.SIGTERM
    assert old_of(fetched) == old


def test_finished_before_it_is_done_it_is_refused(nothing_runs, fetched, places):
    killed_at = 0
    while exchanging.read_exchange(places) is None:
        assert killed(killed_at, lambda: put(fetched))
        killed_at += 5
    with pytest.raises(PreconditionError, match="has not put everything in place"):
        list(finish(fetched, RUN))
    put(fetched)
    list(finish(fetched, RUN))


CERTIFICATES = ", tls: {{certificate: {folder}/site.pem, key: {folder}/site.key}}"


@pytest.fixture
def outside(tmp_path):
    """A platform with a certificate of its own and a model that is backed up with its content."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    for name in ("site.pem", "site.key"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o600)
    deployment = provision(platform_in(tmp_path / "platform", gateway=CERTIFICATES.format(folder=folder), more="backup: {models: content}\n"))
    tree = tree_of(deployment, tmp_path / "tree")
    return deployment, tree, folder


def put_outside(deployment, tree):
    return {one.step: (one.status, one.message) for one in put_files(deployment, tree, read_manifest(tree))}


def test_files_outside_of_the_state_come_back_where_they_are_missing(outside, tmp_path):
    deployment, tree, folder = outside
    was, model = contents(folder), contents(tmp_path / "model")
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "model")
    said = put_outside(deployment, tree)
    assert contents(folder) == was
    assert contents(tmp_path / "model") == model
    assert {status for status, _ in said.values()} == {Status.DONE}
    assert {message for _, message in put_outside(deployment, tree).values()} == {"there already"}


def test_files_that_are_there_stay_whatever_they_are(outside, tmp_path):
    deployment, tree, folder = outside
    (folder / "site.pem").write_text("renewed")
    (folder / "site.key").unlink()
    (folder / "site.key").symlink_to("nowhere")
    (tmp_path / "model" / "tokenizer.json").unlink()
    said = put_outside(deployment, tree)
    assert (folder / "site.pem").read_text() == "renewed"
    assert "stays as it is" in said[str(folder / "site.pem")][1]
    assert (folder / "site.key").is_symlink()
    assert not (tmp_path / "model" / "tokenizer.json").exists()


def test_only_what_the_spec_names_is_written(outside, tmp_path):
    deployment, tree, folder = outside
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "model")
    data = json.loads((tree / "manifest.json").read_text())
    rewrite(
        tree,
        external=[{**one, "path": str(tmp_path / "cron")} for one in data["external"]],
        models=[{**one, "name": "stranger", "path": str(tmp_path / "strange")} for one in data["models"]],
    )
    before = contents(tmp_path)
    said = put_outside(deployment, tree)
    assert contents(tmp_path) == before
    assert set(said.values()) == {(Status.SKIPPED, "the spec does not name it any more")}


def models(tmp_path, source, path, at="models/x"):
    """A backup with the content of one model, and where the platform would have it."""
    deployment = platform_in(tmp_path / "platform")
    tree = tmp_path / "tree"
    (tree / at).mkdir(parents=True)
    (tree / at / "config.json").write_text("{}")
    entry = {"name": "tiny", "source": source, "with_content": True, "path": str(path), "at": at}
    said = {
        "format": 1,
        "platform": "kiva",
        "made_at": "2026-01-01T00:00:00Z",
        "state": "/s",
        "spec_files": ["kiva.yaml"],
        "files": {},
        "keys": {"signing": "k"},
    }
    (tree / "manifest.json").write_text(json.dumps(said))
    know(tree, f"{at}/config.json")
    rewrite(tree, models=[entry])
    return deployment, tree


def with_source(deployment, source):
    (model,) = deployment.platform.models
    platform = deployment.platform.model_copy(update={"models": (model.model_copy(update={"source": source}),)})
    return replace(deployment, loaded=replace(deployment.loaded, platform=platform))


@pytest.mark.parametrize(
    ("ours", "theirs", "was", "becomes"),
    [
        ("package:llm-x", "package:llm-x", "/old/cache/models/llm-x-1", "cache/models/llm-x-1"),
        ("package:llm-x", "package:llm-y", "/old/cache/models/llm-y-1", None),
        ("package:llm-x", "package:llm-x", "/", None),
        ("path:{here}/new", "path:/old/model", "/old/model", "new"),
        ("path:{here}/new", "org/name", "/old/model", None),
        ("org/name", "org/name", "{here}/hub/models--org--name/snapshots/c0ffee", "hub/models--org--name/snapshots/c0ffee"),
        ("org/name", "org/name", "{here}/cron.d", None),
        ("org/name", "org/other", "{here}/hub/models--org--other/snapshots/c0ffee", None),
    ],
)
def test_a_model_comes_where_this_platform_looks_for_it(tmp_path, ours, theirs, was, becomes):
    deployment, tree = models(tmp_path, theirs, was.format(here=tmp_path))
    deployment = with_source(deployment, ours.format(here=tmp_path))
    before = set(tmp_path.rglob("config.json"))
    put_outside(deployment, tree)
    assert set(tmp_path.rglob("config.json")) - before == ({tmp_path / becomes / "config.json"} if becomes else set())


def test_a_model_is_there_whole_or_not_at_all(outside, tmp_path):
    deployment, tree, _ = outside
    shutil.rmtree(tmp_path / "model")
    at = next(model.at for model in read_manifest(tree).models)
    (tree / at / "tokenizer.json").write_text("x")
    with pytest.raises(CheckError):
        put_outside(deployment, tree)
    assert not list(tmp_path.glob("*model*"))


def test_a_full_disk_while_a_file_or_a_model_is_put_in_place_is_named(outside, tmp_path):
    deployment, tree, folder = outside
    was, said = contents(folder), []
    with watching(room=True) as calls:
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "model")
        put_outside(deployment, tree)
    for at in range(calls.count):
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        with watching(at, full, room=True):
            try:
                put_outside(deployment, tree)
            except PreconditionError as error:
                said.append(error.message)
        assert not list(tmp_path.glob(".*restoring"))
        put_outside(deployment, tree)
        assert contents(folder) == was
    assert len(said) > 10
    assert all(one.startswith("no space left on the disk that holds /") for one in said)


def test_a_ledger_that_the_meter_was_writing_is_replaced_with_all_that_belongs_to_it(fetched, tree):
    """What is left of the old one's log of changes must not be played into the new one."""
    layout = fetched.layout
    for suffix in ("-wal", "-shm"):
        Path(f"{layout.ledger}{suffix}").write_bytes(b"of the old ledger")
    put(fetched)
    assert sorted(path.name for path in layout.usage.iterdir()) == ["ledger.db", "tiny-0.jsonl"]
    meter(layout, "kiva", {"police": 1})
    assert sums_of(layout.ledger)["prompt_tokens"] >= 107


def told_of(outcomes, step):
    return [one.message for one in outcomes if one.step == step]


def test_what_was_revoked_since_the_backup_stays_revoked_and_what_was_issued_stays_known(deployment, tree, places):
    shutil.copytree(tree, places.fetched, symlinks=True)
    layout = deployment.layout
    register = read_register(layout)
    live = next(token for token in register.tokens if token.revoked_at is None)
    late = replace(live, id="late")
    write_register(layout, register.with_token(late).revoked(frozenset({live.id}), datetime.now(UTC)))
    assert told_of(put(deployment), "tokens") == ["1 issued and 1 revoked since the backup are taken along"]
    restored = {token.id: token for token in read_register(layout).tokens}
    assert restored[live.id].revoked_at is not None
    assert restored["late"].revoked_at is None


def test_a_key_that_was_rotated_since_is_told_and_its_tokens_count_as_revoked(fetched):
    write_register(fetched.layout, read_register(fetched.layout).with_token(replace(read_register(fetched.layout).tokens[0], id="new", key="other")))
    outcomes = put(fetched)
    assert told_of(outcomes, "signing key")[0].startswith("the signing key was rotated since the backup")
    assert next(token for token in read_register(fetched.layout).tokens if token.id == "new").revoked_at is not None


def test_an_old_state_that_is_damaged_is_in_nobodys_way(fetched):
    fetched.layout.signing_key.write_bytes(b"damaged")
    fetched.layout.token_register.write_bytes(b"damaged")
    outcomes = put(fetched)
    assert told_of(outcomes, "signing key") == []
    assert "what was revoked since the backup is not known" in told_of(outcomes, "tokens")[0]
    assert [token.id for token in read_register(fetched.layout).tokens] == ["a", "b", "c", "d"]
