"""What failed tasks mean, and how a plan and an error are told."""

from __future__ import annotations

import pytest

from kivactl.errors import PreconditionError, ToolError
from kivactl.flows.provision.nodes import changes_from, error_for
from kivactl.flows.provision.troubles import Trouble, trouble_for
from kivactl.plan import Difference, Outcome, Status
from kivactl.tools.ansible_output import Failure


@pytest.mark.parametrize(
    ("task", "message", "reached", "begun", "sentence", "hint"),
    [
        ("What cannot work", "non-zero\nrefuse its clock differs by 90 s\tset it there", True, False, "its clock differs by 90 s", "set it there"),
        ("Facts", "Task failed: Missing sudo password", True, False, "sudo without a password", "sudoers.d"),
        ("Facts", "Task failed: Missing sudo password", False, False, "sudo without a password", "sudoers.d"),
        ("Facts", "Failed to connect to the host via ssh: ssh: connect to host x port 22: Connection refused", False, False, "cannot be reached at", "port 22"),
        (
            "Rules",
            "Failed to connect to the host via ssh: ssh: connect to host x port 22: timed out",
            False,
            True,
            "stopped answering at 'Rules'",
            "where it stopped",
        ),
        (
            "Facts",
            "REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.",
            False,
            False,
            "another host key",
            "ssh-keygen -f /k -R '192.0.2.1'",
        ),
        ("Facts", "kiva@x: Permission denied (publickey).", False, False, "refuses the key", "access.key"),
        ("Rules confirmed over a new connection", "timed out", False, True, "shut us out", "network.operators"),
        ("Package", "E:Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt-get)", True, True, "holds the lock", "fuser"),
        ("Package", "cannot copy: failed to write (No space left on device)", True, True, "disk is full", "df -h"),
        ("Package", "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", True, True, "cut off", "dpkg --configure -a"),
        ("Lists of packages", "Failed to update apt cache: unknown reason", True, True, "cannot be fetched", "mirrors.apt"),
        ("Strict SSH", "failed to validate: Bad configuration option", True, True, "failed at 'Strict SSH'", "kivactl provision"),
    ],
)
def test_what_a_failure_means(task, message, reached, begun, sentence, hint):
    trouble = trouble_for(Failure("one", task, message, reached), "192.0.2.1", 22, "/k", begun=begun)
    assert sentence in trouble.sentence
    assert hint in trouble.hint


def test_one_machine_is_a_sentence_and_several_are_listed():
    one, two = Trouble("one", "its disk is full", "free some"), Trouble("two", "it cannot be reached", "check", "timed out")
    error = error_for([one])
    assert (type(error), error.message, error.hint) == (PreconditionError, "one: its disk is full", "free some")
    error = error_for([one, two])
    assert isinstance(error, ToolError)
    assert error.message == "2 machines are not set up: one, two"
    assert error.hint == "kivactl provision --limit one --limit two"
    assert error.details == ("one: its disk is full; next: free some", "two: it cannot be reached; next: check", "  timed out")


def test_changes_stand_machine_by_machine():
    outcomes = [
        Outcome("two: Facts", Status.DONE, data={"changed": False}),
        Outcome("two: Rules", Status.DONE, data={"changed": True, "diff": ["/etc/x", "@@ -1 +1 @@", "-a", "+b"]}),
        Outcome("one: Folder", Status.DONE, data={"changed": True, "items": ["/a", "/b"], "diffs": [["+1"], ["said"]]}),
        Outcome("two: Unit", Status.DONE, data={"changed": True}),
    ]
    changes = changes_from(outcomes)
    assert [change.subject for change in changes] == ["one: folder /a", "one: folder /b", "two: rules", "two: unit"]
    assert [change.differences for change in changes] == [(Difference("", None, "1"),), (), (Difference("", "a", "b"),), ()]
    assert changes_from(sorted(outcomes, key=lambda outcome: outcome.step.partition(":")[0])) == changes, "whichever machine was faster"
