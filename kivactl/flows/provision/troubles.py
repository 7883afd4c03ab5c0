"""What went wrong on a machine, as a sentence and the next step."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kivactl.tools.ansible_output import Failure
from kivactl.tools.ssh import Contact, contact_of

REFUSAL = "What cannot work"
"""Task whose message is `refuse SENTENCE<tab>NEXT STEP`."""

_CONFIRMATION = "Rules confirmed over a new connection"
"""Task of the role kiva_firewall that fails to reach a machine whose new rules shut us out."""

_AGAIN = "then: kivactl provision"

_TROUBLES = (
    (
        r"(?:Missing sudo password|sudo: a password is required|not in the sudoers|is not allowed to (?:execute|run)|privilege escalation prompt)",
        "the user may not become root by sudo without a password",
        f"as root there: echo 'USER ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/60-kiva, {_AGAIN}",
    ),
    (
        r"(?:Failed to lock apt|Could not get lock|dpkg frontend lock|Unable to acquire the dpkg)",
        "another apt or dpkg holds the lock",
        f"wait until it ends (there: fuser /var/lib/dpkg/lock-frontend), {_AGAIN}",
    ),
    (
        r"(?:No space left on device|Errno 28|Disk quota exceeded|enough free space|not enough space)",
        "its disk is full",
        f"free some space there (df -h, apt-get clean, journalctl --vacuum-size=100M), {_AGAIN}",
    ),
    (
        r"(?:dpkg was interrupted|dpkg --configure -a)",
        "an installation was cut off in the middle",
        f"there, as root: dpkg --configure -a, {_AGAIN}",
    ),
    (
        r"(?:[Ff]ailed to update apt cache|(?:Unable|Failed) to fetch|Unable to connect to|Could not resolve|No package matching|Cannot initiate)",
        "packages cannot be fetched",
        f"check `mirrors.apt` and `proxy` in kiva.yaml, {_AGAIN}",
    ),
    (r"(?:Read-only file system|Errno 30)", "its file system is read-only", f"look for faults of its disk there (dmesg), {_AGAIN}"),
    (r"(?:can't find python|/usr/bin/python3: (?:not found|No such file))", "it has no Python", f"there, as root: apt-get install python3, {_AGAIN}"),
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong on one machine.

    Attributes:
        machine: Its name.
        sentence: What is wrong, without a trailing full stop.
        hint: What to do next.
        detail: What the program itself said.
    """

    machine: str
    sentence: str
    hint: str
    detail: str = ""


def trouble_for(failure: Failure, address: str, port: int, known_hosts: str, *, begun: bool) -> Trouble:
    """What a failed task means.

    Args:
        failure: The task.
        address: How the machine is reached.
        port: Its port of SSH.
        known_hosts: File of the host keys.
        begun: Whether tasks had already run on the machine.
    """
    last = failure.message.strip().splitlines()[-1] if failure.message.strip() else ""
    if failure.task == REFUSAL and (refusal := re.search(r"refuse ([^\t\n]*)\t([^\n]*)", failure.message)):
        return Trouble(failure.host, refusal[1], refusal[2])
    if not failure.reached:
        return Trouble(failure.host, *_unreached(failure, address, port, known_hosts, begun=begun), last)
    for pattern, sentence, hint in _TROUBLES:
        if re.search(pattern, failure.message):
            return Trouble(failure.host, sentence, hint, last)
    return Trouble(failure.host, f"failed at '{failure.task}'", "kivactl provision", last)


def _unreached(failure: Failure, address: str, port: int, known_hosts: str, *, begun: bool) -> tuple[str, str]:
    entry = address if port == 22 else f"[{address}]:{port}"
    if failure.task == _CONFIRMATION:
        return "its new firewall rules shut us out; it puts the former back by itself", f"check `network.operators` in kiva.yaml, {_AGAIN}"
    for pattern, sentence, hint in _TROUBLES[:1]:  # sudo's refusals count as a failed connection
        if re.search(pattern, failure.message):
            return sentence, hint
    match contact_of(failure.message):
        case Contact.KEY_CHANGED:
            return (
                "it shows another host key than before: it was made anew, or someone stands between",
                f"ask who runs it; if it was made anew: ssh-keygen -f {known_hosts} -R '{entry}', {_AGAIN}",
            )
        case Contact.REFUSED:
            return f"SSH at {entry} refuses the key", f"check `access.user` and `access.key` in kiva.yaml, {_AGAIN}"
        case _:
            if begun:
                return f"it stopped answering at '{failure.task}'", "look at its console; when it is back: kivactl provision (goes on where it stopped)"
            return f"it cannot be reached at {entry}", f"check that it runs and that port {port} is open from here, {_AGAIN}"
