"""Models and their replicas: restart, maintenance, shares of versions, the gate of a rollout, scaling; and deploying the spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic.config import JsonDict

from kivactl.flows import canary, cluster, health, maintenance, scaling, shares
from kivactl.plan import Outcome, Status
from kivactl.runbooks.actions.action import ANYWHERE, CLUSTER, Action, Kind, NoParams, Params, Probe, Site
from kivactl.spec.fields import Name, PositiveDuration
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Weight
from kivactl.targets.release import read_release
from kivactl.targets.status import Health

_MODEL: JsonDict = {"names": "model"}
_ALIAS: JsonDict = {"names": "alias"}
_REPLICA: JsonDict = {"names": "replica"}


def _weights(given: Any) -> Any:
    """`v1=90, v2=10` as a mapping: results of steps are text."""
    if not isinstance(given, str):
        return given
    pairs = [part.partition("=") for part in given.split(",")]
    if not all(sign and weight.strip().isdecimal() for _, sign, weight in pairs):
        msg = f"'{given}' are no shares: write for instance v1=90, v2=10"
        raise ValueError(msg)
    return {name.strip(): int(weight) for name, _, weight in pairs}


Weights = Annotated[dict[Name, Weight], BeforeValidator(_weights), Field(min_length=1)]
"""Shares by model: a mapping, or text such as `v1=90, v2=10`."""


class ReplicasParams(Params):
    """Which replicas: one, a model's, or all; one together with a model has to be of that model."""

    model: str | None = Field(default=None, description="All replicas of this model.", json_schema_extra=_MODEL)
    replica: str | None = Field(default=None, description="This one.", json_schema_extra=_REPLICA)


class NodeParams(Params):
    """Which machine of the cluster."""

    node: str = Field(min_length=1, description="Its name, as `kubectl get nodes` has it.")


class NodeTakeOutParams(NodeParams):
    """Which machine of the cluster, and what has to leave it."""

    replica: str | None = Field(default=None, description="The only pod that has to; all of the platform when absent.", json_schema_extra=_REPLICA)


class SharesParams(Params):
    """New shares: all of them, or the percentage that one model gets."""

    alias: str = Field(description="Name that clients ask for.", json_schema_extra=_ALIAS)
    shares: Weights | None = Field(default=None, description="Weights by model, such as `v1=90, v2=10`.")
    model: str | None = Field(default=None, description="Instead: the model that gets `percent`.", json_schema_extra=_MODEL)
    percent: int | None = Field(default=None, ge=0, le=100, description="Of the requests; the other models keep their proportions.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.model is None) != (self.percent is None) or (self.model is None) == (self.shares is None):
            msg = "give either `shares`, or `model` and `percent`"
            raise ValueError(msg)
        return self


class SettleParams(Params):
    """The end of a rollout."""

    alias: str = Field(json_schema_extra=_ALIAS)
    shares: Weights | None = Field(default=None, description="Weights by model; those of now when absent.")


class NoteParams(Params):
    """What is to be noted."""

    alias: str | None = Field(default=None, json_schema_extra=_ALIAS)
    model: str | None = Field(default=None, json_schema_extra=_MODEL)


class ObserveParams(Params):
    """How a version is judged."""

    model: str = Field(json_schema_extra=_MODEL)
    window: PositiveDuration = Field(default=300.0, description="How long real requests are watched.")
    min_requests: int = Field(default=20, ge=1, le=1_000_000, description="With fewer real requests a load test of this version makes up for them.")
    load: PositiveDuration = Field(default=20.0, description="How long that load test measures.")


class ScaleParams(Params):
    """How many."""

    model: str = Field(json_schema_extra=_MODEL)
    replicas: int = Field(ge=1, le=64)

    def faults_in(self, loaded: Loaded) -> Iterator[tuple[str, str]]:
        """Why nobody sets the replicas of this model."""
        if refusal := scaling.scaled_by_load(loaded.platform, self.model):
            yield "model", refusal


class ModelParams(Params):
    """Of which model."""

    model: str = Field(json_schema_extra=_MODEL)


class AliasParams(Params):
    """Of which alias."""

    alias: str = Field(json_schema_extra=_ALIAS)


class ShareParams(ModelParams, AliasParams):
    """Of which model, for which alias."""


class ReplicaParams(Params):
    """Of which replica."""

    replica: str = Field(json_schema_extra=_REPLICA)


def _restart(site: Site, params: ReplicasParams) -> Iterator[Outcome]:
    return maintenance.restart(site.deployment, params.model, params.replica)


def _take_out(site: Site, params: ReplicasParams) -> Iterator[Outcome]:
    return maintenance.take_out(site.deployment, params.model, params.replica)


def _bring_back(site: Site, params: ReplicasParams) -> Iterator[Outcome]:
    return maintenance.bring_back(site.deployment, params.model, params.replica)


def _shares(site: Site, params: SharesParams) -> Iterator[Outcome]:
    if params.shares is not None:
        return shares.set_shares(site.deployment, params.alias, params.shares)
    assert params.model is not None
    assert params.percent is not None
    # By the spec's shares, not those of now: the same step leads to the same shares however often it is done.
    wanted = shares.shares_for(_spec_shares(site, params.alias), params.model, params.percent)
    return shares.set_shares(site.deployment, params.alias, wanted)


def _settle(site: Site, params: SettleParams) -> Iterator[Outcome]:
    return shares.settle(site.deployment, params.alias, params.shares)


def _note(site: Site, params: NoteParams) -> Iterator[Outcome]:
    result: dict[str, Any] = {}
    if params.alias is not None:
        result["shares"] = ", ".join(f"{model}={weight}" for model, weight in shares.current(site.deployment, params.alias).items())
    if params.model is not None:
        result["replicas"] = next(model.replicas for model in site.deployment.platform.models if model.name == params.model)
    yield Outcome("note", Status.DONE, "; ".join(f"{name}: {value}" for name, value in result.items()), data={"result": result})


def _observe(site: Site, params: ObserveParams) -> Iterator[Outcome]:
    folder = site.folder / "measurements" / f"canary-{params.model}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    return canary.observe(site.deployment, params.model, for_s=params.window, min_requests=params.min_requests, load_s=params.load, folder=folder)


def _scale(site: Site, params: ScaleParams) -> Iterator[Outcome]:
    return scaling.scale(site.deployment, params.model, params.replicas)


def _spec_shares(site: Site, alias: str) -> Mapping[str, int]:
    return next((one.models for one in site.deployment.platform.aliases if one.name == alias), {})


def _serving(site: Site, params: ModelParams) -> bool:
    components = [one for one in health.status_now(site.deployment).components if one.model == params.model]
    return any(one.health is Health.SERVING for one in components)


def _all_serving(site: Site, params: ModelParams) -> bool:
    components = [one for one in health.status_now(site.deployment).components if one.model == params.model]
    return bool(components) and all(one.health is Health.SERVING for one in components)


def _alias_serving(site: Site, params: AliasParams) -> bool:
    now = shares.current(site.deployment, params.alias)
    return all(_serving(site, ModelParams(model=model)) for model, weight in now.items() if weight)


def _share(site: Site, params: ShareParams) -> int:
    return shares.percentages(shares.current(site.deployment, params.alias)).get(params.model, 0)


def _replicas(site: Site, params: ModelParams) -> int:
    return next((model.replicas for model in site.deployment.platform.models if model.name == params.model), 0)


def _health(site: Site, params: ReplicaParams) -> str | None:
    components = health.status_now(site.deployment).components
    return next((one.health.value for one in components if one.name == params.replica), None)


def _in_maintenance(site: Site, params: ReplicasParams) -> list[str]:
    meant = maintenance.chosen(site.deployment, params.model, params.replica)
    return [name for name in read_release(site.deployment.layout.release).maintenance if name in meant]


ACTIONS: Mapping[str, Action] = {
    "replica.restart": Action(
        ReplicasParams, _restart, "Starts replicas anew, one after the other, without losing a request where a model has several.", targets=ANYWHERE
    ),
    "replica.take-out": Action(
        ReplicasParams, _take_out, "Lets replicas finish their requests and stops them; they stay stopped until they are brought back.", destructive=True
    ),
    "replica.bring-back": Action(ReplicasParams, _bring_back, "Starts replicas that were taken out, and gives them requests again."),
    "node.take-out": Action(
        NodeTakeOutParams,
        lambda site, params: cluster.take_out_node(site.deployment, params.node, params.replica),
        "Closes a node for new pods and evicts those of the platform, one after the other as budgets let them, until others serve.",
        destructive=True,
        results={"unserved": "none"},
        targets=CLUSTER,
    ),
    "node.bring-back": Action(
        NodeParams,
        lambda site, params: cluster.bring_back_node(site.deployment, params.node),
        "Opens a node that was closed for maintenance; one that somebody else closed stays closed.",
        targets=CLUSTER,
    ),
    "model.note": Action(
        NoteParams,
        _note,
        "Notes the shares of an alias and the replicas of a model, for a way back.",
        results={"shares": "v1=100, v2=0", "replicas": 1},
        targets=ANYWHERE,
    ),
    "model.shares": Action(
        SharesParams, _shares, "Gives out an alias' requests between models anew; deploys keep to it until the spec's shares hold again.", targets=ANYWHERE
    ),
    "model.settle": Action(SettleParams, _settle, "Writes the shares of an alias into the spec, which ends a rollout.", targets=ANYWHERE),
    "model.observe": Action(
        ObserveParams,
        _observe,
        "Holds one version of a model against the platform's service levels under real requests, made up for by a load test.",
        results={"requests": 20, "failed": 0, "error_ratio": 0.0, "ttft_p95_s": 0.5, "tpot_p95_s": 0.05},
        targets=ANYWHERE,
    ),
    "model.scale": Action(ScaleParams, _scale, "Writes a model's number of replicas into the spec and deploys it.", targets=ANYWHERE),
    "spec.deploy": Action(NoParams, lambda site, _: scaling.deploy(site.deployment), "Makes the platform what its spec says.", targets=ANYWHERE),
}
PROBES: Mapping[str, Probe] = {
    "model.serving": Probe(ModelParams, _serving, Kind.FLAG, "Whether a replica of a model gets requests.", targets=ANYWHERE),
    "model.all-serving": Probe(ModelParams, _all_serving, Kind.FLAG, "Whether all replicas of a model get requests.", targets=ANYWHERE),
    "model.replicas": Probe(ModelParams, _replicas, Kind.NUMBER, "How many replicas the spec wants of a model.", targets=ANYWHERE),
    "model.share": Probe(ShareParams, _share, Kind.NUMBER, "The percentage of an alias' requests that a model gets.", targets=ANYWHERE),
    "alias.serving": Probe(AliasParams, _alias_serving, Kind.FLAG, "Whether every model with a share of an alias gets requests.", targets=ANYWHERE),
    "replica.health": Probe(
        ReplicaParams, _health, Kind.TEXT, "A replica's health: serving, draining, starting, maintenance, restarting, stopped.", targets=ANYWHERE
    ),
    "node.closed": Probe(
        NodeParams,
        lambda site, params: cluster.node_is_closed(site.deployment, params.node),
        Kind.FLAG,
        "Whether a node takes no new pods, or has still to be opened after a maintenance.",
        targets=CLUSTER,
    ),
    "node.pods": Probe(
        NodeParams, lambda site, params: cluster.pods_on(site.deployment, params.node), Kind.LIST, "The platform's pods on a node.", targets=CLUSTER
    ),
    "replica.maintenance": Probe(ReplicasParams, _in_maintenance, Kind.LIST, "The replicas in maintenance, of one, of a model, or of all."),
}
