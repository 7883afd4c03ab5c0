"""What people write to describe a load test; what the generator is told follows from it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from kivactl.loadtest.arrivals import Piece, Process, Profile
from kivactl.loadtest.assignment import Assignment, Kind
from kivactl.loadtest.lengths import Lengths, Shape
from kivactl.loadtest.levels import PRESETS, Level, levels_from
from kivactl.loadtest.prompts import read_chats
from kivactl.loadtest.trace import read_trace
from kivactl.spec.fields import Name, PositiveDuration, Strict
from kivactl.spec.platform import ServiceLevels
from kivactl.spec.quantities import Duration
from kivactl.stack.endpoint import Endpoint

Rate = Annotated[float, Field(gt=0, le=1_000_000)]
"""Requests per second."""
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]


class Length(Strict):
    """A random length. A plain number is a fixed one."""

    shape: Shape = Field(default="lognormal", description="Of the distribution.")
    mean: float | None = Field(default=None, gt=0, le=10_000_000, description="Its mean; not for 'uniform'.")
    sd: float = Field(default=0, ge=0, description="Standard deviation, of 'normal' and 'lognormal'.")
    min: Tokens = Field(default=1, description="Nothing shorter; of 'uniform' the lower end.")
    max: Tokens = Field(default=1_000_000, description="Nothing longer; of 'uniform' the upper end.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.mean is None) != (self.shape == "uniform"):
            msg = "a uniform length has min and max" if self.mean is not None else f"a {self.shape} length needs its mean"
            raise ValueError(msg)
        if self.min > self.max:
            msg = f"min is more than max ({self.min} and {self.max})"
            raise ValueError(msg)
        return self

    @property
    def lengths(self) -> Lengths:
        return Lengths(self.shape, self.mean or 0, self.sd, self.min, self.max)


def _fixed(value: Any) -> Any:
    return {"shape": "fixed", "mean": value} if isinstance(value, int) and not isinstance(value, bool) else value


AnyLength = Annotated[Length, BeforeValidator(_fixed)]


class Ramp(Strict):
    """A rate that grows or falls evenly over the measured phase."""

    start: Rate = Field(description="Requests per second at the beginning.")
    end: Rate = Field(description="Requests per second at the end.")


class Load(Strict):
    """How many requests there are: users in a closed loop, or arrivals in an open one, which come whatever the platform does."""

    users: int | None = Field(default=None, ge=1, le=100_000, description="Closed loop: users, each with one request under way.")
    think_time: Duration = Field(default=0.0, ge=0, description="Closed loop: from an answer to the same user's next request.")
    rate: Rate | None = Field(default=None, description="Open loop: requests per second.")
    ramp: Ramp | None = Field(default=None, description="Open loop: a rate that changes evenly.")
    steps: tuple[Rate, ...] | None = Field(default=None, min_length=1, description="Open loop: rates one after the other, each for its share of the duration.")
    trace: str | None = Field(default=None, min_length=1, description="Open loop: a file with arrivals to replay, JSON lines.")
    speed: float = Field(default=1.0, gt=0, le=1000, description="Of the trace: 2 replays it in half the time.")
    arrivals: Process = Field(default=Process.POISSON, description="Open loop: how requests follow each other.")
    burstiness: float = Field(default=1.0, gt=0, le=1000, description="Of gamma arrivals: below 1 they come in bursts, above 1 more evenly.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        chosen = [name for name in ("users", "rate", "ramp", "steps", "trace") if getattr(self, name) is not None]
        if len(chosen) != 1:
            msg = "give one of users, rate, ramp, steps and trace" + (f", not {' and '.join(chosen)}" if chosen else "")
            raise ValueError(msg)
        for name, owner in (("think_time", "users"), ("speed", "trace")):
            if name in self.model_fields_set and owner != chosen[0]:
                msg = f"'{name}' belongs to '{owner}', not to '{chosen[0]}'"
                raise ValueError(msg)
        if "burstiness" in self.model_fields_set and self.arrivals is not Process.GAMMA:
            msg = "'burstiness' belongs to arrivals of the kind 'gamma'"
            raise ValueError(msg)
        return self


class Prefix(Strict):
    """What several prompts begin with, as system prompts and documents do."""

    tokens: Tokens
    groups: int = Field(default=1, ge=1, le=100_000, description="How many different ones there are.")
    ratio: float = Field(default=1.0, gt=0, le=1, description="How many of the prompts have one.")


class Prompts(Strict):
    """What is asked."""

    texts: tuple[str, ...] | None = Field(default=None, min_length=1, description="Texts, in turn.")
    tokens: AnyLength | None = Field(default=None, description="Random text of this length, another one for each request, so that no engine knows it already.")
    file: str | None = Field(default=None, min_length=1, description="Conversations from a file, JSON lines with 'messages' or 'prompt'.")
    shared_prefix: Prefix | None = None
    system: str = Field(default="", description="Text of a system message.")
    turns: AnyLength = Field(default=Length(shape="fixed", mean=1), description="Requests of a conversation, each with all that was said before.")
    pause: Duration = Field(default=0.0, ge=0, description="From an answer to the conversation's next turn.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        chosen = [name for name in ("texts", "tokens", "file") if getattr(self, name) is not None]
        if len(chosen) != 1:
            msg = "give one of texts, tokens and file" + (f", not {' and '.join(chosen)}" if chosen else "")
            raise ValueError(msg)
        if self.shared_prefix is not None and self.tokens is None:
            msg = "'shared_prefix' belongs to prompts with 'tokens'"
            raise ValueError(msg)
        return self


class Output(Strict):
    """What is answered."""

    tokens: AnyLength = Field(default=Length(shape="fixed", mean=64), description="Longest answer.")
    exact: bool = Field(default=False, strict=True, description="Whether the engine must fill that length (min_tokens, ignore_eos); vLLM can.")
    temperature: float = Field(default=0.0, ge=0, le=2)


class Part(Strict):
    """One kind of requests in a mix."""

    name: Name
    share: float = Field(default=1.0, gt=0, description="Its weight among the others.")
    tenant: Name | None = Field(default=None, description="Whose token it uses.")
    model: str | None = Field(default=None, min_length=1, description="What it asks, instead of the platform's first model.")
    prompts: Prompts | None = Field(default=None, description="Instead of the scenario's.")
    output: Output | None = Field(default=None, description="Instead of the scenario's.")
    stream: bool | None = Field(default=None, strict=True, description="Instead of the scenario's.")


class Capacity(Strict):
    """A search for the highest rate that keeps the service levels, from the load's on; each probe measures for the scenario's duration."""

    limit: Rate = Field(default=1000.0, description="Nothing higher is tried.")
    precision: float = Field(default=0.05, gt=0, lt=1, description="How near the answer must be.")


class Sweep(Strict):
    """Several loads one after the other, for the curve of throughput against latency."""

    users: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] | None = Field(default=None, min_length=2)
    rates: tuple[Rate, ...] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.users is None) == (self.rates is None):
            msg = "give either users or rates"
            raise ValueError(msg)
        return self


_Limit = PositiveDuration | None


class Promises(Strict):
    """Service levels of a scenario: for what they name they stand instead of the platform's."""

    preset: str | None = Field(default=None, description="MLPerf's limits of TTFT and TPOT for a size of model.")
    ttft_p50: _Limit = None
    ttft_p90: _Limit = None
    ttft_p95: _Limit = None
    ttft_p99: _Limit = None
    tpot_p50: _Limit = None
    tpot_p90: _Limit = None
    tpot_p95: _Limit = None
    tpot_p99: _Limit = None
    itl_p50: _Limit = None
    itl_p90: _Limit = None
    itl_p95: _Limit = None
    itl_p99: _Limit = None
    e2e_p50: _Limit = None
    e2e_p90: _Limit = None
    e2e_p95: _Limit = None
    e2e_p99: _Limit = None
    error_ratio: float | None = Field(default=None, ge=0, le=1, description="Failed requests over all, at most.")
    attainment: float | None = Field(default=None, ge=0, le=1, description="Requests that keep every limit over all that were due, at least.")

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESETS:
            msg = f"must be one of {', '.join(PRESETS)}, not '{value}'"
            raise ValueError(msg)
        return value


class Scenario(Strict):
    """A load test."""

    name: Name
    description: str = Field(default="", description="What it is for, in one sentence.")
    load: Load = Field(description="How many requests there are.")
    duration: PositiveDuration = Field(default=30.0, description="Length of the measured phase.")
    requests: int | None = Field(default=None, ge=1, le=100_000_000, description="Instead of `duration`: how many requests are measured.")
    warm_up: Duration = Field(default=5.0, ge=0, description="Load before the measured phase, left out of all figures.")
    timeout: PositiveDuration = Field(default=120.0, description="Longest time for a whole answer; longer is a failure.")
    prompts: Prompts = Field(description="What is asked.")
    output: Output = Output()
    stream: bool = Field(default=True, strict=True, description="Whether answers come in events; without, there is no time to the first token.")
    mix: tuple[Part, ...] = Field(default=(), description="Several kinds of requests, each with its share.")
    tenants: Literal["first", "all"] = Field(default="first", description="Whose tokens are used where the mix names no tenant: the first's, or all in turn.")
    seed: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Of all that is random; drawn anew for each run when absent, so that no engine knows the prompts."
    )
    processes: int | None = Field(default=None, ge=1, le=256, description="Of the load generator; as many as the load needs when absent.")
    service_levels: Promises = Promises()
    capacity: Capacity | None = None
    sweep: Sweep | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.requests is not None and self.load.trace is None and "duration" in self.model_fields_set:
            msg = "give either duration or requests"
            raise ValueError(msg)
        if self.capacity is not None and (self.sweep is not None or self.load.rate is None):
            msg = "a capacity search has no sweep" if self.sweep is not None else "a capacity search needs a load with a rate"
            raise ValueError(msg)
        if self.capacity is not None and self.load.rate is not None and self.load.rate > self.capacity.limit:
            msg = f"the search for the capacity begins at {self.load.rate:g} requests/s, above its limit of {self.capacity.limit:g}"
            raise ValueError(msg)
        if self.requests is not None and (self.capacity is not None or (self.sweep is not None and self.sweep.rates)):
            msg = "runs at different rates are measured for a duration, not for a number of requests"
            raise ValueError(msg)
        wanted = None if self.sweep is None else "users" if self.sweep.users else "rate"
        if wanted is not None and getattr(self.load, wanted) is None:
            msg = f"a sweep over {wanted if wanted == 'users' else 'rates'} needs a load with {wanted}"
            raise ValueError(msg)
        names = [part.name for part in self.mix]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            msg = f"two parts of the mix are named '{twice}'"
            raise ValueError(msg)
        return self

    def spread_over(self, tenants: Sequence[str]) -> Scenario:
        """The same with its requests shared out among some tenants, where that is wanted."""
        if self.tenants != "all" or not tenants:
            return self
        parts = self.mix or (Part(name="all"),)
        shared = [
            part.model_copy(update={"name": f"{part.name}.{tenant}" if self.mix else tenant, "tenant": tenant, "share": part.share / len(whose)})
            for part in parts
            for whose in [[part.tenant] if part.tenant else tenants]
            for tenant in whose
        ]
        return self.model_copy(update={"mix": tuple(shared)})

    @property
    def named_tenants(self) -> tuple[str, ...]:
        """Whose tokens are needed, beside the endpoint's own."""
        return tuple(dict.fromkeys(part.tenant for part in self.mix if part.tenant))

    def files(self) -> list[Path]:
        """The files it names."""
        parts = [self.prompts, *(part.prompts for part in self.mix if part.prompts)]
        return [Path(prompts.file) for prompts in parts if prompts.file] + ([Path(self.load.trace)] if self.load.trace else [])


def levels_for(scenario: Scenario, promised: ServiceLevels) -> tuple[Level, ...]:
    """What a run is held against: what the scenario promises, and what the platform does where the scenario is silent.

    Args:
        scenario: With its own levels, maybe.
        promised: Of the platform. A metric that the scenario has levels for is the scenario's alone.
    """
    own = {name: limit for name, limit in scenario.service_levels if limit is not None and name != "preset"}
    mine = levels_from(own, scenario.service_levels.preset)
    metrics = {level.metric for level in mine}
    theirs = {name: limit for name, limit in promised if Level(name, limit).metric not in metrics}
    return levels_from({**theirs, **{level.name: level.limit for level in mine}})


def assignment_for(scenario: Scenario, endpoint: Endpoint) -> Assignment:
    """What the load generator is told; a seed is drawn where the scenario has none.

    Raises:
        ValueError: A file that the scenario names is not what it should be.
        OSError: It cannot be read.
    """
    load = scenario.load
    trace = read_trace(Path(load.trace), load.speed) if load.trace else ()
    warm_up_s = 0.0 if trace else scenario.warm_up
    duration_s = scenario.duration
    if trace and "duration" not in scenario.model_fields_set:
        duration_s = trace[-1][0] + 1e-3
    elif scenario.requests is not None and load.users is None:
        mean_rps = Profile(_pieces(load, 0.0, 1.0, after_s=0.0)).arrivals or 1.0  # of one second, so per second
        duration_s = scenario.requests / mean_rps * 1.5 + 10
    return Assignment(
        name=scenario.name,
        url=endpoint.url,
        ca=str(endpoint.ca) if endpoint.ca else None,
        model=endpoint.model,
        users=load.users or 0,
        think_s=load.think_time,
        process=load.arrivals,
        burstiness=load.burstiness,
        pieces=_pieces(load, warm_up_s, duration_s, after_s=0.0 if scenario.requests else scenario.timeout),
        trace=tuple(trace),
        warm_up_s=warm_up_s,
        duration_s=duration_s,
        requests=scenario.requests or 0,
        timeout_s=scenario.timeout,
        seed=secrets.randbelow(2**31) if scenario.seed is None else scenario.seed,
        kinds=_kinds(scenario, endpoint),
        processes=scenario.processes or 1,
    )


def _pieces(load: Load, warm_up_s: float, duration_s: float, after_s: float) -> tuple[Piece, ...]:
    """The rate over time; the warm-up has the rate that the measured phase begins with, and what comes after it the last one."""
    if load.rate is not None:
        measured = [Piece(duration_s, load.rate, load.rate)]
    elif load.ramp is not None:
        measured = [Piece(duration_s, load.ramp.start, load.ramp.end)]
    elif load.steps is not None:
        measured = [Piece(duration_s / len(load.steps), rate, rate) for rate in load.steps]
    else:
        return ()
    first, last = measured[0].from_rps, measured[-1].until_rps
    return tuple(piece for piece in (Piece(warm_up_s, first, first), *measured, Piece(after_s, last, last)) if piece.duration_s)


def _kinds(scenario: Scenario, endpoint: Endpoint) -> tuple[Kind, ...]:
    parts = scenario.mix or (None,)
    return tuple(_kind(scenario, part, endpoint) for part in parts)


def _kind(scenario: Scenario, part: Part | None, endpoint: Endpoint) -> Kind:
    prompts = part.prompts if part and part.prompts else scenario.prompts
    output = part.output if part and part.output else scenario.output
    prefix = prompts.shared_prefix
    if prompts.file:
        read_chats(Path(prompts.file))
    return Kind(
        name=part.name if part else "",
        share=part.share if part else 1.0,
        tenant=(part.tenant if part else None) or "",
        model=(part.model if part else None) or endpoint.model,
        texts=prompts.texts or (),
        chats=str(Path(prompts.file).absolute()) if prompts.file else None,
        prompt=prompts.tokens.lengths if prompts.tokens else None,
        prefix=prefix.tokens if prefix else 0,
        prefixes=prefix.groups if prefix else 1,
        prefix_ratio=prefix.ratio if prefix else 0.0,
        system=prompts.system,
        turns=prompts.turns.lengths,
        pause_s=prompts.pause,
        output=output.tokens.lengths,
        is_exact=output.exact,
        temperature=output.temperature,
        is_streamed=scenario.stream if part is None or part.stream is None else part.stream,
    )
