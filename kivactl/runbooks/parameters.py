"""What the operator chooses: the parameters of a runbook, read by their type and held against the spec."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from kivactl.errors import UsageError
from kivactl.runbooks.format import Parameter, ParameterType
from kivactl.spec.document import shown
from kivactl.spec.platform import Platform
from kivactl.spec.quantities import format_bytes, format_duration, parse_bytes, parse_duration, write_bytes, write_duration
from kivactl.stack.engine import replica_name

NAMED = (ParameterType.MODEL, ParameterType.ALIAS, ParameterType.TENANT, ParameterType.REPLICA)
"""Types whose values are names of the spec."""

_NUMERIC = (ParameterType.INTEGER, ParameterType.NUMBER, ParameterType.DURATION, ParameterType.SIZE)
_EXAMPLES: dict[ParameterType, Any] = {
    ParameterType.TEXT: "text",
    ParameterType.FLAG: True,
    ParameterType.INTEGER: 1,
    ParameterType.NUMBER: 1.0,
    ParameterType.DURATION: 60.0,
    ParameterType.SIZE: 2**30,
}
_FLAGS = {"true": True, "yes": True, "on": True, "ja": True, "false": False, "no": False, "off": False, "nein": False}


def assignments(words: Iterable[str]) -> dict[str, str]:
    """What `--set NAME=VALUE` says, by name.

    Raises:
        UsageError: One is no assignment, or a name stands twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name:
            raise UsageError(f"'--set {word}' is not of the form NAME=VALUE", "for instance --set model=smollm2")
        if name in found:
            raise UsageError(f"the parameter '{name}' is set twice")
        found[name] = text
    return found


def valid_names(kind: ParameterType | str, platform: Platform) -> list[str]:
    """The names of a kind (`model`, `alias`, `tenant`, `replica`) that a spec has, in its order; in a cluster it has none of replicas, which are pods."""
    match kind:
        case ParameterType.MODEL:
            return [model.name for model in platform.models]
        case ParameterType.ALIAS:
            return [alias.name for alias in platform.aliases]
        case ParameterType.TENANT:
            return [tenant.name for tenant in platform.gateway.tenants]
        case ParameterType.REPLICA:
            if platform.target == "kubernetes":
                return []
            return [replica_name(model.name, index) for model in platform.models for index in range(model.replicas)]
        case _:
            msg = f"no kind of name: {kind}"
            raise ValueError(msg)


def unknown_name(kind: ParameterType | str, name: str, platform: Platform) -> str:
    """Why a name is none of the spec, with the nearest one; empty when it is one."""
    valid = valid_names(kind, platform)
    if name in valid or (kind == ParameterType.REPLICA and platform.target == "kubernetes"):
        return ""  # pods are the cluster's to know: the action asks it
    if not valid:
        return f"there is no {kind} '{name}': the spec has none"
    near = difflib.get_close_matches(name, valid, n=1)
    return f"there is no {kind} '{name}'; " + (f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(valid)}")


def value_of(parameter: Parameter, given: Any, platform: Platform | None) -> Any:
    """A parameter's value.

    Args:
        parameter: As declared.
        given: What was written: text from a command line, anything from a file or an earlier run (numbers are seconds and bytes there).
        platform: What names are held against; None to take any.

    Returns:
        Text, a flag, a number; seconds for a duration, bytes for a size.

    Raises:
        ValueError: It does not fit; the message says why.
    """
    value = _read(parameter.type, given)
    if parameter.choices is not None and value not in parameter.choices:
        near = difflib.get_close_matches(str(value), parameter.choices, n=1)
        msg = f"must be one of {', '.join(parameter.choices)}, not {shown(value)}" + (f"; did you mean '{near[0]}'?" if near else "")
        raise ValueError(msg)
    for word, bound, outside in (("least", parameter.minimum, -1), ("most", parameter.maximum, 1)):
        limit = None if bound is None else _read(parameter.type, bound)
        if limit is not None and (value - limit) * outside > 0:
            msg = f"must be at {word} {written(parameter.type, limit)}, not {written(parameter.type, value)}"
            raise ValueError(msg)
    if parameter.type in NAMED and platform is not None and (unknown := unknown_name(parameter.type, value, platform)):
        raise ValueError(unknown)
    return value


def example_of(parameter: Parameter, platform: Platform | None) -> Any:
    """A value that a parameter could have, for checking what it is used in before it is chosen."""
    if parameter.default is not None:
        return value_of(parameter, parameter.default, None)
    if parameter.choices:
        return parameter.choices[0]
    if parameter.type in NAMED:
        names = valid_names(parameter.type, platform) if platform else []
        return names[0] if names else parameter.type.value
    for bound in (parameter.minimum, parameter.maximum):
        if bound is not None:
            return _read(parameter.type, bound)
    return _EXAMPLES[parameter.type]


def faults_of(parameter: Parameter, platform: Platform | None) -> list[tuple[str, str]]:
    """What does not fit within a declaration: key and message of each."""
    faults: list[tuple[str, str]] = []
    if parameter.choices is not None and parameter.type is not ParameterType.TEXT:
        faults.append(("choices", f"go with the type text only, not {parameter.type}"))
    if parameter.choices is not None and not parameter.choices:
        faults.append(("choices", "must not be empty"))
    for key, bound in (("minimum", parameter.minimum), ("maximum", parameter.maximum)):
        if bound is None:
            continue
        if parameter.type not in _NUMERIC:
            faults.append((key, f"goes with numbers, durations and sizes only, not with {parameter.type}"))
        else:
            try:
                _read(parameter.type, bound)
            except ValueError as error:
                faults.append((key, str(error)))
    if parameter.optional and parameter.default is not None:
        faults.append(("optional", "a parameter with a default is never absent; leave one of the two out"))
    if not faults and parameter.default is not None:
        try:
            value_of(parameter, parameter.default, platform)
        except ValueError as error:
            faults.append(("default", str(error)))
    return faults


def chosen_values(declared: Mapping[str, Parameter], given: Mapping[str, Any], platform: Platform | None, runbook: str) -> dict[str, Any]:
    """The value of every parameter: given, else its default; optional ones without either are None.

    Raises:
        UsageError: One is not declared, missing, or does not fit; all of them are told.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name in given:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            told = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(declared)}" if declared else "it has none"
            faults.append(f"there is no parameter '{name}'; {told}")
    for name, parameter in declared.items():
        value = given.get(name, parameter.default)
        if value is None:
            if not parameter.optional:
                faults.append(f"{name} is missing: {parameter.description.en}")
            values[name] = None
            continue
        try:
            values[name] = value_of(parameter, value, platform)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        missing = [name for name, parameter in declared.items() if name not in given and parameter.default is None and not parameter.optional]
        hint = f"kivactl runbook {runbook} {' '.join(f'--set {name}=...' for name in missing)}" if missing else f"kivactl runbook show {runbook}"
        count = "a parameter that does not fit" if len(faults) == 1 else f"{len(faults)} parameters that do not fit"
        raise UsageError(f"the runbook '{runbook}' was given {count}", hint, tuple(faults))
    return values


def written(kind: ParameterType | None, value: Any) -> str:
    """A value as people write it, exactly: durations and sizes with their unit."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if kind is ParameterType.DURATION:
        return write_duration(value)
    if kind is ParameterType.SIZE:
        return write_bytes(value)
    return str(value)


def displayed(kind: ParameterType | None, value: Any) -> str:
    """A value as people read it."""
    if kind is ParameterType.DURATION and value is not None:
        return format_duration(value)
    if kind is ParameterType.SIZE and value is not None:
        return format_bytes(value)
    return written(kind, value)


def _read(kind: ParameterType, given: Any) -> Any:
    match kind:
        case ParameterType.FLAG:
            if isinstance(given, bool):
                return given
            if isinstance(given, str) and given.lower() in _FLAGS:
                return _FLAGS[given.lower()]
            raise _not("true or false", given)
        case ParameterType.INTEGER:
            return _whole(given)
        case ParameterType.NUMBER:
            return _number(given)
        case ParameterType.DURATION:
            return parse_duration(given) if isinstance(given, str) else _number(given, "a duration such as 90s")
        case ParameterType.SIZE:
            return parse_bytes(given) if isinstance(given, str) else _whole(given, "a size such as 10GiB")
        case _:
            if isinstance(given, str) and given:
                return given
            raise _not("text", given)


def _whole(given: Any, wanted: str = "a whole number") -> int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str):
        try:
            return int(given)
        except ValueError:
            pass
    raise _not(wanted, given)


def _number(given: Any, wanted: str = "a number") -> float:
    if isinstance(given, (int, float, str)) and not isinstance(given, bool):
        try:
            value = float(given)
        except (ValueError, OverflowError):
            raise _not(wanted, given) from None
        if math.isfinite(value):
            return value
    raise _not(wanted, given)


def _not(wanted: str, given: Any) -> ValueError:
    return ValueError(f"must be {wanted}, not {shown(given)}")
