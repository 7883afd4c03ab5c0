"""Writes what a run leaves behind: figures for machines, reports for people, all records for whoever doubts them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.loadtest.assignment import Folder
from kivactl.loadtest.junit import junit_for
from kivactl.loadtest.material import Material
from kivactl.loadtest.metrics import Summary
from kivactl.loadtest.page import page_for, pictures_for
from kivactl.loadtest.report import report_for, search_report_for
from kivactl.tools import plot


def write_results(files: Folder, summary: Summary, material: Material, *, with_page: bool = True) -> None:
    """Write the results of a run into its folder, readable by its owner only.

    Args:
        files: Of the run.
        summary: Its figures.
        material: What its page is made of; its summary, with its window, becomes `summary.json`.
        with_page: Whether the page is made, whose pictures take some seconds.

    Raises:
        OSError: They cannot be written; the records as they came stay.
    """
    window = material.window
    told = {**material.summary, "window": {"start_ns": window.start_ns, "end_ns": window.end_ns} if window else None}
    _write(files.summary, json.dumps(told, indent=2) + "\n")
    _write(files.report, report_for(summary))
    _write(files.junit, junit_for(material.summary))
    _pack(files)
    if with_page:
        _write_page(files, material)


def _write_page(files: Folder, material: Material) -> None:
    """After all the rest, as it takes longest: whoever has no patience for it has lost nothing else."""
    pictures, missing = _drawn(material)
    _write(files.page, page_for(material, pictures, missing=missing))


def _drawn(material: Material) -> tuple[dict[str, str], str]:
    """The pictures by name, and why there are none, as one sentence."""
    try:
        plot.require()
        return {chart.name: plot.inline(chart) for chart in pictures_for(material)}, ""
    except PreconditionError as error:
        return {}, f"This page has no pictures: {error.message} ({error.hint})."
    except Exception as error:  # noqa: BLE001  (whatever it is: a page without pictures is better than none)
        return {}, f"This page has no pictures: they could not be drawn ({type(error).__name__}: {error})."


def write_search(files: Folder, material: Material) -> None:
    """Write the result of several runs; each of them has its own records and report within.

    Args:
        files: Of all of them.
        material: Of the run that the answer stands on; its summary has `probes` and `answer` too.
    """
    _write(files.summary, json.dumps(dict(material.summary), indent=2) + "\n")
    _write(files.report, search_report_for(material.summary))
    _write(files.junit, junit_for(material.summary))
    _write_page(files, material)


def _write(file: Path, text: str) -> None:
    """A whole file or none. What an engine says may hold halves of signs that no file can."""
    try:
        file.write_text(text, encoding="utf-8", errors="replace")
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _pack(files: Folder) -> None:
    """Compress the records of all processes into one file, whole or not at all."""
    spools = files.spools
    if not spools:
        return
    unfinished = files.packed.with_suffix(".part")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            for spool in spools:
                with spool.open("rb") as source:
                    shutil.copyfileobj(source, packed)
        unfinished.replace(files.packed)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    for spool in spools:
        spool.unlink()
