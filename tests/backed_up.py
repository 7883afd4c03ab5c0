"""A small provisioned platform of files alone, a backup's tree of it, and a repository that is a folder of such trees."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kivactl import journal
from kivactl.errors import CheckError, PreconditionError
from kivactl.flows.backup.stage import build_stage, stage_of
from kivactl.flows.deployment import Deployment
from kivactl.spec.load import load
from kivactl.stack.certificates import authority_for, new_key, public_half, server_certificate_for
from kivactl.stack.layout import Layout
from kivactl.targets.pair import install_pair
from kivactl.targets.publication import key_id
from kivactl.targets.register import Entry, Register, RetiredKey, write_register
from kivactl.targets.release import Release, write_json, write_release
from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import open_ledger

SPEC = """\
name: {name}
models:
  - {{name: tiny, source: "path:{model}", max_length: 512, engine: {{load-format: dummy}}}}
gateway: {{port: {port}, tenants: [{{name: police}}, {{name: tax}}]{gateway}}}
storage: {{cache: {cache}}}
{more}"""
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
KEYS = {name: new_key() for name in ("signing", "retired", "authority", "server")}
"""Made once: they are what takes time."""

_KILLED = 77


def platform_in(folder: Path, *, name: str = "kiva", port: int = 4000, gateway: str = "", more: str = "", environment: str | None = None) -> Deployment:
    """A spec in a folder, with a model and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "kiva.yaml"
    spec.write_text(SPEC.format(name=name, model=model_in(folder.parent / "model"), port=port, gateway=gateway, cache=folder.parent / "cache", more=more))
    return Deployment(load(spec, environment), Layout(folder / ".kiva", folder.parent / "cache"), lambda: load(spec, environment))


def model_in(folder: Path) -> Path:
    """What passes for a model as long as nobody loads it."""
    if not folder.exists():
        folder.mkdir(parents=True)
        sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        (folder / "config.json").write_text(
            json.dumps({"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 2048, "torch_dtype": "bfloat16", **sizes})
        )
        (folder / "tokenizer.json").write_text("{}")
    return folder


def provision(deployment: Deployment) -> Deployment:
    """Everything that a backup has to keep, and some of what it has not."""
    layout, name = deployment.layout, deployment.platform.name
    for made in (layout.gateway, layout.tls, layout.logs, layout.usage, layout.retired_keys, layout.run, layout.state / "evidence"):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    _private(layout.signing_key, KEYS["signing"])
    retired = key_id(KEYS["retired"])
    _private(layout.retired_keys / f"{retired}.pem", public_half(KEYS["retired"]))
    authority = authority_for(KEYS["authority"], platform=name, now=NOW)
    _private(layout.ca_key, KEYS["authority"])
    _private(layout.ca_certificate, authority)
    names = ["DNS:localhost", "IP:127.0.0.1"]
    install_pair(
        layout,
        KEYS["server"],
        server_certificate_for(KEYS["server"], platform=name, names=names, authority=authority, authority_key=KEYS["authority"], now=NOW),
    )
    write_register(layout, Register(tuple(_entries(key_id(KEYS["signing"]))), (RetiredKey(retired, NOW - DAY, None),)))
    meter(layout, name, {"police": 100, "tax": 7})
    write_json(layout.gateway / "revoked.json", {"ids": ["c"]})
    # As a deploy leaves it; nothing of it is ever started here.
    write_release(layout.release, Release(name, "digest", "https://127.0.0.1:4000/v1", {"tiny-0": {"argv": ["true"]}}, {"tiny": ["tiny-0"]}))
    _private(layout.state / "evidence" / "evidence.key", b"key")
    journal.note(layout.journal, "deploy-1", "opened")
    run(layout, "backup-20260101T000000Z-1", "one")
    layout.access_log.write_text("a request\n")
    layout.usage_log("tiny-0").write_text("counted\n")
    return deployment


def meter(layout: Layout, platform: str, tokens: dict[str, int], day: str = "2026-01-01") -> None:
    """Add to the ledger."""
    ledger = open_ledger(f"sqlite:{layout.ledger}", platform)
    with ledger.transaction():
        ledger.add_to_days({DayKey(day, tenant, "", "tiny", "tiny"): Sums(1, 0, count, 0, count) for tenant, count in tokens.items()})
    ledger.close()


def run(layout: Layout, name: str, text: str) -> Path:
    """A folder of a run."""
    folder = layout.state / "runs" / name
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_text(f"{text}\n")
    (folder / "figures" / "one.json").write_text(json.dumps({"text": text}))
    return folder


def change(deployment: Deployment) -> None:
    """What happens to a platform after its backup: everything is another, something is new, something is gone."""
    layout = deployment.layout
    _private(layout.signing_key, new_key())
    write_register(layout, Register(tuple(_entries("other"))[:1]))
    meter(layout, deployment.platform.name, {"police": 5})
    (layout.gateway / "revoked.json").unlink()
    layout.state.joinpath("shares.json").write_text("{}")
    layout.log("tiny-0").write_text("later\n")
    layout.access_log.write_text("a request\nanother\n")
    journal.note(layout.journal, "deploy-2", "opened")
    run(layout, "restart-20260102T000000Z-1", "two")


def tree_of(deployment: Deployment, into: Path) -> Path:
    """A backup of a platform as it is fetched."""
    build_stage(deployment)
    shutil.copytree(stage_of(deployment.layout), into, symlinks=True)
    return into


def rewrite(tree: Path, **changes: Any) -> None:
    """Change what a backup says of itself; a key with None goes."""
    path = tree / "manifest.json"
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def know(tree: Path, name: str) -> None:
    """Let the manifest know a file or link of the tree as it is."""
    path = tree / name
    if path.is_symlink():
        entry: dict[str, Any] = {"link": str(path.readlink())}
    else:
        content = path.read_bytes()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "mode": path.stat().st_mode & 0o777}
    rewrite(tree, files={**json.loads((tree / "manifest.json").read_text())["files"], name: entry})


def contents(folder: Path, *but: str) -> dict[str, Any]:
    """All that is in a folder: bytes and mode of files, what links say, folders; without some of its entries."""
    found: dict[str, Any] = {}
    for entry in _entries_below(str(folder), but):
        name = entry.path[len(str(folder)) + 1 :]
        found[name] = os.readlink(entry) if entry.is_symlink() else "folder" if entry.is_dir() else _file_at(entry)  # noqa: PTH115  (done thousands of times)
    return found


def reset(folder: Path, was: dict[str, Any]) -> None:
    """Make a folder what it was when `contents` looked; touches only what is another by now."""
    now = contents(folder)
    for name in sorted(now.keys() - was.keys(), reverse=True):
        _remove(folder / name)
    for name, one in sorted(was.items()):
        if now.get(name) == one:
            continue
        path = folder / name
        if name in now:
            _remove(path)
        if one == "folder":
            path.mkdir(mode=0o700)
        elif isinstance(one, str):
            path.symlink_to(one)
        else:
            path.write_bytes(one[0])
            path.chmod(one[1])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _entries_below(folder: str, but: Sequence[str] = ()) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name not in but:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries_below(entry.path)


def _file_at(entry: os.DirEntry[str]) -> tuple[bytes, int]:
    with open(entry, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read(), entry.stat().st_mode & 0o777


@dataclass(frozen=True)
class Snapshot:
    id: str
    made_at: datetime
    tags: tuple[str, ...]
    original: str = ""


def snapshot(mark: str, *, days: float = 0, platform: str = "kiva", tags: Iterable[str] = ("kivactl",), original: str = "", number: str = "1") -> Snapshot:
    """A backup in a list; its id begins with a mark."""
    return Snapshot(mark.ljust(64, "0"), NOW + days * DAY, (*tags, f"platform={platform}", f"format={number}"), original.ljust(64, "0") if original else "")


@dataclass
class Folders:
    """A repository that is a folder of trees.

    Attributes:
        trees: By the id of their snapshot.
        kept: Its snapshots, the oldest first.
        damaged: What a check says; nothing when it is sound.
        done: What was asked of it, in order.
    """

    trees: dict[str, Path] = field(default_factory=dict)
    kept: list[Snapshot] = field(default_factory=list)
    damaged: str = ""
    done: list[str] = field(default_factory=list)

    def put(self, one: Snapshot, tree: Path) -> Snapshot:
        self.kept = sorted([*self.kept, one], key=lambda one: one.made_at)
        self.trees[one.id] = tree
        return one

    def snapshots(self) -> list[Snapshot]:
        self.done.append("snapshots")
        return self.kept

    def check(self, *, read_data: bool = False) -> None:
        self.done.append(f"check {read_data}")
        if self.damaged:
            raise CheckError(self.damaged)

    def restore(self, snapshot: str, into: Path, only: Sequence[str] = ()) -> None:
        self.done.append(" ".join([f"restore {snapshot.rstrip('0')}", *only]))
        tree = self.trees[snapshot]
        try:
            shutil.copytree(
                tree, into, symlinks=True, dirs_exist_ok=True, ignore=lambda at, names: set(names) - set(only) if only and at == str(tree) else set()
            )
        except (shutil.Error, OSError) as error:
            if "No space left" not in str(error):
                raise
            raise PreconditionError("no space left where the repository there or the fetched backup lies") from None  # as restic's is told

    def tag(self, snapshot: str, tag: str) -> str:
        self.done.append(f"tag {snapshot.rstrip('0')} {tag}")
        old = next(one for one in self.kept if one.id == snapshot)
        new = replace(old, id="f" + old.id[1:], original=old.id, tags=(*old.tags, tag))
        self.kept[self.kept.index(old)] = new
        self.trees[new.id] = self.trees.pop(old.id)
        return new.id


_CALLS = ("rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "fsync", "fchmod", "open", "write")
"""The calls by which this process changes files."""


@dataclass
class Calls:
    """Calls that change files.

    Attributes:
        count: How many there were.
        at: The one that fails; none when negative.
        fail: What happens instead of it.
    """

    count: int = 0
    at: int = -1
    fail: Callable[[], None] = lambda: None


@contextmanager
def watching(at: int = -1, fail: Callable[[], None] = lambda: None, *, room: bool = False) -> Iterator[Calls]:
    """Count the calls by which this process changes files, or only those that need room; one of them fails before it does anything."""
    calls = Calls(0, at, fail)
    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            if not room or name not in {"unlink", "rmdir", "fchmod"}:
                patch.setattr(os, name, _watched(getattr(os, name), calls, making=room and name == "open"))
        yield calls


def killed(at: int, work: Callable[[], object]) -> bool:
    """Do something in a process of its own that is killed at a call that changes files; says whether it got so far."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with watching(at, lambda: os._exit(_KILLED)):
                work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, _KILLED}, "it failed by itself"
    return code == _KILLED


def full(number: int = errno.ENOSPC) -> None:
    """What the operating system says when a disk is full; it names no file when a write fails."""
    raise OSError(number, os.strerror(number))


def _watched(real: Any, calls: Calls, *, making: bool) -> Any:
    def call(*arguments: Any, **words: Any) -> Any:
        if making and not arguments[1] & os.O_CREAT:
            return real(*arguments, **words)
        calls.count += 1
        if calls.count - 1 == calls.at:
            calls.fail()
        return real(*arguments, **words)

    return call


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A disk of its own with little room."""
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def fill(folder: Path, but: int = 0) -> Path:
    """Take all room of a disk but some bytes; what takes it is to be removed."""
    path = folder / "ballast"
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    if but:
        os.truncate(path, max(0, path.stat().st_size - but))
    return path


def _entries(key: str) -> Iterator[Entry]:
    yield Entry("a", "police", "never ends", NOW - DAY, None, None, key)
    yield Entry("b", "tax", "ends", NOW - DAY, NOW + 90 * DAY, None, key)
    yield Entry("c", "police", "stolen", NOW - DAY, None, NOW, key)
    yield Entry("d", "tax", "over", NOW - 9 * DAY, NOW - DAY, None, key)


def _private(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
