"""A platform in a cluster is backed up, lost and restored, against an API server, the real Helm and the charts that we ship."""

from __future__ import annotations

import json
import shutil
import time
from base64 import b64decode
from datetime import UTC, datetime

import pytest
from backed_up import contents, know, rewrite
from cluster_desk import Desk, desk
from cluster_platform import NAMESPACE
from cluster_specs import model

from kivactl.errors import CheckError, KivaError, PreconditionError
from kivactl.flows.restore import putting
from kivactl.flows.restore.places import places_for, trial_of
from kivactl.flows.rotation import apply_rotation
from kivactl.runbooks.record import State, Verdict
from kivactl.targets.publication import key_id
from kivactl.targets.register import read_register
from kivactl.tools.kube_objects import Ran

pytestmark = pytest.mark.charts


@pytest.fixture
def place(tmp_path, monkeypatch):
    with desk(tmp_path, monkeypatch) as one:
        yield one


def settled(place: Desk) -> bool:
    """Whether nothing of a restore is left."""
    return not places_for(place.layout).folder.exists() and not trial_of(place.layout).exists()


# What is lost


def test_everything_is_lost_and_comes_back(place):
    token, key = place.issue(), key_id(place.layout.signing_key.read_bytes())
    counted = place.counted()
    place.back_up()
    before = set(place.objects())
    place.lose_namespace()
    place.lose_desk()
    began_s = time.monotonic()
    record = place.run()
    print(f"restored in {time.monotonic() - began_s:.1f} s: {dict(record.measured)}")
    assert record.verdict is Verdict.PASSED, record.reason
    assert key_id(place.layout.signing_key.read_bytes()) == key
    assert place.lets_in(token)
    assert record.measured.keys() == {"rto", "rpo"}
    assert set(place.objects()) == before
    assert place.counted() > counted
    assert "requests put back; those since stay" in place.said("ledger")[-1]
    assert not place.layout.ledger.exists(), "it lies in the volume"
    assert settled(place)
    assert place.run("status-check").state is State.DONE


def test_only_the_desk_is_lost_and_the_platform_serves_all_the_while(place):
    token = place.issue()
    place.back_up()
    place.use(2)
    counted = place.counted()
    pods = {pod["metadata"]["uid"] for pod in place.api.list("Pod", NAMESPACE)}
    place.lose_desk()
    requests = len(place.api.writes())
    with pytest.raises(PreconditionError, match="the platform 'kiva' is running: a restore would replace it") as caught:
        place.run()
    assert caught.value.hint == "kivactl runbook restore --replace"
    assert len(place.api.writes()) == requests
    assert not place.layout.signing_key.exists()
    assert place.run(replace="yes").verdict is Verdict.PASSED
    assert {pod["metadata"]["uid"] for pod in place.api.list("Pod", NAMESPACE)} == pods, "nothing was started anew"
    assert place.lets_in(token)
    assert place.counted() >= counted
    assert "there is one in the volume already: it stays as it is" in place.said("ledger")[-1]


def test_only_the_namespace_is_lost(place):
    place.back_up()
    place.lose_namespace()
    assert place.run().verdict is Verdict.PASSED
    assert place.counted() >= 3
    assert settled(place)


def test_a_spec_that_went_on_is_gone_back_from_only_where_it_was_lost(place):
    place.back_up()
    place.write(model(), model("small"))
    place.deploy()
    place.lose_state()
    assert place.run(replace="yes").verdict is Verdict.PASSED
    assert place.api.get("Deployment", "kiva-small", NAMESPACE) is not None
    place.lose_desk()
    assert place.run(replace="yes").verdict is Verdict.PASSED
    assert place.api.get("Deployment", "kiva-small", NAMESPACE) is None


# Tokens


def test_what_was_revoked_since_the_backup_stays_so_as_the_cluster_knows_it(place):
    old, gone, new = (place.issue() for _ in range(3))
    place.back_up()
    later = place.issue()
    for one in (gone, later):
        place.revoke(one)
    place.lose_desk()
    assert place.run(replace="yes").verdict is Verdict.PASSED
    assert [place.lets_in(one) for one in (old, gone, new, later)] == [True, False, True, False]
    assert place.said("tokens")[-1] == "2 revoked since the backup, as the gateway in the cluster knows, stay so"
    assert sum(one.revoked_at is not None for one in read_register(place.layout).tokens) == 2
    place.write(model(replicas=2))
    place.deploy()
    assert not place.lets_in(later), "nor does a later deploy let it in"


def test_a_key_that_was_rotated_since_is_told(place):
    token = place.issue()
    place.back_up()
    for _ in apply_rotation(place.deployment, overlap=None, at_once=True):
        pass
    assert not place.lets_in(token)
    place.lose_desk()
    assert place.run(replace="yes").verdict is Verdict.PASSED
    assert place.lets_in(token)
    assert "it was rotated since the backup, and is the one of the backup again" in place.said("signing key")[-1]


# The ledger


def test_a_ledger_is_replaced_only_when_that_is_said(place):
    place.back_up()
    place.use(5, time.time() - 3600)
    assert place.counted() >= 8
    place.lose_state()
    assert place.run(replace="yes", replace_ledger="yes").verdict is Verdict.PASSED
    assert place.counted() < 8
    assert "replaced by the backup's, with" in place.said("ledger")[-1]
    assert list(place.volume.usage.glob("before-*")) == list(place.volume.usage.glob("taken-*")) == []


def test_a_ledger_that_was_replaced_comes_back_when_the_restore_fails(place, monkeypatch):
    place.back_up()
    place.use(5, time.time() - 3600)
    counted = place.counted()
    refuses_answers(monkeypatch)
    with pytest.raises(CheckError, match="no answer"):
        place.run(replace="yes", replace_ledger="yes")
    assert place.counted() == counted
    assert "the one of before is in place again" in place.said("ledger")
    assert list(place.volume.usage.glob("before-*")) == []


def test_one_on_postgresql_is_not_touched(place):
    shutil.copytree(place.back_up(), places_for(place.layout).fetched)
    place.write(cluster={"ledger_secret": "db"}, usage={"ledger": "postgresql://kiva@db.example.org/kiva"})
    place.ran.clear()
    (told,) = putting.put_ledger(place.deployment, "run", datetime.now(UTC), replace=True)
    assert told.message.startswith("it lies on PostgreSQL, which a restore does not touch")
    assert place.ran == []


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        (Ran(1, "", "/usr/bin/python3: No module named kivactl.usage.taking\n"), "is of an older kivactl"),
        (Ran(3, "", "the ledger is busy\n"), "the ledger is busy"),
    ],
)
def test_a_ledger_that_cannot_be_filled_brings_the_files_of_before_back(place, ran, said):
    place.back_up()
    place.issue()
    before = contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl")
    place.broken = lambda argv: ran if argv[3] in {"write", "fill"} else None
    with pytest.raises(KivaError, match=said):
        place.run(replace="yes")
    assert contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl") == before
    place.broken = lambda _: None
    assert place.resume().verdict is Verdict.PASSED


# What is not sound


@pytest.mark.parametrize("spoil", ["record", "release", "foreign", "key", "missing record", "chart"])
def test_an_unsound_backup_changes_nothing(place, spoil):
    tree = place.back_up()
    release = json.loads((tree / "cluster/releases/kiva-qwen.json").read_text())
    name, content = {
        "record": ("cluster/record.json", "[]"),
        "release": ("cluster/releases/kiva-qwen.json", json.dumps({**release, "values": 1})),
        "foreign": ("cluster/releases/kiva-qwen.json", json.dumps({**release, "values": {"platform": "other"}})),
        "chart": ("cluster/releases/kiva-qwen.json", json.dumps({**release, "chart": "redis-1.0.0"})),
        "key": ("state/tokens/signing.key", (tree / "state/tls/tls.key").read_text() if (tree / "state/tls/tls.key").exists() else "no key"),
        "missing record": ("cluster/record.json", None),
    }[spoil]
    if content is None:
        (tree / name).unlink()
        files = json.loads((tree / "manifest.json").read_text())["files"]
        rewrite(tree, files={key: value for key, value in files.items() if key != name})
    else:
        (tree / name).write_text(content)
        know(tree, name)
    state, there, writes = contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl"), place.objects(), len(place.api.writes())
    with pytest.raises(CheckError, match="is damaged"):
        place.run(replace="yes")
    assert contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl") == state
    assert (place.objects(), len(place.api.writes())) == (there, writes)
    with pytest.raises(CheckError, match="is damaged"):
        place.run("backup-verification")
    assert (place.objects(), len(place.api.writes())) == (there, writes)


def test_without_the_namespace_nothing_is_begun(place):
    place.back_up()
    place.lose_namespace()
    place.api.remove("Namespace", NAMESPACE, "")
    with pytest.raises(PreconditionError, match="there is no namespace 'kiva' in the cluster 'prod'") as caught:
        place.run()
    assert caught.value.hint.startswith("kubectl --context prod")
    assert caught.value.hint.endswith("create namespace kiva")
    place.api.namespace(NAMESPACE)


# Trying a backup


@pytest.mark.parametrize("name", ["backup-verification", "restore-drill"])
def test_a_backup_is_tried_out_on_the_cluster_and_nothing_is_touched(place, name):
    place.back_up()
    there, state = place.objects(), contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl")
    asked = len(place.api.requests)
    record = place.run(name)
    assert record.verdict is Verdict.PASSED, record.reason
    assert place.objects() == there
    assert contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl") == state
    tried = [one for one in place.api.requests[asked:] if one.verb in {"create", "patch", "update", "apply"}]
    assert {one.kind_name for one in tried} >= {"Deployment", "ConfigMap", "Service", "Secret"}
    assert "verified" in place.repository.kept[0].tags
    assert settled(place)
    (told,) = place.said("trial")[:1]
    assert told.endswith("when they started last)")
    assert record.measured["rto"] >= 0


def test_what_the_cluster_would_not_take_is_no_good_backup(place):
    place.back_up()
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    place.lose_namespace()
    place.api.add(quota, NAMESPACE)
    with pytest.raises(KivaError):
        place.run("backup-verification")
    assert "verified" not in place.repository.kept[0].tags
    assert settled(place)


def test_a_backup_whose_revoked_tokens_are_not_refused_is_none(place, monkeypatch):
    place.revoke(place.issue())
    place.back_up()
    monkeypatch.setattr("kivactl.flows.deploy.cluster.revoked_of", lambda _: [])
    with pytest.raises(CheckError, match="would let in who has a revoked token"):
        place.run("backup-verification")


# Cut off


class Killed(BaseException):
    """As SIGKILL: nothing is undone."""


def killed_in(place, monkeypatch, step, **given):
    """A run that is killed when a step is begun, or has said something."""
    begun, left = place._follow, [True]

    def follow(outcomes):
        place.outcomes = []
        for outcome in outcomes:
            place.outcomes.append(outcome)
            names = [state.name for state in place.record.steps if state.attempts]
            if left[0] and names and names[-1] == step:
                left[0] = False
                outcomes.throw(Killed())
        return place.record

    monkeypatch.setattr(place, "_follow", follow)
    try:
        with pytest.raises(Killed):
            place.run(**given)
    finally:
        monkeypatch.setattr(place, "_follow", begun)


STEPS = ("admit", "fetch", "examine", "note", "put-back", "start", "ledger", "answer", "measure", "finish")


@pytest.mark.parametrize("step", STEPS)
def test_killed_in_any_step_it_is_finished_by_resuming(place, monkeypatch, step):
    token = place.issue()
    counted = place.counted()
    place.back_up()
    place.lose_namespace()
    place.lose_desk()
    killed_in(place, monkeypatch, step)
    record = place.resume()
    assert record.verdict is Verdict.PASSED, record.reason
    assert place.lets_in(token)
    assert counted < place.counted() < 2 * counted + 12, "nothing is entered twice"
    assert settled(place)


@pytest.mark.parametrize("step", ["put-back", "start", "ledger", "answer"])
def test_interrupted_in_any_step_the_files_of_before_are_back(place, monkeypatch, step):
    place.back_up()
    place.write(model(), model("small"))
    place.deploy()
    token = place.issue()
    before = contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl")
    monkeypatch.setattr(f"{__name__}.Killed", KeyboardInterrupt)
    killed_in(place, monkeypatch, step, replace="yes")
    assert contents(place.layout.state, "backup", "runs", "lock", "journal.jsonl") == before
    assert place.api.get("Deployment", "kiva-small", NAMESPACE) is not None
    assert place.lets_in(token)
    assert place.resume().verdict is Verdict.PASSED


def refuses_answers(monkeypatch):
    def answer(*_):
        raise CheckError("no answer")
        yield

    monkeypatch.setattr("kivactl.flows.operate.answer", answer)


def test_a_certificate_that_was_exchanged_comes_back_when_it_fails(place, monkeypatch):
    place.back_up()
    new = place.renew_certificate()
    refuses_answers(monkeypatch)
    with pytest.raises(CheckError, match="no answer"):
        place.run(replace="yes")
    assert place.layout.certificate.read_bytes() == new
    assert b64decode(place.api.get("Secret", "kiva-gateway-tls", NAMESPACE)["data"]["tls.crt"]) == new


def test_what_was_deployed_meanwhile_is_taken_back_when_it_fails(place, monkeypatch):
    place.back_up()
    place.write(model(replicas=2))
    place.deploy()
    token = place.issue()
    (place.folder / "kiva.yaml").unlink()  # the backup's has one replica
    refuses_answers(monkeypatch)
    with pytest.raises(CheckError, match="no answer"):
        place.run(replace="yes")
    assert place.api.get("Deployment", "kiva-qwen", NAMESPACE)["spec"]["replicas"] == 2
    assert place.lets_in(token)
    assert place.said("platform")[-1].startswith("back at deploy 2")
