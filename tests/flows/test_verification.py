"""The proof that a platform in a cluster serves: who is asked, how long, and what is said when nobody answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from cluster_site import QuickClock

from kivactl.errors import CheckError, KivaError, NotReadyError, PreconditionError, ToolError
from kivactl.flows import verification
from kivactl.flows.verification import generated
from kivactl.plan import Status
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.secret import Secret
from kivactl.tools.clock import Clock


@dataclass
class Answers:
    """What the gateway answers, model by model: an error each time, or nothing when it generated; the last counts from then on."""

    of: dict[str, list[Exception | None]]
    way: list[Exception | None] = field(default_factory=lambda: [None])
    asked: list[str] = field(default_factory=list)

    def endpoint(self, *_, **__):
        if (error := self._next(self.way)) is not None:
            raise error
        return Endpoint("https://127.0.0.1:1/v1", Secret("t"), None, "")

    def answer(self, endpoint):
        self.asked.append(endpoint.model)
        return self._next(self.of[endpoint.model])

    @staticmethod
    def _next(answers):
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def prove(monkeypatch):
    def run(answers, *models):
        clock = QuickClock()
        monkeypatch.setattr(verification, "endpoint_for", answers.endpoint)
        monkeypatch.setattr(verification, "_answer", answers.answer)
        deployment = SimpleNamespace(platform=None, layout=None, clock=Clock(clock.now_s, clock.sleep))
        seen, failure = [], None
        try:
            seen.extend(generated(deployment, models, "kivactl logs"))
        except KivaError as error:  # what came before it is looked at as well
            failure = error
        return seen, failure

    return run


AWAY = NotReadyError("no engine of 'a' answers at the moment", "kivactl status")
UNKNOWN = ToolError("https://127.0.0.1:1/v1 broke off the connection")


def test_each_model_is_asked_once_when_all_generate(prove):
    answers = Answers({"a": [None], "b": [None]})
    seen, failure = prove(answers, "a", "b")
    assert ([one.status for one in seen], failure) == ([Status.STARTED, Status.DONE], None)
    assert sorted(answers.asked) == ["a", "b"]


def test_only_those_that_did_not_are_asked_again(prove):
    answers = Answers({"a": [AWAY, AWAY, None], "b": [None]})
    seen, failure = prove(answers, "a", "b")
    assert failure is None
    assert sorted(answers.asked) == ["a", "a", "a", "b"]
    assert [one.message for one in seen if one.status is Status.PROGRESS] == ["not yet: no engine of 'a' answers at the moment"]
    assert seen[-1].elapsed_s == 10.0


def test_each_new_reason_is_told_once(prove):
    seen, _ = prove(Answers({"a": [AWAY, UNKNOWN, UNKNOWN, None]}), "a")
    assert [one.message for one in seen if one.status is Status.PROGRESS] == [f"not yet: {AWAY.message}", f"not yet: {UNKNOWN.message}"]


def test_after_the_time_it_fails_with_the_last_reason(prove):
    seen, failure = prove(Answers({"a": [AWAY], "b": [AWAY]}), "a", "b")
    assert isinstance(failure, CheckError)
    assert failure.message == "no token came through the gateway within 180 s: no engine of 'a' answers at the moment (and 1 more)"
    assert failure.hint == "kivactl logs"
    assert seen[-1].status is Status.FAILED


def test_a_gateway_without_a_ready_pod_is_waited_for(prove):
    nobody = NotReadyError("no pod of the gateway is ready", "kivactl status")
    seen, failure = prove(Answers({"a": [None]}, way=[nobody, nobody, None]), "a")
    assert (seen[-1].status, failure) == (Status.DONE, None)


def test_a_way_that_is_forbidden_is_not(prove):
    answers = Answers({"a": [None]}, way=[PreconditionError("the account lacks the permission to create pods/portforward", "ask for it")])
    seen, failure = prove(answers, "a")
    assert (type(failure), failure.hint) == (PreconditionError, "ask for it")
    assert ([one.status for one in seen], answers.asked) == ([Status.STARTED, Status.FAILED], [])


def test_where_all_sleep_nobody_is_woken(prove):
    answers = Answers({})
    seen, failure = prove(answers)
    assert ([one.status for one in seen], failure, answers.asked) == ([Status.SKIPPED], None, [])
