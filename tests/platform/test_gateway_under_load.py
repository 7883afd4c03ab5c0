"""The gateway while everything around it changes: two real replicas, sixteen users who read streams.

The figures that are printed (`pytest -s`) are measurements, not promises; what is asserted is that nothing is lost.
"""

import json
import os
import signal
import ssl
import time
import urllib.request

import httpx
import psutil
import pytest
from streams import Users

pytestmark = pytest.mark.drills

PAUSE_S = 1.0
"""Users who never pause would take the processors that an engine needs to start."""

TENANTS = ", tenants: [{name: default}, {name: leaving}, {name: other, requests_per_minute: 600}]"
VERSIONS = "aliases: [{name: chat, models: {tiny: 1}}]\n"


@pytest.fixture(scope="module")
def deployed(operator):
    operator.write(gateway=TENANTS, extra=VERSIONS)
    operator.run("deploy", "--yes")
    return operator


@pytest.fixture
def users(deployed):
    def users(tenant="default", **options):
        return Users(deployed.port, deployed.layout.ca_certificate, deployed.token(tenant), **options)

    return users


def component(operator, name):
    return next(component for component in operator.status["components"] if component["name"] == name)


def seconds_until(condition, within_s=300):
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < within_s, "never"
        time.sleep(0.1)
    return time.monotonic() - start_s


def trust(operator):
    return ssl.create_default_context(cafile=operator.layout.ca_certificate)


def counted_by_engines(operator):
    """Prompt and generated tokens that the engines' own counters tell."""
    totals = {"prompt": 0.0, "generation": 0.0}
    for target in json.loads(operator.layout.scrape_targets.read_text()):
        if target["labels"]["component"] != "engine":
            continue
        with urllib.request.urlopen(f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}") as answer:
            for line in answer.read().decode().splitlines():
                for kind in totals:
                    if line.startswith(f"vllm:{kind}_tokens_total"):
                        totals[kind] += float(line.rsplit(" ", 1)[1])
    return totals


def usage_of(operator):
    """By tenant, as soon as the meter has entered everything: when nothing has changed for five seconds."""
    seen, since_s = None, time.monotonic()
    while seen is None or time.monotonic() - since_s < 5:
        rows = json.loads(operator.run("usage", "report", "--by", "tenant", "--output", "json")[0])["rows"]
        if rows != seen:
            seen, since_s = rows, time.monotonic()
    return {row["name"]: row for row in seen}


def test_a_killed_replica_loses_no_request_that_had_not_begun(deployed, users):
    victim = component(deployed, "tiny-0")["pid"]
    with users(count=16, pause_s=PAUSE_S) as load:
        load.until(100)
        os.kill(victim, signal.SIGKILL)
        detected_s = seconds_until(lambda: component(deployed, "tiny-0")["health"] != "serving")
        capacity_s = detected_s + seconds_until(lambda: deployed.status["health"] == "serving")
        load.until(100)
    print(f"SIGKILL: {len(load.fates)} requests, {len(load.failed)} cut, noticed after {detected_s:.1f} s, full capacity after {capacity_s:.1f} s")
    assert load.lost == {}
    assert len(load.failed) <= 16, "streams that had begun on the killed replica, one for each user at most"


def test_a_stopped_replica_is_noticed_ended_and_loses_no_request_that_had_not_begun(deployed, users):
    victim = component(deployed, "tiny-1")["pid"]
    with users(count=16, pause_s=PAUSE_S) as load:
        load.until(100)
        for process in [psutil.Process(victim), *psutil.Process(victim).children(recursive=True)]:
            process.send_signal(signal.SIGSTOP)
        detected_s = seconds_until(lambda: component(deployed, "tiny-1")["health"] != "serving")
        load.until(50)  # the other replica serves on
        capacity_s = detected_s + seconds_until(lambda: deployed.status["health"] == "serving" and component(deployed, "tiny-1")["pid"] != victim)
        load.until(100)
    print(f"SIGSTOP: {len(load.fates)} requests, {len(load.failed)} cut, noticed after {detected_s:.1f} s, full capacity after {capacity_s:.1f} s")
    print(f"slowest request {load.slowest_s:.1f} s")
    assert load.lost == {}
    assert "tiny-1 generates nothing" in deployed.layout.log("reaper").read_text()


def test_an_engine_whose_core_hangs_is_noticed_though_its_health_page_is_green(deployed, users):
    victim = psutil.Process(component(deployed, "tiny-0")["pid"])
    core = next(child for child in victim.children(recursive=True) if "EngineCore" in "".join(child.cmdline()) or "EngineCore" in child.name())
    core.send_signal(signal.SIGSTOP)
    transport = httpx.HTTPTransport(uds=str(deployed.layout.engine_socket("tiny-0")))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
        assert client.get("/health").status_code == 200
    seconds_until(lambda: component(deployed, "tiny-0")["health"] != "serving")
    with users(count=4) as load:
        load.until(20)
    assert load.failed == []
    seconds_until(lambda: deployed.status["health"] == "serving" and component(deployed, "tiny-0")["pid"] != victim.pid)


def test_reload_certificate_and_revocation_lose_no_request(deployed, users):
    with users(count=16, pause_s=PAUSE_S) as load:
        load.until(50)
        deployed.run("certs", "renew", "--force", "--yes")
        load.until(50)
        revoked = deployed.token("other")
        headers = {"authorization": f"Bearer {revoked}"}
        with httpx.Client(verify=trust(deployed), headers=headers, base_url=f"https://127.0.0.1:{deployed.port}/v1") as client:
            assert client.get("/models").status_code == 200
            deployed.run("token", "revoke", "--tenant", "other", "--yes")
            within_s = seconds_until(lambda: client.get("/models").status_code == 401)
        print(f"revoked {within_s:.2f} s after the command's end")
        deployed.write(gateway=TENANTS.replace("600", "60"), extra=VERSIONS.replace("tiny: 1", "tiny: 7"))
        deployed.run("deploy", "--yes")
        load.until(50)
        deployed.run("token", "rotate-keys", "--yes")
        load.until(50)
    assert load.failed == []


def test_every_token_is_accounted_for(deployed, users):
    before, engines_before = usage_of(deployed), counted_by_engines(deployed)
    with users(count=12, most=850, streamed=0.5) as completing, users("leaving", count=4, most=150, streamed=0.6, leaving=0.7, seed=2) as leaving:
        pass
    assert completing.failed == leaving.failed == []
    given_up = sum(fate.left for fate in leaving.fates)
    assert given_up > 20
    after, engines_after = usage_of(deployed), counted_by_engines(deployed)

    def metered(tenant, kind):
        return after.get(tenant, {}).get(kind, 0) - before.get(tenant, {}).get(kind, 0)

    assert metered("default", "requests") == len(completing.fates)
    assert metered("default", "prompt_tokens") == sum(fate.usage["prompt_tokens"] for fate in completing.fates)
    assert metered("default", "completion_tokens") == sum(fate.usage["completion_tokens"] for fate in completing.fates)
    for kind, counter in (("prompt_tokens", "prompt"), ("completion_tokens", "generation")):
        whole, truth = metered("default", kind) + metered("leaving", kind), engines_after[counter] - engines_before[counter]
        print(f"{kind}: metered {whole}, engines {truth:.0f}, deviation {abs(whole - truth) / truth:.3%}; {given_up} requests given up")
        assert abs(whole - truth) < 0.01 * truth
