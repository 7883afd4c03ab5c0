"""Prints what this machine shows of itself as one line of JSON; reads, except for a file that measures the disk and is gone at once."""

import json
import mmap
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PIECE = 4 * 2**20
WITHIN_S = 20.0
LOOK_S = 3.0
KUBELETS = (
    ("/var/lib/rancher/k3s/agent/kubelet.kubeconfig", ("/usr/local/bin/k3s", "kubectl")),
    ("/var/lib/rancher/rke2/agent/kubelet.kubeconfig", ("/var/lib/rancher/rke2/bin/kubectl",)),
)


def answer(words: list, timeout_s: int = 60) -> dict:
    """What a program said."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, errors="replace", check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"code": -1, "stdout": "", "stderr": str(error)}
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def nvidia() -> "dict | None":
    """What nvidia-smi says of the GPUs; None without it."""
    if shutil.which("nvidia-smi") is None:
        return None
    told = answer(["nvidia-smi", "-q", "-x"])
    # What would be long and tells nothing of the GPU's health.
    told["stdout"] = re.sub(r"<(supported_clocks|processes|accounted_processes)>.*?</\1>", "", told["stdout"], flags=re.DOTALL)
    return told


def xids() -> list:
    """The kernel's last lines about GPUs since the boot."""
    told = answer(["journalctl", "-k", "-b", "-q", "--no-pager", "-o", "cat", "--grep", "NVRM: Xid"])
    return told["stdout"].splitlines()[-100:] if told["code"] == 0 else []


def disk(folder: Path, mib: int) -> dict:
    """Speed of a write past the cache; `direct` is false where the file system knows no such thing."""
    while not folder.is_dir():
        folder = folder.parent
    space = os.statvfs(folder)
    told = {"folder": str(folder), "free_bytes": space.f_bavail * space.f_frsize}
    size = min(mib * 2**20, told["free_bytes"] // 4)
    if size < PIECE:
        return told
    try:
        descriptor, path = tempfile.mkstemp(prefix=".kiva-verify-", dir=folder)
        try:
            Path(path).unlink()
            direct = True
            try:
                target = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT)
            except OSError:
                direct, target = False, os.dup(descriptor)
            piece = mmap.mmap(-1, PIECE)  # its memory begins at a page, as direct writes need
            piece.write(os.urandom(PIECE))
            since, written = time.monotonic(), 0
            while written < size and time.monotonic() - since < WITHIN_S:
                written += os.write(target, piece)
            os.fsync(target)
            elapsed_s = max(time.monotonic() - since, 1e-6)
            os.close(target)
            told.update(direct=direct, written_bytes=written, write_bytes_per_s=written / elapsed_s)
        finally:
            os.close(descriptor)
    except OSError as error:
        told["error"] = error.strerror or str(error)
    return told


def listens(port: int) -> bool:
    """Whether something listens, on whatever address: asked of the kernel, not by a connection."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        if any(words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port for words in map(str.split, lines)):
            return True
    return False


def offering(node: str, *, gpus: bool) -> "dict | None":
    """What Kubernetes says of this machine, once it offers the GPUs that are there: their plugin starts after the machine has joined."""
    deadline = time.monotonic() + float(os.environ["KIVA_WAIT_S"])
    while True:
        told = kubernetes(node)
        if told is None or not gpus or told.get("offered") or time.monotonic() > deadline:
            return told
        time.sleep(LOOK_S)


def kubernetes(node: str) -> "dict | None":
    """What Kubernetes says of this machine; None when it has not joined."""
    for kubeconfig, words in KUBELETS:
        if Path(kubeconfig).exists():
            told = answer([*words, "--kubeconfig", kubeconfig, "get", "node", node, "-o", "json"])
            try:
                status = json.loads(told["stdout"])["status"]
                ready = [each for each in status["conditions"] if each["type"] == "Ready"]
                return {
                    "ready": bool(ready) and ready[0]["status"] == "True",
                    "message": ready[0].get("message", "") if ready else "",
                    "version": status.get("nodeInfo", {}).get("kubeletVersion", ""),
                    "offered": {name: int(count) for name, count in status.get("allocatable", {}).items() if name.startswith("nvidia.com/") and count != "0"},
                }
            except (ValueError, KeyError, TypeError):
                return {"ready": False, "message": (told["stderr"].strip().splitlines() or ["no answer"])[-1]}
    return None


now, asked = time.time(), float(os.environ["KIVA_NOW"])
print(  # noqa: T201  (its answer)
    json.dumps(
        {
            "node": os.environ["KIVA_NODE"],
            "hostname": socket.gethostname(),
            "kernel": os.uname().release,
            "clock_offset_s": round(now - asked, 3),
            "synchronized": answer(["timedatectl", "show", "-P", "NTPSynchronized"])["stdout"].strip() == "yes",
            "disk": disk(Path(os.environ["KIVA_PATH"]), int(os.environ["KIVA_DISK_MIB"])),
            "ports": {port: listens(int(port)) for port in os.environ["KIVA_PORTS"].split()},
            "failed_units": [line.split()[0] for line in answer(["systemctl", "--failed", "--plain", "--no-legend"])["stdout"].splitlines() if line.strip()],
            "nvidia": nvidia(),
            "xids": xids(),
            "kubernetes": offering(os.environ["KIVA_NODE"], gpus=shutil.which("nvidia-smi") is not None),
        }
    )
)
