"""Every procedure for models, trust and troubles on one whole platform whose engines start at once, and what the world is like afterwards."""

from __future__ import annotations

import json
import os
import signal
import ssl
import time
from contextlib import suppress

import httpx
import pytest
from light_platform import Light, interpreter

from kivactl.flows.reclaim import reserve_of
from kivactl.spec.load import load
from kivactl.targets.release import read_release, write_release
from kivactl.targets.routing import read_shares
from kivactl.targets.status import GATEWAY

pytestmark = pytest.mark.real

NVIDIA_SMI = """\
#!/bin/sh
# A GPU with a fault, until someone has looked: as if it had been repaired then.
[ "$1" = -q ] || {{ echo No devices were found; exit 6; }}
failure=No; [ -e {seen} ] || failure=Yes; : > {seen}
echo "<nvidia_smi_log><gpu id='00000000:01:00.0'><remapped_rows><remapped_row_failure>$failure</remapped_row_failure></remapped_rows></gpu></nvidia_smi_log>"
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("procedures")
    (folder / "platform").mkdir()
    light = Light(folder / "platform", interpreter(folder / "python"), folder / "cache")
    light.write(versions=True, gateway=", tenants: [{name: police}, {name: tax}]")
    light.run("provision", "--yes")
    light.run("deploy", "--yes")
    yield light
    light.run("down", "--yes", code=None)
    for pid in light.pids():
        os.kill(pid, signal.SIGKILL)


def procedure(light, name, *answered, code=0, **parameters):
    """Run a runbook to its end; every question that is named is answered with yes."""
    words = [word for key, value in parameters.items() for word in ("--set", f"{key}={value}")]
    words += [word for step in answered for word in ("--answer", f"{step}=yes")]
    out, err = light.run("runbook", name, "--yes", *words, code=code)
    return f"{out}\n{err}"


def token(light, tenant):
    out, _ = light.run("token", "issue", tenant, "--output", "json")
    issued = json.loads(out)
    return issued["token"], issued["id"]


def asks(light, bearer, path="/v1/models"):
    """The status that a client gets who trusts the platform's authority."""
    context = ssl.create_default_context(cafile=light.layout.ca_certificate)
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.get(f"https://127.0.0.1:{light.port}{path}", headers={"authorization": f"Bearer {bearer}"}).status_code


def components(light):
    return {component["name"]: component for component in light.status["components"]}


def serving(light):
    return {name for name, component in components(light).items() if component["health"] == "serving"}


ALL = {"gateway", "meter", "tiny-0", "tiny-1", "tiny2-0"}


def alias(light):
    return dict(load(light.folder / "kiva.yaml").platform.aliases[0].models)


def test_a_restart_exchanges_every_engine_and_nothing_else(light):
    before = components(light)
    procedure(light, "restart")
    after = components(light)
    until(lambda: serving(light) == ALL)
    assert {name for name in after if after[name]["pid"] != before[name]["pid"]} == {"tiny-0", "tiny-1", "tiny2-0"}


def test_revoked_tokens_are_refused_and_others_are_not(light):
    (stolen, stolen_id), (second, _), (other, _) = token(light, "police"), token(light, "police"), token(light, "tax")
    assert [asks(light, one) for one in (stolen, second, other)] == [200, 200, 200]
    procedure(light, "token-revocation", "successors", "assessed", tokens=stolen_id)
    assert [asks(light, one) for one in (stolen, second, other)] == [401, 200, 200]
    procedure(light, "token-revocation", "successors", "assessed", tokens="tenant:police")
    assert [asks(light, one) for one in (stolen, second, other)] == [401, 401, 200]
    procedure(light, "token-revocation", code=2, tokens="tenant:polize")
    assert asks(light, other) == 200


def test_a_renewed_certificate_is_served_by_the_same_gateway(light):
    old, pid = ssl.get_server_certificate(("127.0.0.1", light.port)), components(light)["gateway"]["pid"]
    procedure(light, "certificate-renewal")
    assert ssl.get_server_certificate(("127.0.0.1", light.port)) == old, "it was not due"
    procedure(light, "certificate-renewal", force="true")
    assert ssl.get_server_certificate(("127.0.0.1", light.port)) != old
    assert components(light)["gateway"]["pid"] == pid


def test_a_rotated_key_keeps_old_tokens_or_ends_them_as_was_said(light):
    old, _ = token(light, "police")
    key = light.layout.signing_key.read_bytes()
    procedure(light, "key-rotation", "told", "saved")
    assert light.layout.signing_key.read_bytes() != key
    fresh, _ = token(light, "police")
    assert [asks(light, one) for one in (old, fresh)] == [200, 200]
    procedure(light, "key-rotation", "told", "saved", at_once="true")
    newest, _ = token(light, "police")
    assert [asks(light, one) for one in (old, fresh, newest)] == [401, 401, 200]


def test_scaled_replicas_serve_and_the_spec_says_so(light):
    gateway = components(light)["gateway"]["pid"]
    procedure(light, "scale", model="tiny", replicas=3)
    until(lambda: serving(light) == {*ALL, "tiny-2"})
    assert load(light.folder / "kiva.yaml").platform.models[0].replicas == 3
    procedure(light, "scale", model="tiny", replicas=2)
    until(lambda: serving(light) == ALL)
    assert components(light)["gateway"]["pid"] == gateway


def test_a_node_is_drained_and_comes_back(light):
    before = components(light)
    procedure(light, "node-maintenance", "work", replica="tiny-0")
    after = components(light)
    until(lambda: serving(light) == ALL)
    assert after["tiny-0"]["pid"] != before["tiny-0"]["pid"]
    assert after["tiny-1"]["pid"] == before["tiny-1"]["pid"]
    assert read_release(light.layout.release).maintenance == {}


@pytest.fixture
def clients(light):
    """Clients that ask for the alias all the time."""
    import threading

    bearer, _ = token(light, "tax")
    stop = threading.Event()
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    url, headers = f"https://127.0.0.1:{light.port}/v1/chat/completions", {"authorization": f"Bearer {bearer}"}
    statuses = []

    def run():
        context = ssl.create_default_context(cafile=light.layout.ca_certificate)
        with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
            while not stop.wait(0.01):
                with suppress(httpx.HTTPError):
                    statuses.append(client.post(url, headers=headers, json=body).status_code)

    thread = threading.Thread(target=run)
    thread.start()
    yield statuses
    stop.set()
    thread.join()


def test_a_canary_that_dies_gives_its_requests_back_by_itself(light, clients):
    child = light.start("runbook", "model-rollout", "--yes", "--set", "alias=chat", "--set", "model=tiny2", "--set", "observe=10m")
    try:
        until(lambda: read_shares(light.layout) == {"chat": {"tiny": 90, "tiny2": 10}} and any("observation tiny2" in line for line in journals(light)))
        os.kill(components(light)["tiny2-0"]["pid"], signal.SIGKILL)
        out, err = child.communicate(timeout=300)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 6, f"{out}\n{err}"
    assert "tiny2-0" in out + err
    assert read_shares(light.layout) == {}
    assert alias(light) == {"tiny": 1, "tiny2": 0}
    until(lambda: serving(light) == ALL)


def test_a_good_canary_gets_all_requests_and_a_rollback_takes_them_back(light, clients):
    procedure(light, "model-rollout", alias="chat", model="tiny2", observe="3s", min_requests=1)
    assert alias(light) == {"tiny": 0, "tiny2": 100}
    assert read_shares(light.layout) == {}
    procedure(light, "model-rollback", alias="chat", model="tiny")
    assert alias(light) == {"tiny": 100, "tiny2": 0}
    assert read_shares(light.layout) == {}
    assert clients
    assert set(clients) == {200}
    assert json.loads(light.run("deploy", "--plan", "--output", "json")[0])["changes"] == []


def test_an_engine_that_died_is_diagnosed_and_runs_again(light):
    pid = components(light)["tiny-1"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: components(light)["tiny-1"]["pid"] not in {0, pid})
    said = procedure(light, "engine-out-of-memory", "follow-up", replica="tiny-1", stays="1s")
    assert "SIGKILL" in said or "killed" in said
    until(lambda: serving(light) == ALL)


def test_a_full_disk_is_reclaimed_of_what_can_go_only(light):
    layout = light.layout
    rotated, remains = layout.logs / "tiny-0.log.9", layout.state / ".release.json.999999999"
    for path in (rotated, remains):
        path.write_bytes(bytes(2**20))
    kept = layout.ledger.stat().st_ino
    free = os.statvfs(layout.state).f_bavail * os.statvfs(layout.state).f_frsize
    # More than any test machine has: everything that can go goes, and that it was not enough is said.
    said = procedure(light, "disk-full", "cause", code=6, wanted=f"{free // 2**30 + 1024}GiB")
    assert "nothing is left that kivactl may remove" in said
    assert not rotated.exists()
    assert not remains.exists()
    assert layout.ledger.stat().st_ino == kept
    procedure(light, "disk-full", "cause", wanted="1MiB", reserve="1MiB")
    assert reserve_of(layout).stat().st_size == 2**20
    until(lambda: serving(light) == ALL)


def test_a_replica_whose_gpu_fails_goes_out_and_comes_back(light):
    layout, programs = light.layout, light.folder.parent / "programs"
    assert "computes on a GPU" in procedure(light, "gpu-fault", "repair", code=None, replica="tiny-0")
    until(lambda: serving(light) == ALL)
    release = read_release(layout.release)
    release.processes["tiny-0"]["environment"]["CUDA_VISIBLE_DEVICES"] = "0"
    write_release(layout.release, release)
    programs.mkdir()
    (programs / "nvidia-smi").write_text(NVIDIA_SMI.format(seen=programs / "seen"))
    (programs / "nvidia-smi").chmod(0o700)
    pid = components(light)["tiny-0"]["pid"]
    light.environment["PATH"] = f"{programs}:{light.environment['PATH']}"
    try:
        said = procedure(light, "gpu-fault", "repair", replica="tiny-0")
    finally:
        light.environment["PATH"] = light.environment["PATH"].partition(":")[2]
    assert "no spare rows left" in said
    until(lambda: serving(light) == ALL)
    assert components(light)["tiny-0"]["pid"] != pid
    light.run("deploy", "--yes")  # the spec knows no GPU


def test_a_check_of_the_status_and_of_a_handover_tell_what_is_missing(light):
    for name, words in (("status-check", ()), ("handover-check", ("incidents", "changes", "contacts", "access", "passphrase", "drill"))):
        before = components(light)
        said = procedure(light, name, *words, code=6, **({"successor": "Ada"} if words else {}))
        assert "backup" in said.lower(), "none was made yet"
        assert components(light).keys() == before.keys()
        assert {name: one["pid"] for name, one in components(light).items()} == {name: one["pid"] for name, one in before.items()}


def test_stopped_started_and_stopped_in_an_emergency(light):
    procedure(light, "stop")
    assert light.pids() == []
    procedure(light, "start")
    until(lambda: serving(light) == ALL)
    bearer, _ = token(light, "police")
    procedure(light, "emergency-stop")
    assert light.pids() == []
    with pytest.raises(httpx.ConnectError):
        asks(light, bearer)
    procedure(light, "start")
    until(lambda: serving(light) == ALL)
    assert asks(light, bearer) == 200, "an emergency stop revokes nothing"
    assert read_release(light.layout.release).processes[GATEWAY]


def journals(light):
    for path in (light.layout.state / "runs").glob("*/journal.jsonl"):
        yield from path.read_text(errors="replace").splitlines()


def until(condition, within_s=240):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
