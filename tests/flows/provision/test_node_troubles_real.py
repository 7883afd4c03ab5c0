"""What goes wrong on machines ends in one sentence: real sshd, sudo, apt and disks that are full."""

from __future__ import annotations

import json

import pytest
from machines import USER
from node_ground import Ground
from running_gateway import until

from kivactl.errors import PreconditionError
from kivactl.tools.ssh import Contact, Login, log_in, shown_host_key

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1800)]


def test_another_host_key_is_refused(fresh, site, tmp_path):
    machine = fresh.machines[0]
    (tmp_path / "ssh").mkdir()
    login = Login(USER, tmp_path / "known", site.key)
    assert log_in(machine.address, login, tmp_path / "ssh").contact is Contact.READY
    assert shown_host_key(machine.address) == machine.host_key
    machine.shell("rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh")
    until(lambda: site.reaches(machine.address, 22, banner=True))
    assert log_in(machine.address, login, tmp_path / "ssh").contact is Contact.KEY_CHANGED
    fresh.layout.infrastructure.mkdir(mode=0o700)
    (fresh.layout.infrastructure / "known_hosts").write_text((tmp_path / "known").read_text())
    with pytest.raises(PreconditionError) as error:
        fresh.plan()
    assert "another host key than before" in error.value.message
    assert f"ssh-keygen -f {fresh.layout.infrastructure}/known_hosts -R '{machine.address}'" in error.value.hint


def test_sudo_is_refused(fresh, site, tmp_path):
    machine = fresh.machines[0]
    machine.shell("rm /etc/sudoers.d/admin")
    assert log_in(machine.address, Login(USER, tmp_path / "known", site.key), tmp_path).contact is Contact.SUDO_REFUSED
    with pytest.raises(PreconditionError) as error:
        fresh.plan()
    assert error.value.message == f"{machine.name}: the user may not become root by sudo without a password"


def test_a_machine_that_is_off(fresh, site, tmp_path):
    machine = fresh.machines[0]
    machine.kill()
    assert log_in(machine.address, Login(USER, tmp_path / "known", site.key), tmp_path).contact is Contact.UNREACHABLE
    with pytest.raises(PreconditionError) as error:
        fresh.plan()
    assert error.value.message == f"{machine.name}: it cannot be reached at {machine.address}"
    machine.start()


def test_apt_is_locked(fresh, only):
    machine = fresh.machines[0]
    only("kiva_storage", kiva_base_apt_lock_s=1, kiva_storage_kind="longhorn")
    hold = "import fcntl,time\nf=open('/var/lib/dpkg/lock-frontend','w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint(1,file=open('/run/held','w'))\ntime.sleep(600)"
    machine.run("systemd-run", "--quiet", "--collect", "--unit=hold", "python3", "-c", hold)
    machine.run("apt-get", "update", timeout=600)
    until(lambda: machine.run("test", "-e", "/run/held", check=False).returncode == 0)
    with pytest.raises(PreconditionError) as error:
        fresh.apply()
    assert error.value.message == f"{machine.name}: another apt or dpkg holds the lock"
    assert "lock-frontend" in error.value.hint


def test_a_disk_is_full(site, tmp_path, only):
    machine = site.machine("small", "16.250", disk="64m")
    ground = Ground(site, [machine], tmp_path)
    try:
        with pytest.raises(PreconditionError) as error:
            ground.plan()
        assert "its disk is full: " in error.value.message
        machine.shell("cat /dev/zero > /var/tmp/full 2>/dev/null || true")
        only("kiva_base", kiva_base_free_mib=0)
        with pytest.raises(PreconditionError) as error:
            ground.apply()
        assert error.value.message == "small: its disk is full"
    finally:
        machine.stop()


def test_a_clock_is_wrong(fresh):
    machine = fresh.machines[0]
    machine.shell('printf \'#!/bin/sh\\nexec /bin/date -d "2 hours ago" "$@"\\n\' > /usr/local/sbin/date; chmod 755 /usr/local/sbin/date')
    with pytest.raises(PreconditionError, match=r"its clock differs from this machine's by 7\d\d\d s"):
        fresh.plan()


LSBLK = json.dumps({"blockdevices": [{"name": "/dev/sdb", "type": "disk", "size": 500 * 2**30, "ro": False, "mountpoint": None}]})


def test_a_data_disk_gets_its_file_system_once(fresh, only):
    """Containers have no disks: stand-ins show one, and note what is done to it."""
    machine = fresh.machines[0]
    programs = {
        "lsblk": f"echo '{LSBLK}'",
        "wipefs": "true",
        "blkid": "test -e /srv/labelled && echo /dev/sdb",
        "mkfs.ext4": 'echo "$*" >> /srv/labelled; mkdir -p /dev/disk/by-label; touch /dev/disk/by-label/kiva-data',
    }
    for name, script in programs.items():
        machine.run("tee", f"/usr/local/sbin/{name}", text=f"#!/bin/sh\n{script}\n")
    machine.shell("chmod 755 /usr/local/sbin/*")
    given = {"kiva_storage_data_disks": {machine.name: 500 * 2**30}, "kiva_storage_mount_now": False}
    only("kiva_storage", **given)
    assert f"{machine.name}: file system on the data disk" in {change.subject for change in fresh.plan().changes}
    _, summary = fresh.apply()
    assert summary.succeeded
    assert machine.run("systemctl", "show", "-P", "What", "srv-kiva.mount").stdout.strip() == "/dev/disk/by-label/kiva-data"
    assert machine.run("systemctl", "is-enabled", "srv-kiva.mount").stdout.strip() == "enabled"
    _, summary = fresh.apply()
    assert summary.changed == 0
    assert machine.shell("cat /srv/labelled") == "-q -m 0 -L kiva-data /dev/sdb"
    only("kiva_storage", **{**given, "kiva_storage_data_disks": {machine.name: 700 * 2**30}})
    machine.shell("rm /srv/labelled")
    with pytest.raises(PreconditionError, match=r"no blank disk is its data disk of 700.0GiB; it has: /dev/sdb \(500.0GiB\)") as error:
        fresh.apply()
    assert error.value.hint.startswith("correct `data_disk` in kiva.yaml")
