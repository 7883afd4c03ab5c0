"""What the documentation tells auditors to type: it accepts what is good, and refuses what is not."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kivactl.runbooks.evidence.manifest import sums_text
from kivactl.runbooks.evidence.surroundings import CHECKING
from kivactl.stack.certificates import new_key
from kivactl.stack.signature import certificate_for, sign

DOCS = Path(__file__).parents[3] / "docs"


def steps(language):
    text = (DOCS / ("evidence.md" if language == "en" else "evidence.de.md")).read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(signed):
    """A signed run as an auditor has it; `authority.pem` lies beside it."""
    return signed[0]


def typed(commands, folder):
    """The exit code of a shell that stops at the first command that fails."""
    done = subprocess.run(["sh", "-eu", "-c", commands], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode


def edited(folder, name="plan.json"):
    (folder / name).write_bytes((folder / name).read_bytes().replace(b"a", b"b", 1))


def listed_anew(folder):
    edited(folder)
    (folder / "SHA256SUMS").write_text(sums_text(folder))


def signed_by_another(folder):
    key = new_key()
    (folder / "certificate.pem").write_bytes(certificate_for(key, platform="city", now=datetime.now(UTC)))
    (folder / "manifest.sig").write_bytes(sign(key, (folder / "manifest.json").read_bytes()))


def cut_off(folder):
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:-1]))


def without_a_line(folder):
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join([*lines[:2], *lines[3:]]))


def test_both_languages_tell_the_same_commands():
    assert steps("en") == steps("de")
    assert len(steps("en")) == 5


def test_what_is_good_is_accepted(copy):
    assert [typed(step, copy) for step in steps("en")] == [0] * 5


def test_the_commands_in_a_report_accept_it_too(copy):
    assert typed("\n".join(CHECKING), copy) == 0
    assert all(command in (copy / "report.de.md").read_text() for command in CHECKING)


@pytest.mark.parametrize(
    ("forged", "refused_by"),
    [
        (lambda folder: edited(folder, "manifest.json"), 1),
        (signed_by_another, 2),
        (edited, 3),
        (lambda folder: (folder / "plan.json").unlink(), 3),
        (listed_anew, 3),
        (lambda folder: (folder / "measurements" / "more.txt").write_text("x"), 4),
        (lambda folder: (folder / "away").symlink_to("/etc"), 4),
        (cut_off, 5),
        (without_a_line, 5),
    ],
)
def test_what_is_forged_is_refused(copy, forged, refused_by):
    forged(copy)
    assert typed(steps("en")[refused_by - 1], copy) != 0


def test_every_file_is_explained(copy):
    for name in ("evidence.md", "evidence.de.md"):
        text = (DOCS / name).read_text()
        for path in copy.iterdir():
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text, path.name


def test_german_lines_are_as_many(copy):
    sections = [re.findall(r"^#+ ", (DOCS / name).read_text(), re.MULTILINE) for name in ("evidence.md", "evidence.de.md")]
    assert sections[0] == sections[1]
