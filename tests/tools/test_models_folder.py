"""Model folders as people have them: whole, cut short, half copied."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import time
from pathlib import Path

import pytest

from kivactl.errors import PreconditionError
from kivactl.spec.platform import Model
from kivactl.tools.models import ModelStore, checked_folder

_found = importlib.util.spec_from_file_location("tiny_model", Path(__file__).parents[1] / "tiny_model.py")
tiny_model = importlib.util.module_from_spec(_found)
_found.loader.exec_module(tiny_model)


@pytest.fixture
def folder(tmp_path):
    return tiny_model.build(tmp_path / "tiny", weights=True)


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "cache")


def path_model(source="path:./tiny", **values):
    return Model(name="tiny", source=source, **values)


def refusal(folder, *, dummy=False):
    with pytest.raises(PreconditionError) as refused:
        checked_folder(folder, dummy=dummy)
    assert refused.value.hint
    return str(refused.value)


def in_shards(folder):
    """Two shards and their index, as the hub has them."""
    whole = folder / "model.safetensors"
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(whole.read_bytes())
    whole.unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}))
    return index


def test_a_whole_folder(folder, store, tmp_path):
    found = store.prepared(path_model(), tmp_path)
    assert found.path == folder
    assert found.weights_bytes == (folder / "model.safetensors").stat().st_size
    assert found.config["model_type"] == "qwen2"
    assert found.identity.startswith("folder:")
    assert list(store.prepare(path_model(), tmp_path)) == []


def test_absolute_paths_and_the_home_folder(folder, store, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.prepared(path_model(f"path:{folder}"), Path("/elsewhere")).path == folder
    assert store.prepared(path_model("path:~/tiny"), Path("/elsewhere")).path == folder
    assert store.prepared(path_model("path:../tiny"), tmp_path / "deeper").path == folder


def test_looking_takes_milliseconds(folder, store, tmp_path):
    store.prepared(path_model(), tmp_path)
    started = time.perf_counter()
    store.prepared(path_model(), tmp_path)
    assert time.perf_counter() - started < 0.05


def test_the_identity_changes_with_the_files_and_only_with_them(folder):
    before = checked_folder(folder, dummy=False).identity
    assert checked_folder(folder, dummy=False).identity == before
    (folder / "notes.md").write_text("read by nobody")
    assert checked_folder(folder, dummy=False).identity == before
    seen = {before}
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        stat = (folder / name).stat()
        os.utime(folder / name, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        seen.add(checked_folder(folder, dummy=False).identity)
    config = folder / "config.json"
    stat = config.stat()
    config.write_text(config.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 20000.0'))
    os.utime(config, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    seen.add(checked_folder(folder, dummy=False).identity)
    assert len(seen) == 5


def test_dummy_models_need_no_weights(folder, store, tmp_path):
    (folder / "model.safetensors").unlink()
    found = store.prepared(path_model(engine={"load-format": "dummy"}), tmp_path)
    assert found.weights_bytes > 0
    assert store.prepared(path_model(engine={"load_format": "dummy"}), tmp_path) == found
    assert "has no weights (*.safetensors)" in refusal(folder)


def test_a_dummy_model_must_say_its_shape(folder):
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert refusal(folder, dummy=True) == f"the model folder {folder} cannot be used: its config.json lacks hidden_size"


def test_missing_folder(tmp_path):
    assert refusal(tmp_path / "none") == f"there is no model folder {tmp_path / 'none'}"


def test_a_file_is_no_folder(folder):
    assert "is a file, but a model is a folder" in refusal(folder / "config.json")


@pytest.mark.parametrize("name", ["config.json"])
def test_missing_configuration(folder, name):
    (folder / name).unlink()
    assert refusal(folder) == f"the model folder {folder} has no {name}"


@pytest.mark.parametrize(
    ("content", "fault"), [("{", "not JSON"), ("", "not JSON"), ("[1]", "not a mapping"), ("[" * 100_000, "not JSON"), (b"\xff\xfe\x00", "not JSON")]
)
def test_damaged_configuration(folder, content, fault):
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(folder) == f"the file {folder / 'config.json'} is damaged: {fault}"


def test_missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert refusal(folder) == f"the model folder {folder} has no tokenizer"


@pytest.mark.parametrize("kept", [-1, -1000, 5000])
def test_truncated_weights(folder, kept):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert re.fullmatch(rf"the weights file {re.escape(str(weights))} is cut short: [\d.]+KiB of [\d.]+KiB are there", refusal(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"xx",
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 11) + b'{"a":{"b":1}}'[:11],
        struct.pack("<Q", 27) + b'{"a": {"data_offsets": []}}',
        struct.pack("<Q", 31) + b'{"a": {"data_offsets": [0, ""]}}'[:31],
    ],
)
def test_damaged_weights(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert refusal(folder) == f"the weights file {folder / 'model.safetensors'} is damaged or cut short"


def test_weights_longer_than_promised(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert refusal(folder) == f"the weights file {folder / 'model.safetensors'} is longer than its header says"


def test_a_git_lfs_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n")
    assert refusal(folder) == f"the file {folder / 'model.safetensors'} is a Git LFS pointer, not the weights themselves"


def test_shards(folder):
    whole_bytes = (folder / "model.safetensors").stat().st_size
    in_shards(folder)
    assert checked_folder(folder, dummy=False).weights_bytes == 2 * whole_bytes


def test_missing_shard(folder):
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert refusal(folder) == f"the model folder {folder} lacks the file model-00002-of-00002.safetensors that its index names"


def test_truncated_shard(folder):
    in_shards(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"the weights file {shard} is cut short" in refusal(folder)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_damaged_index(folder, content):
    index = in_shards(folder)
    index.write_text(content)
    assert refusal(folder) == f"the file {index} is damaged: it names no weights"


def test_of_two_formats_the_engine_reads_one(folder):
    size_bytes = (folder / "model.safetensors").stat().st_size
    (folder / "pytorch_model.bin").write_bytes(b"x" * 100)
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert checked_folder(folder, dummy=False).weights_bytes == size_bytes


def test_a_dangling_link_is_no_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")
    assert "has no weights" in refusal(folder)
