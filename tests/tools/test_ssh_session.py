"""Sessions on other machines: whom they are with, the command line, and what ssh says when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError, UsageError
from kivactl.tools import process
from kivactl.tools.ssh_session import Remote, parse_remote, port_lent, refusal_for, session_argv

STRICT = "and you have requested strict checking."


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("a", "a", None, None),
        ("load-1.example.org", "load-1.example.org", None, None),
        ("ops@192.0.2.9:2200", "192.0.2.9", "ops", 2200),
        ("[2001:db8::9]", "2001:db8::9", None, None),
        ("ops@[fe80::1%eth0]:22", "fe80::1%eth0", "ops", 22),
        ("EXAMPLE\\ops@a", "a", "EXAMPLE\\ops", None),
    ],
)
def test_a_machine_is_named_as_people_name_it(text: str, host: str, user: str | None, port: int | None) -> None:
    assert parse_remote(text) == Remote(text, host, user, port)


@pytest.mark.parametrize("text", ["", "-oProxyCommand=x", "a@-b", "-a@b", "a b", "a:", "a:0", "a:65536", "a:x", "a@b@c", "2001:db8::9", "@a", "a;b", "a\n"])
def test_what_names_no_machine(text: str) -> None:
    with pytest.raises(UsageError, match="is no machine to log in to"):
        parse_remote(text)


@given(st.text())
def test_no_name_becomes_an_option(text: str) -> None:
    try:
        remote = parse_remote(text)
    except UsageError:
        return
    assert remote.words[-2] == "--"
    assert not any(word.startswith("-") for word in (remote.host, remote.user or ""))


def test_a_session_asks_nothing_and_lends_a_port_of_the_loopback_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda program, hint="": Path("/usr/bin") / program)
    argv = session_argv(parse_remote("ops@load:2200", Path("/c")), ("kivactl", "loadtest", "worker"), 4711)
    assert argv[-8:] == ("/c", "-p", "2200", "-l", "ops", "--", "load", "kivactl loadtest worker")
    assert argv[argv.index("-R") + 1] == "127.0.0.1:0:127.0.0.1:4711"
    options = {argv[number + 1] for number, word in enumerate(argv) if word == "-o"}
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ExitOnForwardFailure=yes", "ForwardAgent=no", "ServerAliveInterval=5"} <= options


def test_the_port_is_the_one_that_leads_to_ours() -> None:
    talk = ["Welcome.", "Allocated port 40001 for remote forward to 127.0.0.1:80", "Allocated port 40002 for remote forward to 127.0.0.1:4711"]
    assert port_lent(talk, 4711) == 40002
    assert port_lent(talk, 4712) is None


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            ["ssh: connect to host load port 22: Connection refused"],
            "'ops@load' cannot be reached: ssh: connect to host load port 22: Connection refused",
            "ssh ops@load true",
        ),
        (["ssh: Could not resolve hostname load: Name or service not known"], "cannot be reached: ssh: Could not resolve hostname load", "ssh ops@load true"),
        ([f"No ED25519 host key is known for load {STRICT}", "Host key verification failed."], "the host key of 'ops@load' is not known", "ssh ops@load, and"),
        (
            ["@" * 9, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", f"Host key for load has changed {STRICT}", "Host key verification failed."],
            "'ops@load' shows another host key than the one known for it",
            "ssh-keygen -R load",
        ),
        (
            ["A banner.", "ops@load: Permission denied (publickey)."],
            "'ops@load' does not let us log in: ops@load: Permission denied (publickey)",
            "ssh-copy-id",
        ),
        (["Error: remote port forwarding failed for listen port 0"], "'ops@load' lends no port", "AllowTcpForwarding"),
        (
            ["Allocated port 5 for remote forward to 127.0.0.1:6", "Timeout, server load not responding."],
            "cannot be reached: Timeout, server load not responding",
            "ssh ops@load true",
        ),
        ([], "cannot be reached: the connection broke off", "ssh ops@load true"),
    ],
)
def test_what_ssh_says_becomes_a_sentence(said: list[str], message: str, hint: str) -> None:
    refusal = refusal_for(parse_remote("ops@load"), 255, said)
    assert isinstance(refusal, PreconditionError)
    assert message in refusal.message
    assert hint in refusal.hint
    assert refusal_for(parse_remote("ops@load"), 1, said) is None


def test_a_hint_can_be_typed() -> None:
    assert parse_remote("ops@load:2200", Path("/my config")).command("true") == "ssh -F '/my config' -p 2200 ops@load true"
