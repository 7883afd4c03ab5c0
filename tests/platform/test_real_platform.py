"""The platform end to end: real vLLM, real Envoy, real Locust, the real command line. The tests go on where the one before ended."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address

import openai
import psutil
import pytest

from kivactl.targets.release import read_release

pytestmark = [pytest.mark.real, pytest.mark.alone]


@pytest.fixture(scope="module")
def deployed(operator):
    operator.write()
    operator.run("deploy", "--yes")
    return operator


@pytest.fixture
def client(deployed, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(deployed.layout.ca_certificate))
    with openai.OpenAI(base_url=f"https://127.0.0.1:{deployed.port}/v1", api_key=deployed.token(), max_retries=0) as client:
        yield client


QUESTION = [{"role": "user", "content": "What is the capital of Germany?"}]


def test_the_official_client_gets_answers(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=8)
    assert answer.usage.completion_tokens >= 1
    chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=8, stream=True))
    assert any(choice.delta.content for chunk in chunks for choice in chunk.choices)
    assert not any(chunk.usage for chunk in chunks), "nobody asked for it"
    asked = list(client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=8, stream=True, stream_options={"include_usage": True}))
    assert asked[-1].usage.completion_tokens >= 1


def test_refusals_raise_the_right_exceptions(client):
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.chat.completions.create(model="huge", messages=QUESTION)
    with pytest.raises(openai.AuthenticationError, match="token is missing, expired"):
        client.with_options(api_key="forged").models.list()
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=100_000)


def cores_of(deployed):
    """The processes that compute, which nobody supervises: the engines start them."""
    leaders = [psutil.Process(component["pid"]) for component in deployed.status["components"] if component["model"]]
    cores = [child for leader in leaders for child in leader.children(recursive=True) if any("EngineCore" in word for word in child.cmdline())]
    assert len(cores) == len(leaders) == 2
    return cores


def lives(process):
    """Whether it runs; one that nobody has taken leave of yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answer_of(address):
    """What a port says to a question for its models; nothing when it hangs up or keeps silent."""
    with socket.create_connection((address.ip, address.port), timeout=5) as connection, suppress(OSError):
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return connection.recv(1000)
    return b""


def test_the_engines_have_the_api_on_no_port_and_nothing_else_on_one_that_others_reach(deployed):
    gateway = next(component["pid"] for component in deployed.status["components"] if component["name"] == "gateway")
    listening = [
        (pid, connection.laddr)
        for pid in deployed.pids()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for pid, address in listening if pid == gateway} == {deployed.port, deployed.port + 1}, "the gateway and its metrics"
    # The cores talk to each other by ports of their own (torch's store), even where there is one only.
    others = [address for pid, address in listening if pid != gateway]
    assert [address for address in others if not ip_address(address.ip).is_loopback] == []
    with ThreadPoolExecutor(len(others)) as pool:  # most keep silent, and are waited for
        assert [address for address, said in zip(others, pool.map(answer_of, others), strict=True) if said.startswith(b"HTTP/")] == []
    assert deployed.layout.run.stat().st_mode & 0o777 == 0o700


def test_the_engines_cores_belong_to_the_platform_as_their_leaders_do(deployed):
    assert {core.pid for core in cores_of(deployed)} <= set(deployed.pids())


def test_a_second_deploy_does_nothing(deployed):
    pids = deployed.pids()
    _, err = deployed.run("deploy", "--yes")
    assert "nothing to change" in err
    assert deployed.run("deploy", "--plan")[0]
    assert deployed.pids() == pids


def test_a_changed_option_is_rolled_out_under_load_without_a_failed_request_and_the_second_deploy_is_told_who_holds_the_lock(deployed):
    deployed.write(max_length=640)
    out, _ = deployed.run("deploy", "--plan", code=2)
    assert "512 -> 640" in out
    with deployed.load() as summary:
        first = deployed.start("deploy", "--yes")
        deployed.until_locked()
        _, err = deployed.run("deploy", "--yes", code=3)
        assert "'deploy' of" in err
        assert f"(pid {first.pid}, since" in err
        out, err = first.communicate(timeout=500)
        assert first.returncode == 0, err
    assert summary["failures"] == {}
    assert summary["succeeded"] > 100
    assert "nothing to change" in deployed.run("deploy", "--yes")[1]


def test_a_killed_deploy_is_gone_on_with(deployed):
    deployed.write(max_length=700)
    child = deployed.start("deploy", "--yes")
    deployed.until(lambda: not read_release(deployed.layout.release).spec_digest)
    time.sleep(3)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    out, _ = deployed.run("deploy", "--plan", code=2)
    assert "an earlier deploy did not finish" in out
    deployed.run("deploy", "--yes")
    assert "nothing to change" in deployed.run("deploy", "--plan")[0]
    deployed.run("chat", "Hello", "--max-tokens", "4")


def test_an_engine_that_dies_at_its_start_shows_why_and_the_platform_goes_on(deployed):
    deployed.write(max_length=700, engine=", dtype: nonsense")
    _, err = deployed.run("deploy", "--yes", code=4)
    assert "engine tiny-0 dies at its start" in err
    assert "nonsense" in err
    assert "tiny-0 went back to what ran before" in err
    deployed.until_serving()
    deployed.write(max_length=700)
    deployed.run("deploy", "--yes")


def test_what_outlives_a_killed_supervisor_and_killed_engines_is_ended_and_the_platform_starts_again(deployed):
    cores = cores_of(deployed)
    leaders = [psutil.Process(component["pid"]) for component in deployed.status["components"] if component["model"]]
    os.kill(int((deployed.layout.run / "supervisor.pid").read_text()), signal.SIGKILL)
    for leader in leaders:
        leader.kill()
    deployed.until(lambda: not any(map(lives, leaders)))
    assert {core.pid for core in cores} <= set(deployed.pids())
    deployed.run("runbook", "stop", "--yes")
    assert deployed.status["health"] == "stopped"
    assert deployed.pids() == []
    assert not any(map(lives, cores))
    assert not deployed.layout.run.exists()
    deployed.run("runbook", "start", "--yes")
    deployed.run("chat", "Hello", "--max-tokens", "4")
