"""What is asked of Helm, what it prints, and what the adapter makes of it.

`recorded/helm/` comes from real runs of Helm 3.17.3, 4.1.4 and 4.3.1 against the tests' own API server (`kube_api`), with ports and paths replaced.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import KivaError, PreconditionError, ToolError
from kivactl.tools import helm, helm_failure
from kivactl.tools.helm import Finding, Helm, NoRelease, PendingRelease, Version, parse_stored
from kivactl.tools.helm_failure import Place, failure_of, said_in
from kivactl.tools.helm_output import parse_chart, parse_findings, parse_history, parse_moment, parse_releases, parse_values, parse_version, parse_written

RECORDED = Path(__file__).parent / "recorded" / "helm"
FAILURES = json.loads((RECORDED / "failures.json").read_text())
VERSIONS = ("3.17", "4.1", "4.3")
PLACE = Place("kiva-test", "kiva", "kiva-x")
CHART = Path("charts/demo")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a `helm` of a version that does what a script says; every call is a line of `calls`, its input lies in `input`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    helm._version.cache_clear()

    def of(script, version="v4.3.1+gc0d08d0"):
        path = folder / "helm"
        ask = f'if [ "$1" = version ]; then echo {version}; echo asked >> {tmp_path}/versions; exit; fi'
        path.write_text(f'#!/bin/sh\n{ask}\necho "$@" >> {tmp_path}/calls\nenv > {tmp_path}/environment\ncat > {tmp_path}/input\n{script}\n')
        path.chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return lambda: (tmp_path / "calls").read_text().splitlines()

    return of


def here(kubeconfig=None):
    return Helm(kubeconfig, "kiva-test", "kiva")


def written(version):
    return f"cat {RECORDED}/upgrade_{version}.json"


def interrupt_after(path):
    """Ctrl-C as soon as a file is there."""

    def wait():
        while not path.exists():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


# What is asked


def test_nothing_is_asked_of_the_current_cluster(program):
    calls = program("echo '[]'")
    here().history("kiva-x")
    here(Path("/etc/kubeconfig")).releases()
    assert calls() == [
        "history kiva-x --output json --max 256 --kube-context kiva-test --namespace kiva",
        "list --output json --max 0 --kube-context kiva-test --namespace kiva --kubeconfig /etc/kubeconfig",
    ]


def test_the_callers_own_helm_is_not_meant(program, tmp_path, monkeypatch):
    program("echo '[]'")
    for name in ("HELM_NAMESPACE", "HELM_KUBECONTEXT", "HELM_KUBEAPISERVER", "HELM_KUBETOKEN", "HELM_DRIVER", "HELM_DEBUG"):
        monkeypatch.setenv(name, "of another cluster")
    here().releases()
    assert "of another cluster" not in (tmp_path / "environment").read_text()


def test_values_go_by_standard_input_only(program, tmp_path):
    calls = program(written("4.3"))
    here().install_or_upgrade("kiva-x", CHART, {"word": "not for everyone", "port": 8000})
    assert json.loads((tmp_path / "input").read_text()) == {"word": "not for everyone", "port": 8000}
    assert "everyone" not in calls()[0]
    assert "everyone" not in (tmp_path / "environment").read_text()


WORDS = "upgrade --install kiva-x charts/demo --values - --reset-values --output json --history-max 10 --timeout 300s"
CLUSTER = "--kube-context kiva-test --namespace kiva"


@pytest.mark.parametrize(
    ("version", "options", "words"),
    [
        ("v3.17.3", {}, WORDS),
        ("v4.3.1", {}, WORDS),
        ("v4.3.1", {"dry_run": True}, f"{WORDS} --dry-run=server --hide-secret"),
        ("v3.17.3", {"dry_run": True}, f"{WORDS} --dry-run=server --hide-secret"),
        ("v4.1.4", {"force_conflicts": True}, f"{WORDS} --force-conflicts"),
        ("v3.17.3", {"force_conflicts": True}, WORDS),
        ("v4.3.1", {"description": "model 2 of 3"}, f"{WORDS} --description model 2 of 3"),
        ("v4.3.1", {"timeout_s": 90}, WORDS.replace("300s", "90s")),
    ],
)
def test_the_arguments_of_an_upgrade(program, version, options, words):
    calls = program(written("4.3"), version)
    here().install_or_upgrade("kiva-x", CHART, {}, **options)
    assert calls() == [f"{words} {CLUSTER}"]
    assert "--atomic" not in calls()[0]
    assert "--wait" not in calls()[0]


def test_helm_3_lists_what_has_failed_only_when_asked_to(program):
    calls = program("echo '[]'", "v3.17.3")
    here().releases("owner=helm")
    assert calls() == [f"list --all --output json --max 0 --selector owner=helm {CLUSTER}"]


def test_the_arguments_of_a_rollback_and_of_what_looks(program):
    calls = program("echo '{}'")
    here().rollback("kiva-x", 3, force_conflicts=True)
    here().values("kiva-x", 2)
    here().manifest("kiva-x")
    here().uninstall("kiva-x")
    assert calls() == [
        f"rollback kiva-x 3 --history-max 10 --timeout 300s --force-conflicts {CLUSTER}",
        f"get values kiva-x --output json --revision 2 {CLUSTER}",
        f"get manifest kiva-x {CLUSTER}",
        f"uninstall kiva-x --timeout 300s {CLUSTER}",
    ]


def test_rendering_asks_no_cluster(program):
    calls = program("echo '{}'")
    here().template("kiva-x", CHART, {}, kubernetes="1.37.0", apis=("monitoring.coreos.com/v1/PodMonitor",))
    assert calls() == [
        "template kiva-x charts/demo --namespace kiva --values - --kube-version 1.37.0 --api-versions monitoring.coreos.com/v1/PodMonitor",
    ]


# The program itself


def test_the_version_is_asked_once(program, tmp_path):
    program("echo '[]'")
    for _ in range(3):
        here().releases()
    assert here().version == Version(4, 3, 1)
    assert (tmp_path / "versions").read_text() == "asked\n"


def test_without_helm_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionError, match="'helm' is not on PATH") as caught:
        here().releases()
    assert (caught.value.exit_code, caught.value.hint) == (3, helm.INSTALL)


@pytest.mark.parametrize("version", ["v3.16.4", "v2.17.0"])
def test_an_old_helm_is_refused_before_anything_is_asked(program, tmp_path, version):
    program("echo '[]'", version)
    with pytest.raises(PreconditionError, match=r"needs 3\.17 or newer") as caught:
        here().releases()
    assert (caught.value.exit_code, caught.value.hint) == (3, helm.INSTALL)
    assert not (tmp_path / "calls").exists()


def test_something_else_called_helm(program):
    program("echo '[]'", "emacs-completion")
    with pytest.raises(ToolError, match="does not say its version"):
        _ = here().version


def test_a_helm_that_a_signal_ended(program):
    program("kill -9 $$")
    with pytest.raises(ToolError, match="'helm' was ended by SIGKILL"):
        here().releases()


def test_ctrl_c_lets_helm_finish_what_it_writes(program, tmp_path):
    program(f"touch {tmp_path}/begun; sleep 0.5; echo whole > {tmp_path}/release; {written('4.3')}")
    interrupt_after(tmp_path / "begun")
    with pytest.raises(KeyboardInterrupt):
        here().install_or_upgrade("kiva-x", CHART, {})
    assert (tmp_path / "release").read_text() == "whole\n"


def test_ctrl_c_ends_a_helm_that_does_not_come_to_an_end(program, tmp_path, monkeypatch):
    monkeypatch.setattr(helm, "PATIENCE_S", 0.1)
    program(f"trap 'echo cancelled > {tmp_path}/release; exit 1' INT; touch {tmp_path}/begun; while :; do sleep 0.05; done")
    interrupt_after(tmp_path / "begun")
    with pytest.raises(KeyboardInterrupt):
        here().install_or_upgrade("kiva-x", CHART, {})
    assert (tmp_path / "release").read_text() == "cancelled\n"


# What it prints


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_written(version):
    made = parse_written((RECORDED / f"upgrade_{version}.json").read_text())
    assert (made.state.name, made.state.revision, made.state.status, made.state.chart) == ("kiva-x", 1, "deployed", "demo-0.1.0")
    assert made.state.description == "Install complete"
    assert made.state.updated_at.year == 2026
    assert "kind: Deployment" in made.manifest


@pytest.mark.parametrize("version", VERSIONS)
def test_what_would_be_written(version):
    made = parse_written((RECORDED / f"dry_run_{version}.json").read_text())
    assert (made.state.revision, made.state.description) == (4, "Dry run complete")
    assert "replicas: 2" in made.manifest


@pytest.mark.parametrize("version", VERSIONS)
def test_the_history(version):
    revisions = parse_history("kiva-x", (RECORDED / f"history_{version}.json").read_text())
    assert [(one.revision, one.status) for one in revisions] == [(1, "superseded"), (2, "deployed"), (3, "failed")]
    assert revisions[1].description == "first of two"
    assert 'admission webhook "policy.example.org" denied the request: no' in revisions[2].description
    assert all(one.updated_at.tzinfo is not None for one in revisions)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_releases_of_a_namespace(version):
    releases = parse_releases((RECORDED / f"list_{version}.json").read_text())
    assert [(one.name, one.revision, one.status) for one in releases] == [("kiva-x", 3, "failed"), ("kiva-y", 1, "deployed")]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_release_as_it_lies_in_the_cluster(version):
    stored = parse_stored((RECORDED / f"secret_{version}.txt").read_text().strip())
    assert (stored.state.name, stored.namespace, stored.state.revision, stored.values) == ("kiva-x", "kiva", 2, {"replicas": 2})
    assert stored.state.chart == "demo-0.1.0"
    assert "kind: Deployment" in stored.manifest


@pytest.mark.parametrize("version", VERSIONS)
def test_the_chart_of_a_release_as_it_lies_in_the_cluster(version, tmp_path):
    chart = parse_chart((RECORDED / f"secret_{version}.txt").read_text().strip())
    assert json.loads(chart["Chart.yaml"])["name"] == "demo"
    assert json.loads(chart["values.yaml"])
    assert any(path.startswith("templates/") and b"kind: Deployment" in content for path, content in chart.items())


def test_a_chart_does_not_lead_out_of_its_folder():
    parts = [{"name": name, "data": base64.b64encode(b"x").decode()} for name in ("templates/a.yaml", "../b", "/c", "templates/../../d")]
    release = {"chart": {"metadata": {"name": "demo"}, "templates": parts}}
    text = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
    assert set(parse_chart(text)) == {"templates/a.yaml", "Chart.yaml", "values.yaml"}


@given(st.text())
def test_what_is_no_release_is_said(text):
    with pytest.raises(ToolError, match="holds no release"):
        parse_stored(text)
    with pytest.raises(ToolError, match="holds no chart"):
        parse_chart(text)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_lint_finds(version):
    found = parse_findings((RECORDED / f"lint_{version}.txt").read_text())
    assert found[0] == Finding("INFO", "Chart.yaml", "icon is recommended")
    assert [(one.severity, one.where) for one in found[1:]] == [("ERROR", "values.yaml"), ("ERROR", "templates/")]
    assert "replicas" in found[2].text


def test_findings_are_an_answer_and_not_a_failure(program):
    program(f"cat {RECORDED}/lint_4.3.txt; exit 1")
    assert len(here().lint(CHART, {})) == 3
    program("echo 'Error: stat charts/demo: no such file' >&2; exit 1")
    with pytest.raises(ToolError):
        here().lint(CHART, {})


def test_no_values_at_all():
    assert parse_values("null\n") == {}
    assert parse_values('{"a":1}') == {"a": 1}


@pytest.mark.parametrize("text", ["", "Error", "[", '{"a"'])
def test_what_is_not_what_was_asked_for(text):
    with pytest.raises(ToolError, match="did not print what it was asked for"):
        parse_values(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-29T15:39:07.402116376Z", datetime(2026, 11, 29, 15, 39, 7, 402116, UTC)),
        ("2026-11-29 15:39:05.073489779 +0000 UTC", datetime(2026, 11, 29, 15, 39, 5, 73489, UTC)),
        ("2026-11-29T16:39:07+01:00", datetime(2026, 11, 29, 15, 39, 7, 0, UTC)),
        ("2026-11-29 16:39:05.5 +0100 CET", datetime(2026, 11, 29, 15, 39, 5, 500000, UTC)),
        ("", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_moments(text, moment):
    assert parse_moment(text) == moment


@given(st.integers(10**15, 4 * 10**15))
def test_a_moment_survives_both_ways_of_writing_it(microseconds):
    moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
    assert parse_moment(moment.isoformat()) == moment
    assert parse_moment(moment.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")) == moment


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_versions_compare_as_numbers(major, minor, patch):
    version = parse_version(f"v{major}.{minor}.{patch}+gabcdef\n")
    assert (version < helm.OLDEST) == ((major, minor) < (3, 17))
    assert str(version) == f"{major}.{minor}.{patch}"


# Why it failed


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: f"{case['helm']} {case['case']}")
def test_every_failure_says_what_is_wrong_and_what_to_do(case):
    error = failure_of(case["said"], PLACE)
    assert (type(error).__name__, error.message, error.hint) == (case["error"], case["message"], case["hint"])
    assert error.hint
    assert "\n" not in error.message
    assert "{" not in error.hint
    assert not any(line.startswith("level=") for line in error.details)


def test_the_failures_are_told_apart():
    kinds = {case["error"] for case in FAILURES}
    assert kinds == {"PendingRelease", "NoRelease", "FieldConflict", "UnreachableCluster", "BrokenOff", "PreconditionError", "ToolError"}
    unknown = {case["case"] for case in FAILURES if case["message"].startswith("helm failed")}
    assert unknown == {"yaml", "bad-name"}, "faults of a chart, not of whoever calls"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "Error: deployments.apps \"x\" is forbidden: ValidatingAdmissionPolicy 'digests' with binding 'all' denied request: images must be by digest",
            "a policy of the cluster (digests) refuses the release kiva-x: images must be by digest",
        ),
        (
            'Error: pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
            "the namespace kiva asks for Pod Security restricted:latest, which the release kiva-x violates: allowPrivilegeEscalation != false",
        ),
        (
            'Error: UPGRADE FAILED: Get "https://10.0.0.1/api": net/http: TLS handshake timeout',
            "the connection to the cluster of the context 'kiva-test' broke off: TLS handshake timeout",
        ),
        ("Error: UPGRADE FAILED: release kiva-x failed: rate: Wait(n=1) would exceed context deadline: context deadline exceeded", None),
    ],
)
def test_what_was_not_recorded(said, message):
    error = failure_of(said, PLACE)
    if message is None:
        assert type(error) is helm_failure.BrokenOff
    else:
        assert error.message == message


@given(st.text())
def test_whatever_it_says_ends_in_one_sentence(said):
    error = failure_of(said, PLACE)
    assert isinstance(error, KivaError)
    assert error.message
    assert error.hint
    assert len(error.details) <= 20


def test_warnings_are_no_reason():
    said = 'W1129 12:00:00.0 1 warnings.go:70] unknown field "spec.foo"\nlevel=WARN msg="upgrade failed" error="x"\nError: UPGRADE FAILED: x\n'
    assert said_in(said) == ("x",)


def test_what_does_not_exist_has_no_history_and_nothing_to_remove(program):
    program("echo 'Error: release: not found' >&2; exit 1")
    assert here().history("kiva-x") == ()
    assert here().status("kiva-x") is None
    assert here().uninstall("kiva-x") is False
    with pytest.raises(NoRelease, match="no release kiva-x in the namespace kiva"):
        here().values("kiva-x")


def test_a_cluster_that_does_not_answer_has_not_no_history(program):
    program("echo 'Error: Kubernetes cluster unreachable: dial tcp 127.0.0.1:6443: connect: connection refused' >&2; exit 1")
    with pytest.raises(PreconditionError, match="cannot be reached"):
        here().history("kiva-x")


def test_a_release_in_the_making(program):
    program("echo 'Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress' >&2; exit 1")
    with pytest.raises(PendingRelease):
        here().install_or_upgrade("kiva-x", CHART, {})
