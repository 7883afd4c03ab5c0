"""Models on this machine: found, made ready, and named by a hash that says exactly which weights they are.

A package's GGUF file is converted once and kept in the cache; a local folder is checked and used where it lies; a
Hugging Face id is taken from the hub's own cache, and downloaded into it only while a model is prepared. What is heavy
(torch, transformers, the hub's client) runs in children, which Ctrl-C can end at any moment.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import Model
from kivactl.spec.quantities import format_bytes
from kivactl.stack.sizing import weights_bytes_from_config
from kivactl.tools import gguf
from kivactl.tools.clock import Clock
from kivactl.tools.gguf import Notes, lines_of

_MANIFEST = "manifest.json"
_PARTS = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".py"}
"""Suffixes of what an engine reads from a model's folder."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt")
_LARGEST_HEADER_BYTES = 100_000_000
"""Source: https://github.com/huggingface/safetensors#format"""
_DOWNLOAD = """\
import json, sys
from huggingface_hub import snapshot_download
try:
    snapshot_download(**json.loads(sys.argv[1]))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that an engine can load.

    Attributes:
        path: Absolute folder in Hugging Face layout.
        identity: Says exactly which weights these are: the GGUF file's hash, the hub's commit, or a folder's fingerprint.
        weights_bytes: Size of the weights.
        config: Its config.json.
    """

    path: Path
    identity: str
    weights_bytes: int
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Prepared models.

    Attributes:
        cache: Folder they are kept in.
        clock: Time.
    """

    cache: Path
    clock: Clock = field(default_factory=Clock)

    def prepared(self, model: Model, folder: Path) -> Prepared | None:
        """The model if an engine can load it now; None when it must be prepared first. Takes milliseconds.

        Args:
            model: From the spec.
            folder: Where relative paths count from.

        Raises:
            PreconditionError: It names a package or folder that is missing or broken.
        """
        match model.source_kind:
            case "package":
                return _from_manifest(self._place(gguf.file_of(model.source_name), model.source_name))
            case "path":
                # A link keeps its own name: resolving it would tie the engine to where it points today.
                return checked_folder(Path(os.path.abspath(folder / Path(model.source_name).expanduser())), dummy=model.dummy_weights)  # noqa: PTH100
            case _:
                with suppress(PreconditionError):  # an interrupted download; preparing completes it or says what is wrong
                    return _downloaded(model)
                return None

    def prepare(self, model: Model, folder: Path) -> Iterator[Outcome]:
        """Make a model ready; yields how far it is, and nothing when it is ready already.

        Args:
            model: From the spec.
            folder: Where relative paths count from.

        Raises:
            PreconditionError: A package or folder is missing or broken, the disk is full, or the hub cannot be reached.
            ToolError: The conversion failed.
        """
        if self.prepared(model, folder) is not None:
            return
        step, started_s = f"model {model.name}", self.clock.now_s()
        yield Outcome(step, Status.STARTED, f"preparing {model.source}")
        notes = self._convert(gguf.file_of(model.source_name), model.source_name) if model.source_kind == "package" else _into_cache(model)
        with closing(notes):
            for note, _ in itertools.groupby(notes):
                yield Outcome(step, Status.PROGRESS, note, self.clock.now_s() - started_s)
        yield Outcome(step, Status.DONE, "ready", self.clock.now_s() - started_s)

    def _place(self, source: Path, package: str) -> Path:
        return self.cache / "models" / f"{gguf.module_of(package)}-{self._hash_of(source)[:16]}-{gguf.VERSION}"

    def _convert(self, source: Path, package: str) -> Notes:
        place = self._place(source, package)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock_file(place) as lock:
            if not _locked(lock):
                yield "waiting for another command that prepares it"
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _from_manifest(place) is not None:
                return
            _remove_remains(place)
            beside = place.with_name(f"{place.name}.{os.getpid()}.tmp")
            beside.mkdir(mode=0o700)
            try:
                yield from gguf.converting(source, beside)
                manifest = {"identity": f"gguf:{self._hash_of(source)}:{gguf.VERSION}", "files": {file.name: _fingerprint(file) for file in beside.iterdir()}}
                checked_folder(beside, dummy=False)
                (beside / _MANIFEST).write_text(json.dumps(manifest, indent=2))
                shutil.rmtree(place, ignore_errors=True)
                beside.replace(place)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def _hash_of(self, source: Path) -> str:
        """SHA-256 of a file, remembered as long as its size, time and place stay the same."""
        stat = source.stat()
        key = f"{source}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
        remembered = self.cache / "hashes.json"
        known: Any = {}
        with suppress(OSError, ValueError):
            known = json.loads(remembered.read_text())
        if isinstance(known, dict) and isinstance(known.get(key), str):
            return str(known[key])
        value = sha256_of(source)
        with suppress(OSError):  # a plan must do without: only preparing says that the cache cannot be written
            self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = remembered.with_name(f".hashes.{os.getpid()}")
            beside.write_text(json.dumps({**(known if isinstance(known, dict) else {}), key: value}))
            beside.replace(remembered)
        return value


def checked_folder(folder: Path, *, dummy: bool) -> Prepared:
    """A folder in Hugging Face layout, checked without reading the weights themselves.

    Args:
        folder: The model's folder.
        dummy: Whether the engine makes random weights up, so that none need be there.

    Raises:
        PreconditionError: Something is missing or cut short; the message names the file.
    """
    if folder.is_file():
        raise PreconditionError(f"{folder} is a file, but a model is a folder in Hugging Face layout", "correct `source` in kiva.yaml")
    if not folder.is_dir():
        raise PreconditionError(f"there is no model folder {folder}", "correct `source` in kiva.yaml")
    config = _json(folder / "config.json")
    if not any((folder / name).exists() for name in _TOKENIZERS):
        raise PreconditionError(f"the model folder {folder} has no tokenizer", "copy its tokenizer.json into it")
    if dummy:
        try:
            return Prepared(folder, _folder_identity(folder, weights=False), weights_bytes_from_config(config), config)
        except PreconditionError as error:
            raise PreconditionError(f"the model folder {folder} cannot be used: {error.message}", error.hint) from None
    weights = _weights_of(folder)
    for path in weights:
        _check_weights(path)
    return Prepared(folder, _folder_identity(folder, weights=True), sum(path.stat().st_size for path in weights), config)


def downloading(model: Model, folder: Path | None = None) -> Notes:
    """Download a model from the hub in a child; yields how far it is. What is there of it already is not downloaded again.

    Args:
        model: With a hub's id as its source.
        folder: Where to; the hub's own cache when None.

    Raises:
        PreconditionError: The hub cannot be reached or has no such model, or the disk is full.
    """
    wanted = {
        "repo_id": model.source,
        "revision": model.revision,
        "allow_patterns": [f"*{suffix}" for suffix in sorted(_PARTS - {".bin"} - ({".safetensors"} if model.dummy_weights else set()))],
        "ignore_patterns": ["original/*", "onnx/*", "consolidated*"],
        **({} if folder is None else {"local_dir": str(folder)}),
    }
    argv: list[str | Path] = [sys.executable, "-P", "-c", _DOWNLOAD, json.dumps(wanted)]
    yield "downloading"
    try:
        # The hub's client draws its progress bars on terminals only, unless told so.
        with closing(lines_of(argv, {"TQDM_POSITION": "-1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"})) as lines:
            for line in lines:
                if match := re.search(r"(\d+)%\|", line):
                    yield f"downloading {match[1]} %"
    except ToolError as error:
        raise _download_failure(model, error, "the hub's cache" if folder is None else str(folder)) from None


def hub_reference(model: Model, snapshot: Path) -> Path | None:
    """The file by which the hub's cache finds a model's snapshot again; None for a model of another kind."""
    return snapshot.parent.parent / "refs" / (model.revision or "main") if model.source_kind == "hub" else None


def _into_cache(model: Model) -> Notes:
    yield from downloading(model)
    if _downloaded(model) is None:
        raise PreconditionError(f"the model {model.source} has no config.json on the hub", "choose a model in Hugging Face layout")


def _downloaded(model: Model) -> Prepared | None:
    """A model in the hub's cache; None when nothing of it is there. Source: the hub's documented cache layout."""
    environment = os.environ
    home = environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    hub = Path(environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub").expanduser()
    cache = hub / f"models--{model.source.replace('/', '--')}"
    commit = model.revision or "main"
    with suppress(OSError):
        commit = (cache / "refs" / commit).read_text().strip()
    snapshot = cache / "snapshots" / commit
    if not (snapshot / "config.json").exists():
        return None
    checked = checked_folder(snapshot, dummy=model.dummy_weights)
    return Prepared(checked.path, f"hub:{model.source}@{commit}", checked.weights_bytes, checked.config)


def _download_failure(model: Model, error: ToolError, place: str) -> PreconditionError:
    if gguf.tells_full_disk(error):
        return PreconditionError(
            f"no space left on the disk that holds {place}, for {model.source}", "free some space, or choose another folder (HF_HOME for the hub's cache)"
        )
    text, details = "\n".join(error.details), tuple(line for line in error.details if line)[-5:]
    if "RepositoryNotFoundError" in text or "GatedRepoError" in text:
        return PreconditionError(f"the hub has no model {model.source} that you may read", "correct `source` in kiva.yaml, or `hf auth login`", details)
    if "RevisionNotFoundError" in text:
        return PreconditionError(f"the model {model.source} has no revision {model.revision}", "correct `revision` in kiva.yaml", details)
    return PreconditionError(
        f"the model {model.source} is not in {place} and cannot be downloaded", "copy it to this machine and write `source: path:FOLDER`", details
    )


def _weights_of(folder: Path) -> list[Path]:
    for index in (folder / gguf.INDEX, folder / "pytorch_model.bin.index.json"):
        if index.exists():
            files = _json(index).get("weight_map")
            if not isinstance(files, dict) or not files:
                raise PreconditionError(f"the file {index} is damaged: it names no weights", "copy the model again")
            shards = [folder / name for name in sorted({str(name) for name in files.values()})]
            for shard in shards:
                if not shard.is_file():
                    raise PreconditionError(f"the model folder {folder} lacks the file {shard.name} that its index names", "copy the model again")
            return shards
    found = [path for pattern in ("*.safetensors", "*.bin") for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not found:
        raise PreconditionError(f"the model folder {folder} has no weights (*.safetensors)", "copy the model again, or set `engine: {load-format: dummy}`")
    # Where a model comes in two formats, the engine reads the first.
    return [path for path in found if path.suffix == found[0].suffix and (path.name != "consolidated.safetensors" or len(found) == 1)]


def _check_weights(path: Path) -> None:
    """Compare a file's size with what its header promises. Source: https://github.com/huggingface/safetensors#format"""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise PreconditionError(f"the file {path} is a Git LFS pointer, not the weights themselves", f"git -C {path.parent} lfs pull")
        if path.suffix != ".safetensors":
            return
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size_bytes
        header = file.read(length) if length <= min(size_bytes - 8, _LARGEST_HEADER_BYTES) else b""
    try:
        promised = 8 + length + max((entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise PreconditionError(f"the weights file {path} is damaged or cut short", "copy the model again") from None
    if size_bytes != promised:
        fault = f"cut short: {format_bytes(size_bytes)} of {format_bytes(promised)} are there" if size_bytes < promised else "longer than its header says"
        raise PreconditionError(f"the weights file {path} is {fault}", "copy the model again")


def _folder_identity(folder: Path, *, weights: bool) -> str:
    """Changes when a file is replaced. Weights count by name, size and time, for hashing them would take minutes."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.iterdir()):
        if path.suffix in _PARTS and path.is_file() and (weights or path.suffix not in {".safetensors", ".bin"}):
            stat = path.stat()
            digest.update(f"\n{path.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
    return f"folder:{digest.hexdigest()}"


def _from_manifest(place: Path) -> Prepared | None:
    """A converted model; None when its files no longer are what the manifest says (then it is converted again)."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text())
        files = manifest["files"]
        if not all(_unchanged(place / name, known) for name, known in files.items()):
            return None
        weights_bytes = sum(known["bytes"] for name, known in files.items() if name.endswith(".safetensors"))
        return Prepared(place.absolute(), manifest["identity"], weights_bytes, json.loads((place / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _fingerprint(path: Path) -> dict[str, str | int]:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # or a power failure could leave the manifest without what it describes
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256_of(path)}


def _unchanged(path: Path, known: Mapping[str, Any]) -> bool:
    stat = path.stat()
    if stat.st_size != known["bytes"]:
        return False
    return bool(stat.st_mtime_ns == known["mtime_ns"] or sha256_of(path) == known["sha256"])


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise PreconditionError(f"the model folder {path.parent} has no {path.name}", "copy the model again") from None
    except (ValueError, RecursionError):
        raise PreconditionError(f"the file {path} is damaged: not JSON", "copy the model again") from None
    if not isinstance(data, dict):
        raise PreconditionError(f"the file {path} is damaged: not a mapping", "copy the model again")
    return data


def _remove_remains(place: Path) -> None:
    """Remove what killed conversions left behind; whose lock can be had, nobody works on."""
    for remains in place.parent.glob("*.tmp"):
        owner = place.with_name(remains.name.rsplit(".", 2)[0])
        if owner == place:
            shutil.rmtree(remains, ignore_errors=True)
            continue
        with _lock_file(owner) as lock:
            if _locked(lock):
                shutil.rmtree(remains, ignore_errors=True)


@contextmanager
def _lock_file(place: Path) -> Iterator[int]:
    """The open lock file of a place; the kernel lets go of the lock when its holder ends."""
    descriptor = os.open(place.with_name(f"{place.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
