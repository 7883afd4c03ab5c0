"""Fetches a model into a folder that engines read: what a cluster's job does before an engine starts.

`python -m kivactl.tools.preload --source SOURCE [--revision COMMIT] [--without-weights] --into FOLDER`, a line for each step. The
folder appears all at once and complete. Killed at any moment, the next run keeps the files that had come whole; a run when all is
there says so and ends. Runs on several nodes at the same time wait for each other, where the storage has locks.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from kivactl.errors import KivaError, PreconditionError, UsageError
from kivactl.plan import digest
from kivactl.spec.platform import Model
from kivactl.spec.quantities import format_bytes
from kivactl.tools import gguf
from kivactl.tools.gguf import Notes
from kivactl.tools.models import checked_folder, downloading, sha256_of

MARK = ".kivactl-model.json"
"""In a fetched folder: what it is, and the size of each file."""

_HUB_NOTES = ".cache"
"""Where the hub's client remembers what it has, within the folder it downloads into."""

_LOCKLESS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


def preloading(model: Model, into: Path) -> Notes:
    """Fetch a model; yields how far it is.

    Args:
        model: Its source, its revision, and whether its weights are made up.
        into: Absolute folder to be; those above it are made when they are missing.

    Raises:
        PreconditionError: It cannot be fetched, there is no room, or the folder holds something else.
        ToolError: A package's file cannot be converted.
    """
    if model.source_kind == "path":
        raise PreconditionError(f"the model {model.source} is put there by people: nothing can fetch it", "`preload: false` in kiva.yaml")
    into.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(into.with_name(f".{into.name}.lock")) as lock:
        alone = yield from _locking(lock)
        if (found := _found(model, into)) is not None:
            yield found
            return
        staging = into.with_name(f".{into.name}.{digest(_wanted(model))[:8]}.partial")
        if alone:
            _remove_pieces(staging)
        identity = yield from _fetching(model, staging)
        shutil.rmtree(staging / _HUB_NOTES, ignore_errors=True)
        weights_bytes = checked_folder(staging, dummy=model.dummy_weights).weights_bytes
        _publish(staging, into, {**_wanted(model), "identity": identity, "weights_bytes": weights_bytes})
        yield f"ready: {identity}, {format_bytes(weights_bytes)} of weights"


def _wanted(model: Model) -> dict[str, Any]:
    return {"source": model.source, "revision": model.revision, "weights": not model.dummy_weights}


def _found(model: Model, into: Path) -> str | None:
    """A sentence about what is there already and can be used; None when the model is to be fetched. What is damaged goes.

    Raises:
        PreconditionError: There is something else.
    """
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return None
    mark = _mark_of(into)
    if mark is None:
        checked_folder(into, dummy=model.dummy_weights)
        return "there already, put there by somebody else"
    if {name: mark.get(name) for name in _wanted(model)} != _wanted(model):
        raise PreconditionError(f"the folder {into} holds the model {mark.get('source')}, revision {mark.get('revision')}", f"rm -r {into}")
    files = mark.get("files")
    if isinstance(files, dict) and files and all(_size_of(into / name) == size_bytes for name, size_bytes in files.items()):
        return f"there already: {mark.get('identity')}"
    shutil.rmtree(into)
    return None


def _fetching(model: Model, staging: Path) -> Generator[str, None, str]:
    """Fill the staging folder; returns the identity of the weights."""
    if model.source_kind == "package":
        source = gguf.file_of(model.source_name)
        shutil.rmtree(staging, ignore_errors=True)  # half a conversion is worth nothing
        staging.mkdir()
        with closing(gguf.converting(source, staging)) as notes:
            yield from notes
        return f"gguf:{sha256_of(source)}:{gguf.VERSION}"
    with closing(downloading(model, staging)) as notes:
        yield from notes
    commit = model.revision or "main"
    with suppress(OSError, IndexError):  # the first word is the commit; source: the hub's `local_dir` layout
        commit = (staging / _HUB_NOTES / "huggingface/download/config.json.metadata").read_text().split()[0]
    return f"hub:{model.source}@{commit}"


def _remove_pieces(staging: Path) -> None:
    """Remove the pieces of files that killed downloads left: the hub's client begins each file anew, under another name."""
    for piece in staging.glob(f"{_HUB_NOTES}/huggingface/download/**/*.incomplete"):
        piece.unlink(missing_ok=True)


def _publish(staging: Path, into: Path, mark: dict[str, Any]) -> None:
    """Let the whole folder appear under its name, after all of it has reached the disk."""
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    (staging / MARK).write_text(json.dumps({**mark, "files": {str(path.relative_to(staging)): path.stat().st_size for path in files}}, indent=2))
    _sync(staging / MARK)
    _sync(staging)
    staging.rename(into)  # onto an empty folder, or where there is none
    _sync(into.parent)


def _mark_of(folder: Path) -> dict[str, Any] | None:
    try:
        mark = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) else None


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    """An open lock file; the system lets go of the lock when its holder ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locking(lock: int) -> Generator[str, None, bool]:
    """Take the lock; says so when that means waiting, and when the storage knows no locks. Returns whether it is held."""
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield "waiting for another that fetches it"
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _LOCKLESS:
            raise
        yield "this storage knows no locks: see that nothing else fetches the same model"
        return False
    return True


def _orders(argv: Sequence[str]) -> tuple[Model, Path]:
    """What the command line asks for.

    Raises:
        UsageError: The source is none.
    """
    from pydantic import ValidationError

    parser = argparse.ArgumentParser(prog="python -m kivactl.tools.preload", description="Fetches a model into a folder that engines read.", allow_abbrev=False)
    parser.add_argument("--source", required=True, help="package:NAME or a Hugging Face id")
    parser.add_argument("--revision", help="commit of a Hugging Face id")
    parser.add_argument("--without-weights", action="store_true", help="only configuration and tokenizer: the engine makes random weights up")
    parser.add_argument("--into", required=True, type=Path, metavar="FOLDER", help="the folder to be")
    given = parser.parse_args(argv)
    engine: dict[str, str | int | float | bool] = {"load-format": "dummy"} if given.without_weights else {}
    try:
        return Model(name="model", source=given.source, revision=given.revision, engine=engine), given.into.absolute()
    except ValidationError as error:
        raise UsageError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None


def _end(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)


def main(argv: Sequence[str]) -> int:
    """Fetch what the command line names.

    Returns:
        Exit code: 0 when it is there.
    """
    # The first process of a container is not ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, _end)
    try:
        model, into = _orders(argv)
        with closing(preloading(model, into)) as notes:
            for note, _ in itertools.groupby(notes):
                print(f"{model.source}: {note}", flush=True)  # noqa: T201  (its log)
    except KivaError as error:
        print("\n".join([error.message, *error.details, *([f"hint: {error.hint}"] if error.hint else [])]), file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:
        print(f"{error.filename or 'the storage'} cannot be used: {error.strerror}", file=sys.stderr)  # noqa: T201
        return PreconditionError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
