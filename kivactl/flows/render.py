"""`render`: a platform as files for GitOps, one folder for each environment. The same spec gives the same bytes, wherever and whenever."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kivactl import __version__
from kivactl.errors import PreconditionError, SpecError, ToolError, UsageError
from kivactl.flows.rendered import INDEX, Rendered, differences, hash_of, read_rendered, write_rendered
from kivactl.plan import Change, Plan, Verb, digest
from kivactl.root import content
from kivactl.spec.load import Loaded, environments, load, paths
from kivactl.spec.platform import Model
from kivactl.stack import tokens
from kivactl.stack.kubernetes.gitops import Environment, Source, argocd_for, chart_folder, flux_for, helmfile_for, namespace_for, umbrella_for, values_file
from kivactl.stack.kubernetes.manifests import Manifest, parse_manifests, yaml_text
from kivactl.stack.kubernetes.names import cluster_of
from kivactl.stack.kubernetes.releases import ChartRelease, releases_for
from kivactl.stack.layout import Layout
from kivactl.targets.publication import keys_of
from kivactl.targets.register import read_register
from kivactl.tools.helm import Helm

Json = dict[str, Any]

OLDEST_KUBERNETES = "1.35.0"
"""What is rendered for unless somebody says otherwise; what fits it fits newer ones."""

BASE = "default"
"""Folder of a spec without overlays."""

_CHARTS = "charts"
_AT_ONCE = 4


class Style(StrEnum):
    """For whom files are written; values and `release.json` always are."""

    ARGOCD = "argocd"
    FLUX = "flux"
    HELMFILE = "helmfile"
    MANIFESTS = "manifests"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a command line asks for; None where it says nothing: then what the folder was rendered with counts."""

    style: Style | None = None
    kubernetes: str | None = None
    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    charts: str | None = None
    secret: str | None = None
    destination: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How a folder is rendered."""

    style: Style
    kubernetes: str
    source: Source

    def writes(self, style: Style) -> bool:
        """Whether files of this style are asked for."""
        return self.style in {style, Style.ALL}


@dataclass(frozen=True, slots=True)
class Keys:
    """What a gateway must know of tokens; nothing of it is secret.

    Attributes:
        jwks: Public keys.
        revoked: Ids of tokens.
    """

    jwks: Json
    revoked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rendering:
    """A folder as it should be.

    Attributes:
        folder: Where.
        before: What it holds.
        after: What its index shall say.
        files: Content of every file that is rendered now, by path.
        plan: What that changes.
        digests: Of every environment rendered, by name.
    """

    folder: Path
    before: Rendered | None
    after: Rendered
    files: Mapping[str, str]
    plan: Plan
    digests: Mapping[str, str]

    def as_dict(self) -> Json:
        """JSON-ready: folder, environments with their digests, changed files by what happens to them."""
        by_verb = {name: [change.subject for change in self.plan.changes if change.verb is verb] for name, verb in _VERBS.items()}
        return {"folder": str(self.folder), "environments": dict(self.digests), **by_verb, "notes": list(self.plan.notes)}

    @property
    def summary(self) -> str:
        """One line for people on each environment, and one on the files."""
        counts = [(name, len([change for change in self.plan.changes if change.verb is verb])) for name, verb in _VERBS.items()]
        changed = ", ".join(f"{count} {name}" for name, count in counts if count) or "nothing changed"
        return "\n".join([*(f"{name}: {known[:12]}" for name, known in self.digests.items()), f"{self.folder}: {len(self.files)} files, {changed}"])


_VERBS = {"written": Verb.CREATE, "changed": Verb.UPDATE, "removed": Verb.DELETE}


def plan_render(spec: Path, environment: str | None, folder: Path, wishes: Wishes, *, stored_keys: bool = False) -> Rendering:
    """Render everything in memory, and compare it with the folder; writes nothing.

    Args:
        spec: The base, such as `/srv/llm/kiva.yaml`.
        environment: One overlay; every one that there is when None, the base alone when there is none.
        folder: Where to.
        wishes: What the command line asks for.
        stored_keys: Take public keys from the folder where the platform's are not at hand.

    Raises:
        SpecError: A spec has faults, or none is for Kubernetes.
        UsageError: The folder is not a rendered one, or the style needs an option.
        PreconditionError: Keys or helm are missing.
        ToolError: A chart cannot be rendered.
    """
    before = read_rendered(folder)
    options = options_for(wishes, before, folder)
    found, notes = _loaded(spec, environment)
    parts = {
        name: _part(name, loaded, _keys(loaded, None if name == BASE else name, folder / name if stored_keys else None), options)
        for name, loaded in found.items()
    }
    files = {path: text for part in parts.values() for path, text in part.files.items()}
    if not options.source.charts:
        files |= chart_files({chart for part in parts.values() for chart in part.charts})
    others = _kept(before, found, environment)
    changes = differences(folder, before, files, keep=others)
    hashes = {path: hash_of(text) for path, text in files.items()}
    hashes |= {path: known for path, known in (before.files if before else {}).items() if path.partition("/")[0] in others}
    after = Rendered({"style": options.style.value, "kubernetes": options.kubernetes, **asdict(options.source)}, dict(sorted(hashes.items())))
    if before is not None and not changes and before != after:  # the options alone
        changes = (Change(Verb.UPDATE, INDEX),)
    digests = {name: part.digest for name, part in parts.items()}
    return Rendering(folder, before, after, files, Plan(f"render into {folder}", changes, tuple(notes)), digests)


def apply_render(rendering: Rendering) -> None:
    """Write what was rendered, remove what is no longer.

    Raises:
        PreconditionError: Something of somebody else's lies where a file belongs.
    """
    changes = [change for change in rendering.plan.changes if change.subject != INDEX]
    write_rendered(rendering.folder, rendering.before, rendering.after, rendering.files, changes)


def options_for(wishes: Wishes, before: Rendered | None, folder: Path) -> Options:
    """What is asked for, over what the folder was rendered with, over what is usual.

    Raises:
        UsageError: Argo CD or Flux have to be told a repository.
    """
    stored = before.options if before else {}

    def chosen(name: str, usual: str) -> str:
        said = getattr(wishes, name)
        return str(stored.get(name, usual) if said is None else said)

    usual = Source()
    source = Source(
        repository=chosen("repository", usual.repository),
        revision=chosen("revision", usual.revision),
        path=_inside(chosen("path", _path_in_repository(folder))),
        charts=chosen("charts", usual.charts).rstrip("/"),
        secret=chosen("secret", usual.secret),
        destination=chosen("destination", usual.destination),
    )
    options = Options(Style(chosen("style", Style.ALL)), chosen("kubernetes", OLDEST_KUBERNETES), source)
    if not source.repository and options.style in {Style.ARGOCD, Style.FLUX, Style.ALL}:
        raise UsageError(
            "Argo CD and Flux read a Git repository, and none is named",
            f"kivactl render {folder} --repository https://git.example.org/kiva.git, or --style manifests or helmfile",
        )
    if source.charts and not source.charts.startswith("oci://"):
        raise UsageError(f"'{source.charts}' is no registry of charts", "--charts oci://registry.example.org/kiva/charts")
    return options


def chart_files(charts: Iterable[str]) -> dict[str, str]:
    """The files of charts by their path in a rendered folder."""
    files = {}
    for chart in sorted(charts):
        top = content("helm") / chart
        for path in sorted(top.rglob("*")):
            inside = path.relative_to(top)
            if path.is_file() and inside.parts[0] != "ci":
                files[f"{chart_folder(chart)}/{inside.as_posix()}"] = path.read_text()
    return files


@dataclass(frozen=True, slots=True)
class _Part:
    """One environment: its files by path, the charts it needs, the digest that says exactly which platform it is."""

    files: dict[str, str]
    charts: frozenset[str]
    digest: str


def _part(name: str, loaded: Loaded, keys: Keys, options: Options) -> _Part:
    platform = loaded.platform
    cluster = cluster_of(platform)
    releases = releases_for(platform, jwks=keys.jwks, revoked=keys.revoked)
    security = "privileged" if cluster.storage.kind == "host-path" else "restricted"
    versions = {chart: _chart_version(chart) for chart in sorted({release.chart for release in releases})}
    environment = Environment(name, platform.name, cluster.context, cluster.namespace, security, releases, versions)
    manifests = _manifests(environment, options)
    files = {values_file(name, release.name): yaml_text(release.values) for release in releases}
    if options.writes(Style.MANIFESTS):
        files[f"{name}/manifests/namespace.yaml"] = yaml_text(namespace_for(environment))
        files |= {f"{name}/manifests/{release}/{path}": text for release, group in manifests.items() for path, text in group.items()}
    if options.writes(Style.ARGOCD):
        files |= {f"{name}/argocd/{path}": yaml_text(made) for path, made in argocd_for(environment, options.source).items()}
    if options.writes(Style.FLUX):
        files |= {f"{name}/flux/{path}": yaml_text(made) for path, made in flux_for(environment, options.source).items()}
    if options.writes(Style.HELMFILE):
        files[f"{name}/helmfile.yaml"] = yaml_text(helmfile_for(environment, options.source))
    if options.source.repository:
        files[f"{name}/umbrella.yaml"] = yaml_text(umbrella_for(environment, options.source))
    files[f"{name}/keys.json"] = _json(asdict(keys))
    release = _release(loaded, environment, options, manifests, files)
    files[f"{name}/release.json"] = _json(release)
    return _Part(files, frozenset(versions), str(release["digest"]))


def _manifests(environment: Environment, options: Options) -> dict[str, dict[str, str]]:
    """The manifests of every release by file name; several Helms work at once, for each takes a while to start."""
    from concurrent.futures import ThreadPoolExecutor

    helm = Helm(None, environment.context, environment.namespace)

    def rendered(release: ChartRelease) -> dict[str, str]:
        text = helm.template(release.name, content("helm") / release.chart, release.values, kubernetes=options.kubernetes)
        try:
            found = parse_manifests(text)
        except ValueError as error:
            raise ToolError(f"the release {release.name} cannot be rendered: {error}", f"helm template {release.name} helm/{release.chart}") from None
        return {name: yaml_text(one.content) for name, one in _named(found, release)}

    with ThreadPoolExecutor(_AT_ONCE) as workers:
        return {release.name: files for release, files in zip(environment.releases, workers.map(rendered, environment.releases), strict=True)}


def _named(manifests: list[Manifest], release: ChartRelease) -> Iterable[tuple[str, Manifest]]:
    taken: set[str] = set()
    for one in manifests:
        if one.kind == "Secret":
            raise ToolError(f"the chart {release.chart} makes the Secret {one.name}, and no secret belongs into Git", "remove it from the chart")
        name = one.file_name
        while name in taken:  # two groups may have a kind of the same name
            name = f"another-{name}"
        taken.add(name)
        yield name, one


def _release(loaded: Loaded, environment: Environment, options: Options, manifests: Mapping[str, Mapping[str, str]], files: Mapping[str, str]) -> Json:
    """What this is, by hash: the same digest is the same platform."""
    own = {
        "platform": environment.platform,
        "environment": environment.name,
        "kivactl": __version__,
        "kubernetes": options.kubernetes,
        "spec": {"files": [path.name for path in loaded.files], "digest": loaded.digest},
        "charts": {
            chart: {"version": version, "digest": digest({path: hash_of(text) for path, text in chart_files([chart]).items()})}
            for chart, version in sorted(environment.versions.items())
        },
        "models": {release.model: _model(loaded, release) for release in environment.releases if release.model},
        "releases": {
            release.name: {
                "chart": release.chart,
                "values": digest(release.values),
                "manifests": digest({path: hash_of(text) for path, text in manifests[release.name].items()}),
            }
            for release in environment.releases
        },
        "files": {path.removeprefix(f"{environment.name}/"): hash_of(text) for path, text in sorted(files.items())},
    }
    return {**own, "digest": digest(own)}


def _model(loaded: Loaded, release: ChartRelease) -> Json:
    model: Model = next(one for one in loaded.platform.models if one.name == release.model)
    source = model.source
    if model.source_kind == "path":
        path = Path(model.source_name)
        source = f"path:{path.relative_to(loaded.folder)}" if path.is_relative_to(loaded.folder) else f"path:{path.name}"
    return {"release": release.name, "source": source, "revision": model.revision, **release.values.get("model", {})}


def _loaded(spec: Path, environment: str | None) -> tuple[dict[str, Loaded], list[str]]:
    """The environments that are for Kubernetes, by name, and a note on each that is not."""
    names: list[str | None] = [environment] if environment else [*environments(spec)] or [None]
    if _CHARTS in names:
        raise UsageError(f"the environment '{_CHARTS}' has the name of the folder of charts", "give its overlay another name")
    found: dict[str, Loaded] = {}
    notes = []
    for name in names:
        loaded = load(spec, name)
        if loaded.platform.target == "kubernetes":
            found[name or BASE] = loaded
        else:
            notes.append(f"{' + '.join(path.name for path in loaded.files)} is for the target {loaded.platform.target}: nothing to render")
    if not found:
        raise SpecError("no environment of this spec is for Kubernetes", "write `target: kubernetes` and `kubernetes:`, then: kivactl spec check", tuple(notes))
    return found, notes


def _keys(loaded: Loaded, environment: str | None, rendered: Path | None) -> Keys:
    """The platform's public keys and revoked tokens; those of a former render where there are none and it is given."""
    layout = Layout(*paths(loaded))
    if not layout.signing_key.exists():
        stored = _stored_keys(rendered / "keys.json") if rendered else None
        if stored:
            return stored
        how = f" --env {environment}" if environment else ""
        raise PreconditionError(f"there are no keys for the tokens of '{loaded.platform.name}': no {layout.signing_key}", f"kivactl provision{how}")
    jwks = tokens.jwks_for(keys_of(layout))
    known = {key["kid"] for key in jwks["keys"]}
    # Also those that have ended: a file must not change because time goes by.
    revoked = sorted(token.id for token in read_register(layout).tokens if token.revoked_at is not None and token.key in known)
    return Keys({"keys": sorted(jwks["keys"], key=lambda key: str(key["kid"]))}, tuple(revoked))


def _stored_keys(path: Path) -> Keys | None:
    try:
        data = json.loads(path.read_text())
        return Keys(dict(data["jwks"]), tuple(map(str, data["revoked"])))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise PreconditionError(f"{path} is damaged", f"git checkout {path}") from None


def _kept(before: Rendered | None, found: Mapping[str, Loaded], environment: str | None) -> set[str]:
    """Top folders of a former render that this one leaves alone: other environments, when one is named, and the charts they need."""
    if before is None or environment is None:
        return set()
    return {path.partition("/")[0] for path in before.files} - set(found) - {_CHARTS}


def _chart_version(chart: str) -> str:
    from ruamel.yaml import YAML

    return str(YAML(typ="safe", pure=True).load((content("helm") / chart / "Chart.yaml").read_text())["version"])


def _path_in_repository(folder: Path) -> str:
    """Where a folder lies in the repository around it; its root when there is none."""
    absolute = folder.absolute()
    for parent in (absolute, *absolute.parents):
        if (parent / ".git").exists():
            relative = absolute.relative_to(parent).as_posix()
            return "" if relative == "." else relative
    return ""


def _inside(path: str) -> str:
    """A path in a repository, without what says nothing."""
    return "/".join(part for part in path.split("/") if part not in {"", "."})


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"
