"""Backup, restore and the drills of both on a whole platform whose engines start at once: what survives, what comes back, what is refused.

The figures that are printed (`pytest -s`) are measurements, not promises. The tests go on where the one before ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import time

import httpx
import pytest
from light_platform import Light, interpreter

from kivactl.flows.restore.losing import lost_of
from kivactl.flows.restore.places import places_for, trial_of, verified_of
from kivactl.stack.metering import OPERATOR
from kivactl.targets.release import read_release
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers

pytestmark = pytest.mark.real

COMPONENTS = {"gateway", "meter", "tiny-0", "tiny-1"}


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restores")
    (folder / "platform").mkdir()
    light = Light(folder / "platform", interpreter(folder / "python"), folder / "cache")
    light.write(gateway=", tenants: [{name: police}, {name: tax}]")
    light.run("provision", "--yes")
    light.run("deploy", "--yes")
    try:
        yield light
        light.run("down", "--yes")
        assert light.pids() == []
    finally:
        leftovers.end_marked(STATE_VARIABLE, str(light.layout.state))


@pytest.fixture(scope="module")
def bearer(light):
    """A token that was issued before everything."""
    return issued(light, "police")[0]


def issued(light, tenant):
    told = json.loads(light.run("token", "issue", tenant, "-o", "json")[0])
    return told["token"], told["id"]


def client(light):
    context = ssl.create_default_context(cafile=light.layout.ca_certificate)
    return httpx.Client(verify=context, trust_env=False, timeout=30, base_url=f"https://127.0.0.1:{light.port}")


def ask(light, bearer, times=1):
    """The status of the last of so many questions."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with client(light) as one:
        return [one.post("/v1/chat/completions", headers={"authorization": f"Bearer {bearer}"}, json=body).status_code for _ in range(times)][-1]


def billed(light):
    """Requests and tokens of all tenants but kivactl itself, once the meter has counted them."""
    rows = json.loads(light.run("usage", "report", "--by", "tenant", "-o", "json")[0])["rows"]
    return {row["name"]: (row["requests"], row["prompt_tokens"], row["completion_tokens"]) for row in rows if row["name"] not in {"", OPERATOR}}


def settled(light):
    """The same, once nothing comes any more: a record is written a moment after its answer."""
    seen = [billed(light)]
    while len(seen) < 4 or seen[-1] != seen[-4]:
        time.sleep(0.7)
        seen.append(billed(light))
    return seen[-1]


def until(condition, within_s=120):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def serving(light):
    return {component["name"] for component in light.status["components"] if component["health"] == "serving"}


def runbook(light, name, *words, code=0, **parameters):
    """Run one; the facts it ends with."""
    chosen = [word for key, value in parameters.items() for word in ("--set", f"{key}={value}")]
    out, _ = light.run("runbook", name, "--yes", "-o", "json", *chosen, *words, code=code)
    return json.loads(out)


def lines_of(light, name):
    """The journal of the last run of a runbook."""
    folders = sorted((light.layout.state / "runs").glob(f"{name}-2*"), key=lambda path: path.stat().st_mtime)
    journal = folders[-1] / "journal.jsonl" if folders else None
    return [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")] if journal and journal.exists() else []


def begun(light, name, step):
    return any(entry["event"] == "begun" and entry.get("step") == step for entry in lines_of(light, name))


def ended(child):
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def state_of(light):
    """What must survive: every file of keys, certificates and tokens, and the ledger's bill."""
    files = [path for folder in ("tls", "tokens", "evidence") for path in sorted((light.layout.state / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(light.layout.state)): path.read_bytes() for path in files}


def test_a_backup_counts_as_good_once_a_platform_has_started_from_it(light, bearer):
    assert ask(light, bearer, times=20) == 200
    until(lambda: billed(light).get("police", (0,))[0] == 20)
    pids = {component["name"]: component["pid"] for component in light.status["components"]}
    assert runbook(light, "backup")["verdict"] == "passed"
    facts = runbook(light, "backup-verification", rto="10m", rpo="1h")
    assert facts["verdict"] == "passed"
    assert 0 < facts["measured"]["rto"] < 600
    assert 0 < facts["measured"]["rpo"] < 3600
    print(f"backup-verification: {facts['measured']}")
    (told,) = json.loads(verified_of(light.layout).read_text()).values()
    assert (told["started"], told["run"]) == ("engines", facts["run"])
    assert not trial_of(light.layout).exists()
    assert {component["name"]: component["pid"] for component in light.status["components"]} == pids, "what runs was not touched"


def test_the_drill_of_a_restore_measures_and_keeps_out_of_the_way(light, bearer):
    facts = runbook(light, "restore-drill", engines="never")
    assert facts["verdict"] == "passed"
    assert set(facts["measured"]) == {"rto", "rpo"}
    assert facts["objectives"] == {"rto": 3600.0, "rpo": 93600.0}
    assert runbook(light, "restore-drill", code=6, engines="never", rpo="1ms")["reason"].startswith("RPO")
    assert serving(light) == COMPONENTS


def test_a_running_platform_is_replaced_only_by_who_says_so(light, bearer):
    before = light.status
    refused = runbook(light, "restore", code=3)["error"]
    assert "is running" in refused["message"]
    assert refused["hint"] == "kivactl runbook restore --replace"
    assert not places_for(light.layout).fetched.exists(), "refused before hours of fetching"
    assert [one["pid"] for one in light.status["components"]] == [one["pid"] for one in before["components"]]


def test_a_restore_brings_back_what_was_and_tokens_issued_before_work(light, bearer):
    wanted, sums = state_of(light), settled(light)
    revoked, revoked_id = issued(light, "tax")
    light.run("token", "revoke", revoked_id, "--yes")
    runbook(light, "backup")
    kept = state_of(light)
    assert kept.keys() >= wanted.keys()
    late, late_id = issued(light, "tax")
    stolen, stolen_id = issued(light, "tax")
    light.run("token", "revoke", stolen_id, "--yes")
    facts = runbook(light, "restore", replace="true")
    assert facts["verdict"] == "passed"
    assert facts["measured"]["rto"] > 0
    assert {name: content for name, content in state_of(light).items() if name in kept and not name.endswith(".json")} == {
        name: content for name, content in kept.items() if not name.endswith(".json")
    }
    assert [ask(light, one) for one in (bearer, late, revoked, stolen)] == [200, 200, 401, 401], "what was revoked since the backup stays so"
    known = {token["id"]: token["state"] for token in json.loads(light.run("token", "list", "--all", "-o", "json")[0])["tokens"]}
    assert (known[late_id], known[revoked_id], known[stolen_id]) == ("valid", "revoked", "revoked")
    until(lambda: billed(light)["police"] == tuple(one + more for one, more in zip(sums["police"], (1, 5, 4), strict=True)))
    assert serving(light) == COMPONENTS
    assert not places_for(light.layout).folder.exists(), "what was replaced is gone, the platform answers"
    entries = [json.loads(line) for line in (light.layout.state / "journal.jsonl").read_text().splitlines()]
    assert any(entry.get("event") == "restored" and entry["run"] == facts["run"] for entry in entries)
    assert json.loads(light.run("deploy", "--plan", "-o", "json")[0])["changes"] == []


@pytest.mark.parametrize("step", ["put-back", "start"])
def test_interrupted_it_puts_everything_back_and_starts_it_again(light, bearer, step):
    light.run("token", "issue", "tax")
    wanted = state_of(light)
    count = len(list((light.layout.state / "runs").glob("restore-2*")))
    child = light.start("runbook", "restore", "--yes", "--set", "replace=true")
    until(lambda: len(list((light.layout.state / "runs").glob("restore-2*"))) > count and begun(light, "restore", step))
    child.send_signal(signal.SIGINT)
    code, out, err = ended(child)
    assert code == 130, f"{out}\n{err}"
    assert state_of(light) == wanted
    assert serving(light) == COMPONENTS
    assert ask(light, bearer) == 200
    assert lines_of(light, "restore")[-1]["verdict"] == "interrupted"
    assert not places_for(light.layout).record.exists()


@pytest.mark.parametrize("step", ["clear", "put-back", "start", "finish"])
def test_killed_it_goes_on_where_it_was(light, bearer, step):
    count = len(list((light.layout.state / "runs").glob("restore-2*")))
    child = light.start("runbook", "restore", "--yes", "--set", "replace=true")
    until(lambda: len(list((light.layout.state / "runs").glob("restore-2*"))) > count and begun(light, "restore", step))
    child.send_signal(signal.SIGKILL)
    ended(child)
    ended_before = lines_of(light, "restore")[-1]["event"] == "closed"  # the last step takes but a moment
    if not ended_before:
        facts = json.loads(light.run("runbook", "resume", "latest", "-o", "json")[0])
        assert (facts["verdict"], facts["resumed"]) == ("passed", 1)
    assert step == "finish" or not ended_before
    assert lines_of(light, "restore")[-1]["verdict"] == "passed"
    assert serving(light) == COMPONENTS
    assert ask(light, bearer) == 200
    assert not places_for(light.layout).folder.exists()


def drilled(light):
    """Begin the disaster drill, and agree to it as a second person does."""
    count = len(list((light.layout.state / "runs").glob("disaster-drill-2*")))
    child = light.start("runbook", "disaster-drill", "--yes", "--as", "Ada", "-o", "json")
    until(lambda: len(list((light.layout.state / "runs").glob("disaster-drill-2*"))) > count and lines_of(light, "disaster-drill"))
    _, err = light.run("runbook", "approve", "disaster-drill", "--as", "Ada", "--yes", code=3) if count == 0 else ("", "four eyes")
    assert "four eyes" in err
    run = max((light.layout.state / "runs").glob("disaster-drill-2*"), key=lambda path: path.stat().st_mtime).name
    light.run("runbook", "approve", run, "--as", "Grace", "--yes")
    return child


def test_the_disaster_drill_rebuilds_the_platform_and_measures_it(light, bearer):
    wanted = state_of(light)
    code, out, err = ended(drilled(light))
    assert code == 0, f"{out}\n{err}"
    facts = json.loads(out)
    assert (facts["verdict"], facts["approvals"][0]["by"]) == ("passed", "Grace")
    assert 0 < facts["measured"]["rto"] < 3600
    print(f"disaster-drill: {facts['measured']}")
    assert state_of(light) == wanted
    assert serving(light) == COMPONENTS
    assert ask(light, bearer) == 200
    assert not lost_of(light.layout).exists()


@pytest.mark.parametrize("step", ["strike", "put-back", "start"])
def test_an_interrupted_disaster_drill_was_none(light, bearer, step):
    wanted = state_of(light)
    child = drilled(light)
    until(lambda: begun(light, "disaster-drill", step))
    child.send_signal(signal.SIGINT)
    code, out, err = ended(child)
    assert code == 130, f"{out}\n{err}"
    assert state_of(light) == wanted
    assert serving(light) == COMPONENTS
    assert ask(light, bearer) == 200
    assert not lost_of(light.layout).exists()


def test_taken_up_again_it_strikes_and_rebuilds_anew(light, bearer):
    child = drilled(light)
    until(lambda: begun(light, "disaster-drill", "start"))
    child.send_signal(signal.SIGINT)
    assert ended(child)[0] == 130
    facts = json.loads(light.run("runbook", "resume", "latest", "-o", "json")[0])
    assert facts["verdict"] == "passed"
    told = [entry["outcome"]["message"] for entry in lines_of(light, "disaster-drill") if entry["event"] == "outcome"]
    assert sum("every process is killed" in message for message in told) == 2
    assert sum("building it beside the old one" in message for message in told) == 2
    assert serving(light) == COMPONENTS
    assert ask(light, bearer) == 200


def test_a_killed_disaster_drill_is_finished_by_resuming(light, bearer):
    child = drilled(light)
    until(lambda: begun(light, "disaster-drill", "put-back"))
    child.send_signal(signal.SIGKILL)
    ended(child)
    facts = json.loads(light.run("runbook", "resume", "latest", "-o", "json")[0])
    assert facts["verdict"] == "passed"
    assert facts["measured"]["rto"] > 0
    assert serving(light) == COMPONENTS
    assert ask(light, bearer) == 200


def test_a_wrong_passphrase_and_another_platform_are_refused(light, bearer, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase\n")
    wrong.chmod(0o600)
    before = state_of(light)
    error = runbook(light, "restore", code=3, replace="true", password_file=wrong)["error"]
    assert "passphrase" in error["message"]
    assert "is wrong" in error["message"]
    error = runbook(light, "restore", code=3, replace="true", platform="other")["error"]
    assert "'other'" in error["message"]
    spec = light.folder / "kiva.yaml"
    text = spec.read_text()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kiva.yaml").write_text(text.replace("name: test", "name: other", 1))
    out, _ = light.run("--spec", str(elsewhere), "runbook", "restore", "--yes", "-o", "json", code=3)
    assert "'other'" in json.loads(out)["error"]["message"]
    assert "test" in json.loads(out)["error"]["message"]
    assert state_of(light) == before
    assert serving(light) == COMPONENTS


def test_after_a_true_disaster_one_command_in_an_empty_folder_brings_everything_back(light, bearer):
    counted = settled(light)["police"][0]
    ask(light, bearer, times=5)
    until(lambda: billed(light)["police"][0] == counted + 5)
    runbook(light, "backup")
    sums, wanted, spec = billed(light), state_of(light), (light.folder / "kiva.yaml").read_text()
    for pid in light.pids():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(light.layout.run, ignore_errors=True)
    shutil.rmtree(light.folder)
    light.folder.mkdir()
    out, err = light.run("runbook", "restore", "--yes", "--set", f"repository={light.repository}", "--set", f"password_file={light.password}")
    print(out)
    assert "passed" in out
    assert "rto" in out
    assert "was taken out of the backup" in err
    assert (light.folder / "kiva.yaml").read_text() == spec
    assert {name: content for name, content in state_of(light).items() if name in wanted} == wanted
    assert billed(light)["police"] == sums["police"]
    assert billed(light)["tax"][1:] == sums["tax"][1:], (
        "requests with revoked tokens, by which the runbook sees that they are refused, are counted and cost nothing"
    )
    assert ask(light, bearer) == 200, "a token that was issued before"
    assert serving(light) == COMPONENTS
    assert read_release(light.layout.release).spec_digest
    assert "genuine" in light.run("runbook", "verify", "latest")[0]
