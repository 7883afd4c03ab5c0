"""What GPUs say of their health: answers of nvidia-smi and of the kernel, as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import ToolError
from kivactl.tools.gpu import Condition, Remedy, conditions, parse_answer, parse_conditions, parse_xids, with_xids

GPU = """\
    <gpu id="00000000:{bus}:00.0">
        <product_name>NVIDIA H200</product_name>
        <uuid>GPU-5a0d6c1e-{bus}</uuid>
        <gpu_recovery_action>{action}</gpu_recovery_action>
        <gpu_reset_status><reset_required>{reset}</reset_required></gpu_reset_status>
        <ecc_errors>
            <volatile>
                <sram_correctable>7</sram_correctable>
                <sram_uncorrectable_parity>{parity}</sram_uncorrectable_parity>
                <sram_uncorrectable_secded>0</sram_uncorrectable_secded>
                <dram_uncorrectable>{dram}</dram_uncorrectable>
            </volatile>
            <aggregate><sram_threshold_exceeded>{threshold}</sram_threshold_exceeded></aggregate>
            <channel_repair_pending>No</channel_repair_pending>
            <tpc_repair_pending>No</tpc_repair_pending>
        </ecc_errors>
        <retired_pages><pending_retirement>N/A</pending_retirement></retired_pages>
        <remapped_rows>
            <remapped_row_pending>{pending}</remapped_row_pending>
            <remapped_row_failure>{failure}</remapped_row_failure>
        </remapped_rows>
        <temperature><gpu_temp>{temperature}</gpu_temp></temperature>
    </gpu>
"""
WELL = {
    "action": "None",
    "reset": "No",
    "parity": "0",
    "dram": "0",
    "threshold": "No",
    "pending": "No",
    "failure": "No",
    "temperature": "31 C",
}
VOLTA = """<gpu id="00000000:01:00.0"><ecc_errors><volatile><single_bit><total>9</total></single_bit>
<double_bit><device_memory>2</device_memory><total>2</total></double_bit></volatile></ecc_errors></gpu>"""


def gpu(bus="01", **differs):
    return GPU.format(bus=bus, **(WELL | differs))


def answer(*gpus):
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>\n'
        f"    <attached_gpus>{len(gpus)}</attached_gpus>\n{''.join(gpus)}</nvidia_smi_log>\n"
    )


def test_gpus_that_are_well_have_no_fault_and_their_numbers_in_the_order_of_the_bus():
    found = parse_answer(0, answer(gpu("01"), gpu("41")), "")
    assert found == (
        Condition(0, "0000:01:00.0", "NVIDIA H200", "GPU-5a0d6c1e-01", ()),
        Condition(1, "0000:41:00.0", "NVIDIA H200", "GPU-5a0d6c1e-41", ()),
    )
    assert found[0].remedy is Remedy.NONE


@pytest.mark.parametrize(
    ("differs", "kind", "remedy", "words"),
    [
        ({"dram": "3", "parity": "1"}, "ecc", Remedy.RESET, "4 uncorrectable"),
        ({"threshold": "Yes"}, "memory", Remedy.EXCHANGE, "caches"),
        ({"failure": "Yes"}, "memory", Remedy.EXCHANGE, "spare rows"),
        ({"pending": "Yes"}, "memory", Remedy.RESET, "next reset"),
        ({"action": "Reset"}, "recovery", Remedy.RESET, "Reset"),
        ({"action": "Reboot"}, "recovery", Remedy.REBOOT, "Reboot"),
        ({"reset": "Yes"}, "recovery", Remedy.RESET, "reset"),
        ({"temperature": "Unknown Error"}, "unreadable", Remedy.RESET, "gpu_temp"),
        ({"temperature": "GPU is lost"}, "lost", Remedy.REBOOT, "lost"),
    ],
)
def test_each_fault_with_what_helps(differs, kind, remedy, words):
    (one,) = parse_answer(0, answer(gpu(**differs)), "")
    (fault,) = one.faults
    assert (fault.kind, fault.remedy) == (kind, remedy)
    assert words in fault.message


def test_of_several_faults_the_hardest_remedy_counts():
    (one,) = parse_conditions(answer(gpu(pending="Yes", failure="Yes")))
    assert len(one.faults) == 2
    assert one.remedy is Remedy.EXCHANGE


def test_older_generations_count_double_bit_errors():
    (one,) = parse_conditions(answer(VOLTA))
    assert [fault.kind for fault in one.faults] == ["ecc"]


def test_what_a_gpu_does_not_have_says_nothing():
    absent = gpu(**dict.fromkeys(WELL, "N/A"))
    assert parse_conditions(answer(absent))[0].faults == ()


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (15, "Unable to determine the device handle for GPU0000:41:00.0: GPU is lost.  Reboot the system to recover this GPU\n", ""),
        (0, answer(gpu("01")) + "Unable to determine the device handle for GPU 0000:41:00.0: Unknown Error\n", ""),
        (15, "", "Unable to determine the device handle for GPU 00000000:41:00.0: Not Found\n"),
        (15, "", "Unable to determine the device handle for GPU3: 0000:41:00.0: Unknown Error\n"),
    ],
)
def test_a_gpu_that_is_told_of_in_words_only_is_lost(code, stdout, stderr):
    lost = [one for one in parse_answer(code, stdout, stderr) if one.index < 0]
    assert [(one.bus, one.remedy) for one in lost] == [("0000:41:00.0", Remedy.REBOOT)]


def test_without_gpus_there_are_none_and_without_a_driver_it_is_an_error():
    assert parse_answer(6, "No devices were found\n", "") == ()
    assert parse_answer(0, "", "") == ()
    with pytest.raises(ToolError, match="exit code 9") as caught:
        parse_answer(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", "")
    assert "driver" in caught.value.details[0]
    with pytest.raises(ToolError, match="cannot be read"):
        parse_conditions("<nvidia_smi_log><gpu></nvidia_smi_log>")


def test_xids_of_the_gpu_count_and_those_of_programs_do_not():
    lines = [
        "[  100.1] NVRM: Xid (PCI:0000:01:00): 31, pid=4711, name=python, Ch 00000008, MMU Fault",
        "[  101.2] NVRM: Xid (PCI:0000:01:00): 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error",
        "[  101.3] NVRM: Xid (PCI:0000:01:00): 48, pid='<unknown>', name=<unknown>, once more",
        "[  102.0] NVRM: Xid (PCI:0000:41:00): 79, GPU has fallen off the bus.",
        "[  103.0] usb 1-1: new high-speed device",
    ]
    xids = parse_xids(lines)
    assert {bus: [(fault.message.partition(":")[0], fault.remedy) for fault in faults] for bus, faults in xids.items()} == {
        "0000:01:00": [("Xid 48", Remedy.RESET)],
        "0000:41:00": [("Xid 79", Remedy.REBOOT)],
    }
    told = with_xids(parse_conditions(answer(gpu("01"))), xids)
    assert [(one.index, one.bus) for one in told] == [(0, "0000:01:00.0"), (-1, "0000:41:00")]
    assert told[0].remedy is Remedy.RESET


@given(code=st.integers(0, 255), stdout=st.text(max_size=300), stderr=st.text(max_size=300))
def test_whatever_comes_there_are_gpus_or_an_error_that_says_so(code, stdout, stderr):
    try:
        found = parse_answer(code, stdout, stderr)
    except ToolError:
        return
    assert all(one.faults for one in found)


def test_without_nvidia_smi_there_is_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert conditions() == ()
