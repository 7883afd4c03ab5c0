"""Showing and replacing certificates; `tests/gateway/test_certificate_renewal.py` does it under a real gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kivactl.errors import NotReadyError, PreconditionError, UsageError
from kivactl.flows.certs import apply_certificate, due, plan_certificate, shown
from kivactl.flows.deployment import Deployment
from kivactl.plan import Verb
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.certificates import Validity, authority_for, new_key, parse, server_certificate_for, signed_by
from kivactl.stack.layout import Layout
from kivactl.targets import gateway
from kivactl.targets.lock import held
from kivactl.tools import tls
from kivactl.tools.envoy import Admin

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
NAMES = ["IP:127.0.0.1", "DNS:localhost"]


def deployment_in(folder, **gateway) -> Deployment:
    platform = Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "x/y"}], "gateway": gateway})
    loaded = Loaded(platform, (), folder, "digest")
    return Deployment(loaded, Layout(folder / "state", folder / "cache"), lambda: loaded)


def write(deployment: Deployment, *, names=NAMES, now=NOW, days=90, authority_days=3650) -> None:
    layout = deployment.layout
    layout.tls.mkdir(parents=True, exist_ok=True)
    authority_key, key = new_key(), new_key()
    authority = authority_for(authority_key, platform="kiva", now=min(now, NOW), days=authority_days)
    layout.ca_key.write_bytes(authority_key)
    layout.ca_certificate.write_bytes(authority)
    layout.certificate_key.write_bytes(key)
    layout.certificate.write_bytes(
        server_certificate_for(key, platform="kiva", names=names, authority=authority, authority_key=authority_key, now=now, days=days)
    )


@pytest.fixture
def deployment(tmp_path):
    deployment = deployment_in(tmp_path)
    write(deployment)
    return deployment


def _replaced(deployment, **words):
    return list(apply_certificate(deployment, **words))[-1]


def test_a_good_certificate_is_left_alone(deployment):
    plan = plan_certificate(deployment, only_if_due=True)
    assert plan.empty
    assert plan.notes == (f"the gateway's certificate is good until {NOW + 90 * DAY:%Y-%m-%d}",)


def test_another_on_demand(deployment):
    plan = plan_certificate(deployment, only_if_due=False)
    assert [(change.verb, change.subject) for change in plan.changes] == [(Verb.REPLACE, "certificate of the gateway")]
    key = deployment.layout.certificate_key.read_bytes()
    done = _replaced(deployment, days=100)
    (said,) = parse(deployment.layout.certificate.read_bytes())
    assert (done.data["fingerprint"], done.data["names"], done.data["served"]) == (said.fingerprint, NAMES, False)
    assert said.matches(deployment.layout.certificate_key.read_bytes())
    assert deployment.layout.certificate_key.read_bytes() != key
    assert signed_by(deployment.layout.certificate.read_bytes(), deployment.layout.ca_certificate.read_bytes())
    assert timedelta(days=99) < said.not_after - NOW < timedelta(days=101)
    assert due(deployment, NOW) is None
    assert "PRIVATE" not in deployment.layout.journal.read_text()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda deployment: deployment.layout.certificate.unlink(), "it is missing"),
        (lambda deployment: deployment.layout.certificate.write_text("x"), "it is damaged"),
        (lambda deployment: deployment.layout.certificate_key.write_bytes(new_key()), "it is damaged"),
        (lambda deployment: deployment.layout.certificate_key.unlink(), "it is damaged"),
        (lambda deployment: write(deployment, days=29), "it ends on "),
        (lambda deployment: write(deployment, now=NOW - 100 * DAY, days=90), "it is expired"),
        (lambda deployment: write(deployment, names=["DNS:elsewhere"]), "the names it is for changed"),
        (lambda deployment: write(deployment, names=[*reversed(NAMES)]), "the names it is for changed"),
        (
            lambda deployment: deployment.layout.ca_certificate.write_bytes(authority_for(deployment.layout.ca_key.read_bytes(), platform="other", now=NOW)),
            "it is not from our authority",
        ),
    ],
)
def test_why_one_has_to_be_made_anew(deployment, fault, reason):
    fault(deployment)
    assert str(due(deployment, NOW)).startswith(reason)
    plan = plan_certificate(deployment, only_if_due=True)
    assert plan.notes[0].startswith(f"the present certificate: {reason}")
    _replaced(deployment)
    assert due(deployment, NOW) is None
    assert plan_certificate(deployment, only_if_due=True).empty


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (lambda layout: layout.ca_certificate.unlink(), "there is no certificate authority"),
        (lambda layout: layout.ca_key.unlink(), "the key of the certificate authority"),
        (lambda layout: layout.ca_key.write_bytes(new_key()), "is damaged"),
        (lambda layout: layout.ca_certificate.write_text(""), "is damaged"),
        (
            lambda layout: layout.ca_certificate.write_bytes(authority_for(layout.ca_key.read_bytes(), platform="kiva", now=NOW - 9 * DAY, days=1)),
            "is not valid at this machine's time",
        ),
        (lambda layout: layout.ca_certificate.write_bytes(authority_for(layout.ca_key.read_bytes(), platform="kiva", now=NOW + DAY)), "is not valid"),
    ],
)
def test_an_authority_that_cannot_sign(deployment, fault, sentence):
    fault(deployment.layout)
    before = deployment.layout.certificate.read_bytes()
    for act in (lambda: plan_certificate(deployment, only_if_due=False), lambda: _replaced(deployment)):
        with pytest.raises(PreconditionError, match=sentence):
            act()
    assert deployment.layout.certificate.read_bytes() == before
    _replaced(deployment, new_authority=True)
    assert all(entry.good for entry in shown(deployment))


def test_a_new_authority(deployment):
    before = deployment.layout.ca_certificate.read_bytes()
    plan = plan_certificate(deployment, only_if_due=False, new_authority=True)
    assert [change.subject for change in plan.changes] == ["certificate authority", "certificate of the gateway"]
    assert "clients have to trust" in plan.changes[0].disruption
    _replaced(deployment, new_authority=True)
    assert deployment.layout.ca_certificate.read_bytes() != before
    assert due(deployment, NOW) is None


def test_a_given_certificate_is_its_owners_business(tmp_path, certificate):
    given = deployment_in(tmp_path, tls={"certificate": str(certificate[0]), "key": str(certificate[1])})
    with pytest.raises(UsageError, match=r"the spec gives the gateway's certificate, .*: who issued it renews it"):
        plan_certificate(given, only_if_due=False)
    (entry,) = shown(given)
    assert (entry.role, entry.fault, entry.validity, entry.path) == ("gateway", "", Validity.SOON, certificate[0])


def test_a_given_chain_and_an_issuers_authority(tmp_path, certificate, deployment):
    chain, authority = tmp_path / "chain.pem", deployment.layout.ca_certificate
    chain.write_bytes(certificate[0].read_bytes() + authority.read_bytes())
    issuer = {"issuer": "https://sso.example", "audience": "kiva", "jwks": "https://sso.example/keys", "ca": str(authority)}
    given = deployment_in(tmp_path, tls={"certificate": str(chain), "key": str(certificate[1])}, issuers=[issuer])
    assert [(entry.role, entry.good) for entry in shown(given)] == [("gateway", True), ("gateway (chain 2)", True), ("issuer https://sso.example", True)]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda layout: layout.certificate.unlink(), "is missing or empty"),
        (lambda layout: layout.certificate.write_text("x"), "is damaged"),
        (lambda layout: layout.certificate_key.write_bytes(new_key()), "does not belong to its key"),
        (lambda layout: layout.certificate_key.write_text(""), "does not belong to its key"),
    ],
)
def test_what_does_not_work_is_shown_as_such(deployment, fault, said):
    fault(deployment.layout)
    assert [entry.fault for entry in shown(deployment)] == ["", said]
    assert [entry.good for entry in shown(deployment)] == [True, False]


@pytest.mark.parametrize(
    ("after", "validity", "good"), [(59, Validity.OK, True), (61, Validity.SOON, True), (91, Validity.EXPIRED, False), (-1, Validity.EARLY, False)]
)
def test_how_they_stand_in_time(deployment, after, validity, good):
    entry = shown(deployment, NOW + after * DAY)[1]
    assert (entry.validity, entry.good) == (validity, good)


def test_before_provisioning(tmp_path):
    nothing = deployment_in(tmp_path)
    assert [entry.fault for entry in shown(nothing)] == ["is missing or empty"] * 2
    with pytest.raises(PreconditionError, match="no certificate authority"):
        plan_certificate(nothing, only_if_due=True)
    with pytest.raises(PreconditionError, match="not provisioned"):
        _replaced(nothing)
    assert list(tmp_path.iterdir()) == []


def test_one_operator_at_a_time(deployment):
    with held(deployment.layout.lock, "deploy"), pytest.raises(PreconditionError, match="locked by 'deploy'"):
        _replaced(deployment)


def test_a_running_gateway_is_waited_for(deployment, monkeypatch):
    looks = iter(["old", "old"])
    monkeypatch.setattr(Admin, "ready", lambda _: True)
    monkeypatch.setattr(tls, "shown_fingerprint", lambda *_: next(looks, None) or parse(deployment.layout.certificate.read_bytes())[0].fingerprint)
    done = _replaced(deployment)
    assert done.data["served"] is True
    assert done.message.endswith(", the gateway shows it")
    assert shown(deployment)[1].served is True


def test_a_gateway_that_shows_another_is_told(deployment, monkeypatch):
    monkeypatch.setattr(Admin, "ready", lambda _: True)
    monkeypatch.setattr(tls, "shown_fingerprint", lambda *_: "another")
    monkeypatch.setattr(gateway, "_SHOWN_WITHIN_S", 0.05)
    assert shown(deployment)[1].served is False
    with pytest.raises(NotReadyError, match="does not show the new certificate"):
        _replaced(deployment)


def test_nobody_listens(tmp_path):
    assert tls.shown_fingerprint("127.0.0.1", 1) is None
