"""What NVIDIA GPUs say of their own health: `nvidia-smi -q -x`, and the kernel's messages (Xid).

A field that a GPU does not have is `N/A` and says nothing. Sources: `man nvidia-smi`;
https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/ ; https://docs.nvidia.com/deploy/xid-errors/
"""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from kivactl.errors import ToolError
from kivactl.tools import process

_OFF_THE_BUS = 15
"""nvidia-smi's exit code when a GPU cannot be reached any more. Source: man nvidia-smi, RETURN VALUE."""

_NO_GPU = "No devices were found"
_LOST = re.compile(
    r"(?i)(?:device handle for GPU\s*(?:\d+:\s+)?|GPU )(?P<bus>[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])?[^\n]*(?:is lost|Unknown Error|Not Found)"
)
_XID = re.compile(r"NVRM: Xid \(PCI:(?P<bus>[0-9A-Fa-f:.]+)\): (?P<number>\d+),?\s*(?P<rest>.*)")

_OF_THE_PROGRAM = frozenset({13, 31, 43, 45, 68, 69})
"""Xids that a program causes rather than the GPU."""


class Remedy(StrEnum):
    """What helps a GPU, the mildest first."""

    NONE = "none"
    RESET = "reset"
    REBOOT = "reboot"
    EXCHANGE = "exchange"

    @property
    def weight(self) -> int:
        """How much it takes; more is more."""
        return list(Remedy).index(self)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong with a GPU.

    Attributes:
        kind: `ecc`, `memory`, `pages`, `recovery`, `lost`, `unreadable` or `xid`.
        message: What a person reads.
        remedy: What helps.
    """

    kind: str
    message: str
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class Condition:
    """A GPU.

    Attributes:
        index: Its number as in CUDA_VISIBLE_DEVICES by the order of the bus; -1 when it has none any more.
        bus: Where it is plugged in, such as `0000:01:00.0`.
        name: The product; empty when it does not tell.
        uuid: Empty when it does not tell.
        faults: What is wrong with it; empty when it is well.
    """

    index: int
    bus: str
    name: str
    uuid: str
    faults: tuple[Fault, ...]

    @property
    def remedy(self) -> Remedy:
        """What helps against all of its faults."""
        return max((fault.remedy for fault in self.faults), key=lambda remedy: remedy.weight, default=Remedy.NONE)


def conditions(kernel: Iterable[str] = ()) -> tuple[Condition, ...]:
    """Every GPU of this machine with its faults; empty without NVIDIA GPUs.

    Args:
        kernel: Lines of the kernel's log.

    Raises:
        ToolError: nvidia-smi is here but does not work (no driver, a mismatch of versions).
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    answer = process.run(["nvidia-smi", "-q", "-x"], timeout_s=30, check=False)
    return with_xids(parse_answer(answer.code, answer.stdout, answer.stderr), parse_xids(kernel))


def parse_answer(code: int, stdout: str, stderr: str) -> tuple[Condition, ...]:
    """GPUs by what `nvidia-smi -q -x` answered; one that was lost is told in words, beside or instead of the XML.

    Raises:
        ToolError: It did not work at all.
    """
    words = "\n".join(line for line in f"{stdout}\n{stderr}".splitlines() if not line.lstrip().startswith("<"))
    lost = tuple(_lost(words))
    if text := _xml_in(stdout):
        found = parse_conditions(text)
        known = {condition.bus for condition in found}
        return (*found, *(condition for condition in lost if condition.bus not in known))
    if lost:
        return lost
    if code == _OFF_THE_BUS:
        return (Condition(-1, "", "", "", (_lost_fault(words),)),)
    if code == 0 or _NO_GPU in words:
        return ()
    lines = tuple(line for line in words.splitlines() if line.strip())
    raise ToolError(f"nvidia-smi failed with exit code {code}", "nvidia-smi", lines[-5:])


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """GPUs by the XML of `nvidia-smi -q -x`, in its order, which is that of their indexes.

    Raises:
        ToolError: It is no such XML.
    """
    return tuple(
        Condition(index, _bus(node.get("id", "")), _said(node, "product_name"), _said(node, "uuid"), tuple(_faults(node)))
        for index, node in enumerate(_root_of(text).iter("gpu"))
    )


def parse_setup(stdout: str) -> tuple[str, frozenset[int]]:
    """How GPUs are run, by what `nvidia-smi -q -x` answered: the driver's version, and the indexes of those that are cut into slices (MIG).

    Raises:
        ToolError: It is no such XML.
    """
    text = _xml_in(stdout)
    if not text:
        return "", frozenset()
    root = _root_of(text)
    sliced = (index for index, node in enumerate(root.iter("gpu")) if _said(node, "mig_mode/current_mig") == "Enabled")
    return _said(root, "driver_version"), frozenset(sliced)


def parse_xids(lines: Iterable[str]) -> dict[str, tuple[Fault, ...]]:
    """What the kernel said of GPUs that is not a program's own fault, by bus (`0000:01:00`), each Xid once."""
    found: dict[str, dict[int, Fault]] = {}
    for line in lines:
        match = _XID.search(line)
        if match is None or int(match["number"]) in _OF_THE_PROGRAM:
            continue
        number = int(match["number"])
        fault = Fault("xid", f"Xid {number}: {match['rest'].strip() or 'no words'}", _remedy_for(number))
        found.setdefault(_slot(match["bus"]), {})[number] = fault
    return {bus: tuple(faults.values()) for bus, faults in found.items()}


def with_xids(found: Iterable[Condition], xids: dict[str, tuple[Fault, ...]]) -> tuple[Condition, ...]:
    """GPUs with the faults that the kernel tells of them."""
    gpus = tuple(found)
    known = {_slot(gpu.bus) for gpu in gpus}
    told = tuple(Condition(gpu.index, gpu.bus, gpu.name, gpu.uuid, (*gpu.faults, *xids.get(_slot(gpu.bus), ()))) for gpu in gpus)
    # One that only the kernel still speaks of is gone from the bus.
    gone = (Condition(-1, bus, "", "", faults) for bus, faults in xids.items() if bus not in known and any("Xid 79" in fault.message for fault in faults))
    return (*told, *gone)


def _xml_in(stdout: str) -> str:
    """The XML in an answer, which may have words before and after it; empty without."""
    begin, end = stdout.find("<nvidia_smi_log"), stdout.rfind("</nvidia_smi_log>")
    return stdout[begin : end + len("</nvidia_smi_log>")] if 0 <= begin < end else ""


def _root_of(text: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text)  # noqa: S314  (from a program of ours; expat refuses entity bombs)
    except ElementTree.ParseError as error:
        raise ToolError(f"the answer of nvidia-smi cannot be read: {error}", "nvidia-smi -q -x") from None


def _faults(gpu: ElementTree.Element) -> Iterator[Fault]:
    broken = sorted({node.tag for node in gpu.iter() if _text(node) in {"Unknown Error", "ERR!", "GPU is lost", "GPU requires reset"}})
    if broken:
        lost = any(_text(node) == "GPU is lost" for node in gpu.iter())
        kind, remedy = ("lost", Remedy.REBOOT) if lost else ("unreadable", Remedy.RESET)
        yield Fault(kind, f"{'it is lost' if lost else 'it cannot be read'}: {', '.join(broken[:3])}{' and more' if len(broken) > 3 else ''}", remedy)
    volatile = sum(_count(node) for tag in _uncorrectable(gpu, "volatile") for node in gpu.findall(f"ecc_errors/volatile/{tag}"))
    if volatile:
        yield Fault("ecc", f"{volatile} uncorrectable memory errors since the driver was loaded", Remedy.RESET)
    if _is(gpu, "ecc_errors/aggregate/sram_threshold_exceeded"):
        yield Fault("memory", "more errors in its caches than it may have", Remedy.EXCHANGE)
    if _is(gpu, "ecc_errors/unrepairable_memory"):
        yield Fault("memory", "memory that cannot be repaired", Remedy.EXCHANGE)
    if _is(gpu, "remapped_rows/remapped_row_failure"):
        yield Fault("memory", "no spare rows left for defective memory", Remedy.EXCHANGE)
    if _is(gpu, "remapped_rows/remapped_row_pending"):
        yield Fault("memory", "defective rows are replaced at the next reset", Remedy.RESET)
    if any(_is(gpu, f"retired_pages/{tag}") for tag in ("pending_retirement", "pending_blacklist")):
        yield Fault("pages", "defective pages are retired at the next reset", Remedy.RESET)
    if any(_is(gpu, f"ecc_errors/{tag}") for tag in ("channel_repair_pending", "tpc_repair_pending")):
        yield Fault("memory", "a repair is made at the next reset", Remedy.RESET)
    action = _said(gpu, "gpu_recovery_action")
    if action and action not in {"None", "Requested functionality has been deprecated"}:
        yield Fault("recovery", f"the driver asks for: {action}", Remedy.REBOOT if "reboot" in action.lower() else Remedy.RESET)
    elif _is(gpu, "gpu_reset_status/reset_required"):
        yield Fault("recovery", "the driver asks for a reset", Remedy.RESET)


def _uncorrectable(gpu: ElementTree.Element, age: str) -> list[str]:
    """Names of the counters, which differ by generation: `double_bit/total` (Volta and before), `sram_uncorrectable_parity`, ..."""
    node = gpu.find(f"ecc_errors/{age}")
    if node is None:
        return []
    return [child.tag for child in node if "uncorrectable" in child.tag] or (["double_bit/total"] if node.find("double_bit/total") is not None else [])


def _lost(words: str) -> Iterator[Condition]:
    for match in _LOST.finditer(words):
        yield Condition(-1, _bus(match["bus"] or ""), "", "", (_lost_fault(match[0]),))


def _lost_fault(words: str) -> Fault:
    said = " ".join(words.split())[:200]
    return Fault("lost", f"it has fallen off the bus: {said}" if said else "it has fallen off the bus", Remedy.REBOOT)


def _remedy_for(xid: int) -> Remedy:
    match xid:
        case 79 | 119 | 120:  # off the bus; the GPU's own processor does not answer
            return Remedy.REBOOT
        case 64 | 92:  # remapping failed; too many errors
            return Remedy.EXCHANGE
        case _:
            return Remedy.RESET


def _bus(text: str) -> str:
    """`00000000:01:00.0` and `0000:01:00.0` are the same place."""
    domain, _, rest = text.lower().partition(":")
    return f"{domain[-4:]}:{rest}" if rest else text.lower()


def _slot(bus: str) -> str:
    return _bus(bus).partition(".")[0]


def _said(gpu: ElementTree.Element, tag: str) -> str:
    text = (gpu.findtext(tag) or "").strip()
    return "" if text in {"N/A", "[N/A]"} else text


def _is(gpu: ElementTree.Element, path: str) -> bool:
    return (gpu.findtext(path) or "").strip() == "Yes"


def _count(node: ElementTree.Element) -> int:
    text = _text(node)
    return int(text) if text.isdigit() else 0


def _text(node: ElementTree.Element) -> str:
    return (node.text or "").strip()
