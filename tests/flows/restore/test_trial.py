"""What is started when a backup is tried: the same platform, as small as it goes, with nothing that reaches outside; and that nothing of it stays."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from backed_up import change, contents, know, meter, platform_in, provision, rewrite, tree_of

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows.restore import trial as trying
from kivactl.flows.restore.manifest import read_manifest
from kivactl.flows.restore.places import fetched_of, trial_of
from kivactl.flows.restore.trial import Engines, clean, trial, trial_platform
from kivactl.spec.load import load
from kivactl.stack.certificates import parse, signed_by
from kivactl.stack.layout import Layout
from kivactl.targets.release import read_release
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers

OUTWARD = ", address: 0.0.0.0, tracing: {otlp: 'http://127.0.0.1:4318'}, metrics: {address: 0.0.0.0, port: 9999}"


def small(platform, tree, port=5000):
    return trial_platform(platform, tree, read_manifest(tree), port)


def test_nothing_of_it_reaches_outside(tmp_path):
    deployment = provision(platform_in(tmp_path / "platform", gateway=OUTWARD, more='usage: {ledger: "postgresql://kiva@db/kiva"}\n'))
    manifest_of = provision(platform_in(tmp_path / "other"))
    platform = small(deployment.platform, tree_of(manifest_of, tmp_path / "tree"))
    gateway = platform.gateway
    assert (gateway.address, gateway.port, gateway.metrics.address, gateway.metrics_port) == ("127.0.0.1", 5000, "127.0.0.1", 5001)
    assert gateway.tracing is None
    assert platform.usage.ledger == "sqlite"


def test_it_has_the_same_tenants_and_models_but_one_of_each(tmp_path, deployment, tree):
    model = deployment.platform.models[0].model_copy(update={"replicas": 4, "concurrency": 32, "kv_cache": 2**30})
    platform = deployment.platform.model_copy(update={"models": (model,)})
    tried = small(platform, tree)
    assert tried.gateway.tenants == platform.gateway.tenants
    assert tried.name == platform.name
    (one,) = tried.models
    assert (one.replicas, one.concurrency, one.kv_cache) == (1, 1, None)
    assert (one.name, one.source, one.max_length, one.engine) == (model.name, model.source, model.max_length, model.engine)


def test_files_that_the_spec_names_and_models_are_those_of_the_backup(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("site.pem", "site.key", "sso.json", "sso.pem"):
        (outside / name).write_text(name)
    issuers = f"issuers: [{{issuer: 'https://a.example.com', audience: kiva, jwks: {outside}/sso.json}}, "
    issuers += f"{{issuer: 'https://b.example.com', audience: kiva, jwks: 'https://b.example.com/keys', ca: {outside}/sso.pem}}]"
    gateway = f", tls: {{certificate: {outside}/site.pem, key: {outside}/site.key}}, {issuers}"
    deployment = provision(platform_in(tmp_path / "platform", gateway=gateway, more="backup: {models: content}\n"))
    tree = tree_of(deployment, tmp_path / "tree")
    tried = small(deployment.platform, tree)
    one, two = tried.gateway.issuers
    assert (tried.gateway.tls.certificate, tried.gateway.tls.key) == (None, None)
    assert Path(one.jwks).read_text() == "sso.json"
    assert one.jwks.startswith(str(tree))
    assert one.ca is None
    assert two.jwks == "https://b.example.com/keys"
    assert two.ca.startswith(str(tree / "external"))
    assert tried.models[0].source.startswith(f"path:{tree}/models/")


@pytest.fixture
def started(monkeypatch):
    """No process is started; what would have been is in `deployments`."""
    seen = SimpleNamespace(deployments=[], answered=[], release=None)

    def apply(deployment, plan):
        seen.deployments.append(deployment)
        seen.release = read_release(deployment.layout.release)
        seen.state = contents(deployment.layout.state)
        yield from ()

    def plan(deployment):
        if seen.memory:
            raise PreconditionError(seen.memory)
        return "plan"

    seen.memory = ""
    monkeypatch.setattr(trying, "apply_deploy", apply)
    monkeypatch.setattr(trying, "plan_deploy", plan)
    for name in ("_ask", "_refuse_forged"):
        monkeypatch.setattr(trying, name, lambda deployment, name=name: seen.answered.append(name))
    monkeypatch.setattr("kivactl.tools.machine.facts", lambda: SimpleNamespace(gpus=()))
    return seen


@pytest.fixture
def fetched(deployment, tree):
    into = fetched_of(deployment.layout, "trial")
    shutil.copytree(tree, into, symlinks=True)
    change(deployment)
    return into


def test_it_is_built_apart_and_nothing_of_it_stays(deployment, fetched, started):
    before = contents(deployment.layout.state, "backup")
    outcomes = list(trial(deployment, fetched))
    assert outcomes[-1].data["result"]["started"] == "engines"
    assert contents(deployment.layout.state, "backup") == before
    assert [path.name for path in trial_of(deployment.layout).iterdir()] == ["fetched"]
    (tried,) = started.deployments
    assert tried.layout.state == trial_of(deployment.layout) / "state"
    assert tried.layout.cache == deployment.layout.cache
    assert started.answered == ["_ask", "_refuse_forged"]
    assert tried.reload().digest == tried.loaded.digest
    list(clean(deployment))
    assert not trial_of(deployment.layout).exists()
    list(clean(deployment))


def test_its_processes_are_not_those_of_the_running_platform(deployment, fetched, started):
    list(trial(deployment, fetched))
    assert started.release.processes == {}
    assert started.release.maintenance == {}


def test_the_certificate_is_for_the_trial_and_of_the_restored_authority(deployment, fetched, started):
    list(trial(deployment, fetched))
    certificate = started.state["tls/pairs/2/gateway.pem"][0]
    assert signed_by(certificate, started.state["tls/ca.pem"][0])
    assert set(parse(certificate)[0].names) == {"IP:127.0.0.1", "DNS:localhost"}


def test_a_platform_without_an_authority_of_its_own_gets_one_for_the_trial(deployment, fetched, started):
    files = json.loads((fetched / "manifest.json").read_text())["files"]
    for name in ("ca.key", "ca.pem"):
        (fetched / "state" / "tls" / name).unlink()
        del files[f"state/tls/{name}"]
    rewrite(fetched, files=files)
    list(trial(deployment, fetched))
    assert signed_by(started.state["tls/pairs/2/gateway.pem"][0], started.state["tls/ca.pem"][0])


def test_the_spec_in_the_backup_counts_but_models_lie_where_they_are_now(deployment, fetched, started, tmp_path):
    moved = tmp_path / "moved"
    (tmp_path / "model").rename(moved)
    spec = deployment.loaded.folder / "kiva.yaml"
    spec.write_text(spec.read_text().replace(f"path:{tmp_path}/model", f"path:{moved}").replace("tax", "customs"))
    now = replace(deployment, loaded=load(spec), reload=lambda: load(spec))
    list(trial(now, fetched))
    (tried,) = started.deployments
    assert [tenant.name for tenant in tried.platform.gateway.tenants] == ["police", "tax"]
    assert tried.platform.models[0].source == f"path:{moved}"


def test_engines_that_do_not_fit_stay_out_unless_they_are_wanted(deployment, fetched, started, monkeypatch):
    started.memory = "not enough memory"
    with pytest.raises(PreconditionError, match="not enough memory"):
        list(trial(deployment, fetched, Engines.ALWAYS))
    assert not (trial_of(deployment.layout) / "state").exists()
    calls = []

    def plan(tried):
        calls.append(tried)
        if len(calls) == 1:
            raise PreconditionError("not enough memory")

    monkeypatch.setattr(trying, "plan_deploy", plan)
    outcomes = list(trial(deployment, fetched))
    assert outcomes[-1].data["result"]["started"] == "gateway"
    assert started.release.maintenance.keys() == {"tiny-0"}
    assert started.release.replicas == {"tiny": ["tiny-0"]}


def test_engines_stay_out_where_they_would_take_gpus_and_where_nobody_wants_them(deployment, fetched, started, monkeypatch):
    assert list(trial(deployment, fetched, Engines.NEVER))[-1].data["result"]["started"] == "gateway"
    monkeypatch.setattr("kivactl.tools.machine.facts", lambda: SimpleNamespace(gpus=("one",)))
    assert list(trial(deployment, fetched))[-1].data["result"]["started"] == "gateway"
    assert list(trial(deployment, fetched, Engines.ALWAYS))[-1].data["result"]["started"] == "engines"


@pytest.mark.parametrize("where", ["apply_deploy", "_ask", "_refuse_forged"])
def test_whatever_fails_nothing_of_it_stays(deployment, fetched, started, monkeypatch, where):
    def failed(*_):
        raise CheckError("it does not answer")

    monkeypatch.setattr(trying, where, failed)
    with pytest.raises(CheckError, match="does not answer"):
        list(trial(deployment, fetched))
    assert not (trial_of(deployment.layout) / "state").exists()


def test_a_gateway_that_lets_everybody_in_is_told(deployment, fetched, started, monkeypatch):
    monkeypatch.undo()

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def models(self):
            pass

    monkeypatch.setattr("kivactl.tools.http.open_client", lambda _: Client())
    with pytest.raises(CheckError, match="lets in who has a token of a foreign key"):
        trying._refuse_forged(deployment)


def test_a_ledger_that_adds_up_to_something_else_once_it_was_opened_is_told(deployment, fetched, started, monkeypatch):
    sums = iter([["100"], ["99"]])
    monkeypatch.setattr(trying, "_billed", lambda _: next(sums))
    with pytest.raises(CheckError, match="the ledger adds up to something else"):
        list(trial(deployment, fetched))


def test_what_the_trial_itself_asked_is_not_billed(deployment):
    billed = trying._billed(deployment.layout)
    assert [key.tenant for key, _ in billed] == ["police", "tax"]
    meter(deployment.layout, "kiva", {trying.OPERATOR: 3})
    assert trying._billed(deployment.layout) == billed


def test_what_a_killed_trial_left_is_ended_before_the_next(deployment, fetched, started):
    state = trial_of(deployment.layout) / "state"
    state.mkdir(parents=True)
    (state / "stranger").touch()
    child = subprocess.Popen(["sleep", "600"], env={STATE_VARIABLE: str(state), "PATH": "/usr/bin:/bin"})
    list(trial(deployment, fetched))
    assert child.wait() == -15
    assert leftovers.marked(STATE_VARIABLE, str(state)) == []
    assert not state.exists()


def test_another_platforms_backup_is_not_tried(deployment, fetched, started):
    rewrite(fetched, platform="other")
    with pytest.raises(PreconditionError, match="of the platform 'other'"):
        list(trial(deployment, fetched))
    assert started.deployments == []


def test_a_spec_of_another_name(deployment, fetched, started):
    (fetched / "spec" / "kiva.yaml").rename(fetched / "spec" / "site.yaml")
    rewrite(fetched, spec_files=["site.yaml"])
    know(fetched, "spec/site.yaml")
    list(trial(deployment, fetched))
    assert started.deployments[0].platform.name == "kiva"


def test_nothing_metered_adds_up_to_nothing(tmp_path):
    assert trying._billed(Layout(tmp_path, tmp_path)) == []
