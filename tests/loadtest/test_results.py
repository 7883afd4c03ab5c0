"""What a run leaves in its folder."""

from __future__ import annotations

import errno
import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from loadtest_material import WINDOW, answered, material, some_records, summary_of

from kivactl.errors import PreconditionError
from kivactl.loadtest.assignment import Folder
from kivactl.loadtest.material import Material
from kivactl.loadtest.record import read_records
from kivactl.loadtest.results import write_results, write_search
from kivactl.tools import plot


def written(folder: Path) -> Folder:
    files, records = Folder(folder), some_records()
    files.records.write_text("".join(f"{record.to_json()}\n" for record in records))
    summary = summary_of(records)
    write_results(files, summary, Material({**summary.as_dict(), "bottleneck": None}, records, WINDOW))
    return files


def test_all_results_are_there(tmp_path: Path) -> None:
    files = written(tmp_path)
    told = json.loads(files.summary.read_text())
    assert told["window"] == {"start_ns": WINDOW.start_ns, "end_ns": WINDOW.end_ns}
    assert "bottleneck" in told
    assert len(read_records(files.packed)) == 120
    assert not files.records.exists()
    assert ET.parse(files.junit).getroot().tag == "testsuites"
    assert files.page.read_text().count("<svg") == 4
    assert "no pictures" not in files.page.read_text()
    assert files.report.read_text().startswith("# Load test 'smoke'")


@pytest.mark.parametrize(
    ("full", "left"),
    [("summary.json", set()), ("junit.xml", {"summary.json", "report.md"}), ("records.jsonl.part", {"summary.json", "report.md", "junit.xml"})],
)
def test_on_a_full_disk_there_are_whole_files_or_none_and_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str, left: set[str]) -> None:
    write_text, copyfileobj = Path.write_text, shutil.copyfileobj

    def text_written(path: Path, text: str, **how: str) -> int:
        if path.name != full:
            return write_text(path, text, **how)
        write_text(path, text[:10], **how)
        raise OSError(errno.ENOSPC, "No space left on device")

    def copied(source: Any, target: Any) -> None:
        if full.endswith(".part"):
            target.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        copyfileobj(source, target)

    records = some_records()
    Folder(tmp_path).records.write_text("".join(f"{record.to_json()}\n" for record in records))
    monkeypatch.setattr(Path, "write_text", text_written)
    monkeypatch.setattr(shutil, "copyfileobj", copied)
    with pytest.raises(OSError, match="No space left"):
        write_results(Folder(tmp_path), summary_of(records), Material(summary_of(records).as_dict(), records, WINDOW))
    assert {file.name for file in tmp_path.iterdir()} == {"records.jsonl", *left}


def refuse() -> None:
    raise PreconditionError("matplotlib is not installed", "pip install it")


def fall(_: object) -> str:
    msg = "<no> font"
    raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("name", "stand_in", "sentence"),
    [
        ("require", refuse, "This page has no pictures: matplotlib is not installed (pip install it)."),
        ("inline", fall, "This page has no pictures: they could not be drawn (RuntimeError: &lt;no&gt; font)."),
    ],
)
def test_pictures_that_cannot_be_drawn_cost_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name, stand_in, sentence) -> None:
    monkeypatch.setattr(plot, name, stand_in)
    files = written(tmp_path)
    assert sentence in files.page.read_text()
    assert "<svg" not in files.page.read_text()
    assert all(path.exists() for path in (files.summary, files.report, files.junit, files.packed))


def test_a_name_that_no_file_can_hold_does_not_lose_a_report(tmp_path: Path) -> None:
    summary = summary_of([answered(0, WINDOW.start_ns)], model="\udc80\x00")
    files = Folder(tmp_path)
    write_results(files, summary, Material(summary.as_dict(), [], WINDOW))
    assert files.page.exists()
    assert ET.parse(files.junit).getroot().tag == "testsuites"


def test_several_runs_have_a_page_of_their_own(tmp_path: Path) -> None:
    files, run = Folder(tmp_path), material()
    told = {**run.summary, "answer": "the service levels are kept up to 4 requests/s", "probes": [asdict(probe) for probe in run.probes]}
    write_search(files, replace(run, summary=told))
    assert json.loads(files.summary.read_text())["answer"] == told["answer"]
    page = files.page.read_text()
    assert told["answer"] in page[: page.index("<h2")]
    assert "Loads in the order in which they were tried" in page
    assert ET.parse(files.junit).getroot().tag == "testsuites"
    assert "up to 4 requests/s" in files.report.read_text()
