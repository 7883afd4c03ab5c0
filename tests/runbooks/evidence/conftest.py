"""Runs made by hand: a platform's folder with an authority, and journals written by the chain itself."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from functools import partial

import pytest

from kivactl.flows.deployment import Deployment
from kivactl.plan import digest
from kivactl.runbooks import evidence, runs
from kivactl.runbooks.binding import bind
from kivactl.runbooks.chain import Chain
from kivactl.spec.load import load
from kivactl.stack.certificates import authority_for, new_key
from kivactl.stack.layout import Layout

SPEC = """\
name: city
models: [{name: chat, source: "path:./model", replicas: 2}]
runbooks: {contacts: {operator: "IT-Betrieb, Tel. 4711", platform-lead: "A. Beispiel"}}
"""
ADA = {"name": "ada", "user": "a.lovelace", "host": "ops1"}
GRACE = {"name": "grace", "user": "g.hopper", "host": "ops2"}
PLAN = digest("plan")
PICTURE = b"""<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" height="9pt" viewBox="0 0 9 9">
<defs><path id="a" d="M0 0L9 9"/></defs><use xlink:href="#a" style="stroke: #0072b2"/></svg>"""


class HandMadeRun:
    """A run's folder whose journal a test writes."""

    def __init__(self, folder, deployment, bound, language="en"):
        self.folder, self.deployment, self.bound, self.language = folder, deployment, bound, language
        folder.mkdir(parents=True, mode=0o700)
        (folder / "runbook.yaml").write_bytes(bound.text)
        (folder / "plan.json").write_text(json.dumps({"title": "plan", "basis": PLAN}) + "\n")
        (folder / "lock").touch(0o600)

    def says(self, event, **fields):
        with Chain(self.folder / "journal.jsonl") as chain:
            chain.append(event, **fields)

    def opens(self, **more):
        bound = self.bound
        said = {
            "runbook": bound.name,
            "title": bound.runbook.title.in_language(self.language),
            "purpose": bound.runbook.purpose.in_language(self.language),
            "platform": "city",
            "operator": ADA,
            "parameters": bound.parameters,
            "language": self.language,
            "runbook_sha256": bound.text_sha256,
            "spec": self.deployment.loaded.digest,
            "plan": PLAN,
            "steps": [{"name": step.name, "title": step.title(self.language)} for step in bound.steps],
            "approval": None,
        }
        self.says("opened", **said | more)

    def does(self, name, *messages, elapsed_s=1.5):
        self.says("begun", step=name, attempt=1)
        for message in messages:
            self.says("outcome", step=name, outcome={"step": "gateway", "status": "done", "message": message})
        self.says("done", step=name, elapsed_s=elapsed_s, result={})

    @property
    def record(self):
        return runs.record_of(self.folder)

    def write(self):
        evidence.write(self.folder, self.record, self.bound, self.deployment)
        return self.folder


def _deployment_in(folder):
    (folder / "kiva.yaml").write_text(SPEC)
    loaded = load(folder / "kiva.yaml")
    layout = Layout(folder / ".kiva", folder / "cache")
    layout.tls.mkdir(parents=True, mode=0o700)
    return Deployment(loaded, layout, lambda: loaded)


def _authority_of(deployment):
    key, layout = new_key(), deployment.layout
    layout.ca_key.write_bytes(key)
    layout.ca_certificate.write_bytes(authority_for(key, platform="city", now=datetime.now(UTC)))
    return layout.ca_certificate


def _run_of(deployment, name="failover-killed", language="en", **chosen):
    folder = deployment.layout.state / "runs" / f"{name}-20260101T120000Z-{os.getpid()}"
    return HandMadeRun(folder, deployment, bind(name, deployment.loaded, chosen), language)


def _drill_of(deployment):
    run = _run_of(deployment, replica="chat-0", detection="15s")
    run.opens()
    look = {"value": [], "tolerance": "= []", "met": True, "message": "[]"}
    run.says("checked", phase="before", step=None, check="Gateway, meter and every replica serve", probe="components.faults", **look)
    run.does("kill", "chat-0 was killed (pid 4711)", elapsed_s=8.25)
    run.says("checked", phase="step", step="kill", check="It serves again as a new process", probe="component.restored", **look)
    run.does("answer", "a token was generated")
    run.says(
        "checked", phase="after", step=None, check="The platform answers", probe="platform.answers", **look | {"met": False, "message": "false, not = true"}
    )
    measured = {"detection": 0.4, "recovery": 8.1, "outage": 0.75, "lost_requests": 0, "cut_streams": 3, "error_ratio": 0.0125}
    run.says("observed", measured=measured)
    run.says("closed", verdict="passed", reason="", measured=measured)
    measurements = run.folder / "measurements"
    (measurements / "load").mkdir(parents=True)
    (measurements / "load" / "records.jsonl").write_text('{"index": 0}\n')
    for language in ("en", "de"):
        (measurements / f"load.{language}.svg").write_bytes(PICTURE)
    times = {"count": 9, "mean": 0.2, "p50": 0.125, "p90": 0.3, "p95": 0.4, "p99": 0.5}
    phases = [
        {"name": name, "start_s": start_s, "end_s": start_s + 10, "answered": 90, "lost": 0, "cut": 3, "ttft_s": times, "e2e_s": None}
        for name, start_s in (("before", 0), ("during", 10), ("after", 20))
    ]
    summary = {"load": {"scenario": "smoke", "model": "chat", "users": 8, "max_tokens": 32}, "phases": phases, "notes": [], "figures": measured}
    (measurements / "summary.json").write_text(json.dumps(summary) + "\n")
    return run


@pytest.fixture
def deployment(tmp_path):
    return _deployment_in(tmp_path)


@pytest.fixture
def authority(deployment):
    """The platform's certificate authority."""
    return _authority_of(deployment)


@pytest.fixture
def new_run(deployment):
    """Make a run's folder of a runbook."""
    return partial(_run_of, deployment)


@pytest.fixture
def drill(deployment):
    """A failover drill that has passed, with measurements, not yet signed."""
    return _drill_of(deployment)


@pytest.fixture(scope="session")
def _signed_once(tmp_path_factory):
    """A signed drill and its authority's certificate; writing it takes much longer than copying it."""
    folder = tmp_path_factory.mktemp("signed")
    deployment = _deployment_in(folder)
    authority = _authority_of(deployment)
    drill = _drill_of(deployment)
    drill.write()
    drill.folder.rename(folder / "run")
    authority.rename(folder / "authority.pem")
    shutil.rmtree(deployment.layout.state)
    return folder


@pytest.fixture
def signed(_signed_once, tmp_path):
    """A copy of a signed run, as an auditor gets it without the platform, and whom to believe."""
    folder, trust = tmp_path / "elsewhere" / "copy", tmp_path / "elsewhere" / "authority.pem"
    shutil.copytree(_signed_once / "run", folder)
    shutil.copy(_signed_once / "authority.pem", trust)
    return folder, trust
