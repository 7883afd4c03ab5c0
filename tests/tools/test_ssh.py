"""How machines are logged in to: configuration, host keys, what ssh says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from kivactl.errors import SpecError
from kivactl.tools.ssh import Answer, Contact, Login, config_for, host_entry, keep_host_keys, parse_answer

CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Host key for 192.0.2.1 has changed and you have requested strict checking.
Host key verification failed.
"""


def test_a_configuration_takes_nothing_of_the_users():
    text = config_for(Login("kiva", Path("/s/known hosts"), Path("/s/key"), 2222))
    assert text.startswith("Host *\n")
    for line in (
        'UserKnownHostsFile "/s/known hosts"',
        "GlobalKnownHostsFile none",
        'IdentityFile "/s/key"',
        "IdentitiesOnly yes",
        "Port 2222",
        "BatchMode yes",
    ):
        assert f"  {line}\n" in text
    assert "Proxy" not in text
    assert "IdentitiesOnly" not in config_for(Login("kiva", Path("/s/known_hosts")))


@pytest.mark.parametrize(
    ("jump", "host", "user", "port"),
    [
        ("bastion.example.org", "bastion.example.org", "kiva", "22"),
        ("ops@192.0.2.9:2200", "192.0.2.9", "ops", "2200"),
        ("ops@[2001:db8::9]:22", "2001:db8::9", "ops", "22"),
    ],
)
def test_the_way_leads_through_a_machine(jump, host, user, port):
    text = config_for(Login("kiva", Path("/k"), jump=jump))
    assert text.startswith(f"Host {host}\n  ProxyJump none\n  User {user}\n  Port {port}\nHost *\n  ProxyJump {host}\n")


def test_a_way_that_is_none():
    with pytest.raises(SpecError, match="no machine to go through"):
        config_for(Login("kiva", Path("/k"), jump="a@b@c:x"))


@pytest.mark.parametrize(
    ("code", "errors", "contact", "message"),
    [
        (0, "", Contact.READY, ""),
        (255, CHANGED, Contact.KEY_CHANGED, "Host key verification failed."),
        (255, "kiva@192.0.2.1: Permission denied (publickey).\n", Contact.REFUSED, "kiva@192.0.2.1: Permission denied (publickey)."),
        (
            255,
            "ssh: connect to host 192.0.2.1 port 22: Connection refused\n",
            Contact.UNREACHABLE,
            "ssh: connect to host 192.0.2.1 port 22: Connection refused",
        ),
        (1, "sudo: a password is required\n", Contact.SUDO_REFUSED, "sudo: a password is required"),
    ],
)
def test_what_ssh_says(code, errors, contact, message):
    assert parse_answer(code, errors) == Answer(contact, message)


def test_host_keys_that_are_known_take_the_place_of_others(tmp_path):
    file = tmp_path / "known_hosts"
    keep_host_keys(file, [("192.0.2.1", 22, "ssh-ed25519 A"), ("192.0.2.2", 2222, "ssh-ed25519 B")])
    assert file.read_text() == "192.0.2.1 ssh-ed25519 A\n[192.0.2.2]:2222 ssh-ed25519 B\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with file.open("a") as end:
        end.write("192.0.2.3 ssh-ed25519 C\n")
    keep_host_keys(file, [("192.0.2.1", 22, "ssh-ed25519 D")])
    assert file.read_text().splitlines() == ["[192.0.2.2]:2222 ssh-ed25519 B", "192.0.2.3 ssh-ed25519 C", "192.0.2.1 ssh-ed25519 D"]
    assert host_entry("192.0.2.1", 22) == "192.0.2.1"
