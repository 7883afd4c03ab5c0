"""What `playbooks/verify.yml` told of each machine, read: facts, and the GPUs as their driver shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import ValidationError

from kivactl.errors import ToolError
from kivactl.plan import Outcome
from kivactl.stack.infrastructure.verdicts import Facts, SeenGpu, facts_from
from kivactl.tools.gpu import parse_answer, parse_setup, parse_xids, with_xids


def facts_by_machine(outcomes: Iterable[Outcome]) -> dict[str, Facts]:
    """The facts that machines told, by name.

    Raises:
        ToolError: A machine told something else.
    """
    found: dict[str, Facts] = {}
    for outcome in outcomes:
        machine, _, task = outcome.step.partition(": ")
        for message in outcome.data.get("messages", []) if task == "Facts" else []:
            try:
                found[machine] = facts_from(json.loads(message))
            except (ValueError, ValidationError):
                raise ToolError(f"{machine} told of itself what cannot be read", "kivactl provision --verify", (message[:200],)) from None
    return found


def gpus_of(facts: Facts) -> tuple[SeenGpu, ...]:
    """The machine's GPUs; one that cannot be told of in any other way is lost.

    Raises:
        ToolError: nvidia-smi is there but does not work.
    """
    if facts.nvidia is None:
        return ()
    answer = facts.nvidia
    conditions = with_xids(parse_answer(answer.code, answer.stdout, answer.stderr), parse_xids(facts.xids))
    driver, sliced = parse_setup(answer.stdout)
    return tuple(
        SeenGpu(
            condition.index,
            condition.name,
            driver,
            tuple(fault.message for fault in condition.faults),
            condition.remedy.value,
            condition.index in sliced,
        )
        for condition in conditions
    )
