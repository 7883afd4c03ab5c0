"""The playbooks on real machines: freshly made Debian, real systemd, real sshd, packets through a real filter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from machines import USER
from node_ground import Ground
from running_gateway import until

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.provision import nodes
from kivactl.flows.provision.nodes import reset_nodes
from kivactl.plan import Status
from kivactl.tools.ansible import RUN_VARIABLE

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1800)]

GATEWAY, ENGINE = 4000, 8000


@pytest.fixture(scope="module")
def pair(site, tmp_path_factory):
    """Two machines, a client of the platform and a stranger."""
    ground = Ground(site, [site.machine("one", "16.11"), site.machine("two", "16.12")], tmp_path_factory.mktemp("pair"))
    ground.client, ground.stranger = site.client("client", "64.5"), site.client("stranger", "80.5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "hosts_variables", lambda *_: {})  # machines without a platform: that one has tests of its own
        yield ground
    for machine in ground.machines:
        machine.stop()


def _leftovers() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"{RUN_VARIABLE}=kiva-ansible-{os.getpid()}-".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def _ways_in(site, machine) -> str:
    """By which means sshd lets in, as it says itself to whom comes with none."""
    return site.ssh(machine, "true", options=("-o", "PreferredAuthentications=none", "-o", "PubkeyAuthentication=no")).stderr


def _listen(machine, port) -> None:
    machine.run("systemd-run", "--quiet", "--collect", f"--unit=listen-{port}", "python3", "-m", "http.server", str(port))


def test_two_machines_are_foretold_set_up_and_set_up_again(pair, told):
    one, two = pair.machines
    site = pair.site
    assert "password" in _ways_in(site, one)
    for machine in pair.machines:
        _listen(machine, GATEWAY)
        _listen(machine, ENGINE)
        until(lambda machine=machine: site.reaches(machine.address, ENGINE, namespace=pair.stranger))
    one.shell("touch /var/tmp/before")
    before = one.shell("dpkg -l | sha256sum")

    with told("check mode on two fresh machines"):
        plan = pair.plan()
    subjects = [change.subject for change in plan.changes]
    for task in ("strict SSH", "time service", "rules of the firewall", "certificate of the machine is asked for", "package of the exporter"):
        assert {f"one: {task}", f"two: {task}"} <= set(subjects), task
    (strict,) = [change for change in plan.changes if change.subject == "one: strict SSH"]
    assert "PasswordAuthentication no" in strict.differences[0].after
    assert "PRIVATE KEY" not in str(plan)
    assert one.shell("dpkg -l | sha256sum") == before
    touched = one.shell("find /etc /usr /srv /home /root /opt /var/lib /boot -xdev -newer /var/tmp/before -type f").split()
    assert [path for path in touched if not path.startswith((f"/home/{USER}/", "/var/lib/systemd", "/var/lib/apt/lists"))] == []

    with told("two fresh machines"):
        outcomes, summary = pair.apply()
    assert summary.succeeded
    assert {outcome.step.partition(":")[0] for outcome in outcomes} == {"one", "two"}
    assert _leftovers() == []

    with told("the same again"):
        _, summary = pair.apply()
    assert (summary.succeeded, summary.changed) == (True, 0)

    for machine in pair.machines:
        assert site.reaches(machine.address, GATEWAY, namespace=pair.client)
        for port in (ENGINE, 22, 9100):
            assert not site.reaches(machine.address, port, namespace=pair.client, timeout_s=1)
        for port in (GATEWAY, ENGINE, 22, 9100):
            assert not site.reaches(machine.address, port, namespace=pair.stranger, timeout_s=1)
        assert site.reaches(machine.address, 22, banner=True)
        assert not site.reaches(machine.address, ENGINE, timeout_s=1)
    assert site.reaches(two.address, 9100, namespace=one.namespace)
    assert not site.reaches(two.address, ENGINE, namespace=one.namespace, timeout_s=1)

    ways = _ways_in(site, one)
    assert "publickey" in ways
    assert "password" not in ways
    assert "keyboard-interactive" not in ways

    verified = two.run("openssl", "verify", "/etc/kiva/tls/node.pem")  # by the authorities that the machine trusts
    assert verified.stdout.strip().endswith("OK")
    assert two.shell("stat -c '%a %U' /etc/kiva/tls/node.key") == "600 root"
    assert two.shell("sysctl -n net.core.somaxconn net.ipv4.tcp_keepalive_time").split() == ["16384", "60"]
    assert two.shell("systemctl show -P DefaultLimitNOFILE") == "1048576"
    assert two.shell("getent hosts one").split() == [one.address, "one"]

    two.stop_and_start()
    assert not site.reaches(two.address, 22, namespace=pair.stranger, timeout_s=1)  # the rules are there after a boot too
    assert "policy drop" in two.shell("nft list table inet kiva")


def test_rules_changed_by_hand_are_noticed_and_strange_tables_are_left_alone(pair, only):
    one = pair.machines[0]
    only("kiva_firewall")
    one.run("apt-get", "update", timeout=600)  # kiva_base does, which these tests leave out
    pair.apply(limit=["one"])
    one.shell("nft add table ip cni; nft add chain ip cni pods; nft insert rule inet kiva input tcp dport 8000 accept")
    assert "changed by hand" in one.shell("kiva-firewall check")
    _, summary = pair.apply(limit=["one"])
    assert summary.changed == 2
    assert "dport 8000" not in one.shell("nft list table inet kiva")
    assert "chain pods" in one.shell("nft list ruleset")
    one.shell("nft delete table ip cni")


def test_rules_that_shut_us_out_are_taken_back(pair, only):
    one = pair.machines[0]
    only("kiva_firewall", kiva_firewall_return_s=40)
    one.run("apt-get", "update", timeout=600)
    pair.apply(limit=["one"])
    former = one.shell("nft -s list table inet kiva")
    with pytest.raises(PreconditionError) as error:
        pair.apply(pair.platform(operators=["203.0.113.0/24"]), limit=["one"])
    assert "its new firewall rules shut us out" in error.value.message
    assert "network.operators" in error.value.hint
    until(lambda: pair.site.reaches(one.address, 22, banner=True))
    assert one.shell("nft -s list table inet kiva") == former
    _, summary = pair.apply(limit=["one"])
    assert summary.succeeded


def test_a_machine_that_dies_does_not_stop_the_other_and_the_next_run_completes(pair, only, told):
    one, two = pair.machines
    only("kiva_base", kiva_base_sysctl={"net.core.somaxconn": 2048}, kiva_base_open_files=500000)

    class Killer(list):
        def append(self, outcome) -> None:
            super().append(outcome)
            if outcome.step == "two: Kernel settings" and outcome.status is Status.DONE:
                two.kill()

    seen = Killer()
    with pytest.raises(PreconditionError) as error:
        pair.apply(seen=seen)
    assert error.value.message.startswith("two: it stopped answering at '")
    assert "kivactl provision" in error.value.hint
    assert one.shell("sysctl -n net.core.somaxconn") == "2048"
    assert one.shell("systemctl show -P DefaultLimitNOFILE") == "500000"
    assert _leftovers() == []
    two.start()
    with told("the run after one that was cut off"):
        _, summary = pair.apply()
    assert summary.succeeded
    assert summary.hosts["one"].changed == 0
    assert two.shell("sysctl -n net.core.somaxconn; systemctl show -P DefaultLimitNOFILE").split() == ["2048", "500000"]


def test_a_reset_takes_away_what_was_set_up(pair, told):
    one = pair.machines[0]
    if one.run("test", "-e", "/etc/kiva/firewall.nft", check=False).returncode != 0:  # this test alone
        pair.apply(limit=["one"])
    with told("reset of two machines"):
        _, summary = pair.apply(verb=reset_nodes)
    assert summary.succeeded
    assert one.shell("nft list tables") == ""
    assert "password" in _ways_in(pair.site, one)
    assert one.shell("ls /etc/apt/sources.list.d") == "debian.sources"
    assert set(one.shell("find /etc /usr/local /var/lib -maxdepth 4 -name '*kiva*'").split()) == {"/etc/kiva", "/etc/sudoers.d/60-kiva"}
    _, summary = pair.apply(verb=reset_nodes)
    assert (summary.succeeded, summary.changed) == (True, 0)


def test_a_machine_of_no_such_name(pair):
    with pytest.raises(UsageError, match="no machine 'three'") as error:
        pair.plan(limit=["one", "three"])
    assert error.value.hint == "choose from: one, two"


def test_rules_of_a_cluster_are_loaded(fresh, only):
    machine = fresh.machines[0]
    openings = [
        {"name": "ssh", "groups": [], "sources": ["0.0.0.0/0", "::/0"], "protocol": "tcp", "ports": ["22"]},
        {"name": "pods' network (IP in IP)", "groups": ["hosts"], "sources": ["10.0.0.1/32", "2001:db8::/32"], "protocol": "ipencap", "ports": []},
        {"name": "etcd", "groups": ["servers"], "sources": ["10.0.0.1/32"], "protocol": "tcp", "ports": ["2379-2380"]},
        {"name": "kubelet", "groups": ["hosts"], "sources": ["10.0.0.1/32", "10.42.0.0/16"], "protocol": "tcp", "ports": ["10250", "30000-32767"]},
    ]
    only("kiva_base", "kiva_firewall", kiva_firewall_openings=openings, kiva_firewall_trusted_interfaces=["cali*", "tunl0"], kiva_firewall_forwarding=True)
    fresh.apply()
    table = machine.shell("nft list table inet kiva")
    for rule in (
        '"cali*"',
        'accept comment "pods of this machine"',
        'ip saddr 10.0.0.1 meta l4proto ipencap accept comment "pods\' network (IP in IP)"',
        "ip6 saddr 2001:db8::/32 meta l4proto ipencap accept",
        "ip saddr { 10.0.0.1, 10.42.0.0/16 } tcp dport { 10250, 30000-32767 } accept",
        "tcp dport 22 accept",
    ):
        assert rule in table
    assert "etcd" not in table
    assert "forward" not in table


def test_shipping_containerd_and_storage(fresh, only, told):
    machine = fresh.machines[0]
    nfs = {"kiva_storage_kind": "nfs", "kiva_storage_server": "192.0.2.5", "kiva_storage_export": "/kiva", "kiva_storage_mount_now": False}
    roles = ("kiva_base", "kiva_certificates", "kiva_logs", "kiva_containerd", "kiva_storage")
    variables = {"kiva_logs_server": fresh.site.here, "kiva_containerd_mirror": "registry.example.org/mirror", "kiva_storage_path": "/srv/kiva-models", **nfs}
    only(*roles, **variables)
    with told("base, certificates, shipping, containerd and storage on a fresh machine"):
        _, summary = fresh.apply()
    assert summary.succeeded
    assert machine.shell("systemctl is-active rsyslog containerd").split() == ["active", "active"]
    assert "SystemdCgroup = true" in machine.shell("containerd config dump")
    assert "https://registry.example.org/v2/mirror" in machine.shell("cat /etc/containerd/certs.d/_default/hosts.toml")
    assert machine.run("rsyslogd", "-N1", "-f", "/etc/rsyslog.d/60-kiva.conf").returncode == 0
    unit = machine.shell("systemd-escape --path --suffix=mount /srv/kiva-models")
    assert machine.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    assert machine.run("systemctl", "show", "-P", "What", unit).stdout.strip() == "192.0.2.5:/kiva"
    _, summary = fresh.apply()
    assert summary.changed == 0

    only("kiva_storage", kiva_storage_kind="longhorn")
    _, summary = fresh.apply()
    assert summary.succeeded
    assert machine.shell("cat /etc/modules-load.d/60-kiva-longhorn.conf; systemctl is-enabled iscsid").split() == ["iscsi_tcp", "enabled"]
