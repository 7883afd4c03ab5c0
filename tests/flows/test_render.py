"""A rendered folder: the same bytes whoever renders it, nothing of anybody else's touched, and no secret in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_specs import cluster, model
from helm.charts import LAYERS, binary, render

from kivactl.errors import PreconditionError, SpecError, ToolError, UsageError
from kivactl.flows import rendered
from kivactl.flows.render import OLDEST_KUBERNETES, Style, Wishes, apply_render, plan_render
from kivactl.flows.rendered import INDEX
from kivactl.plan import Verb
from kivactl.spec.load import load
from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.stack.layout import Layout
from kivactl.targets.register import Entry, Register, write_register
from kivactl.tools.helm import Helm

pytestmark = pytest.mark.charts

GIT = Wishes(repository="https://git.example.org/kiva.git")
MANIFESTS = Wishes(style=Style.MANIFESTS)


def use_helm(version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a version of Helm be the one on PATH."""
    programs = folder / f"helm-{version}"
    programs.mkdir(exist_ok=True)
    (programs / "helm").unlink(missing_ok=True)
    (programs / "helm").symlink_to(binary("helm", version))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


_TEMPLATES: dict[tuple[str, ...], str] = {}


@pytest.fixture(autouse=True)
def _helm(tmp_path_factory, monkeypatch):
    """The newest Helm on PATH, asked once for the same."""
    use_helm(next(iter(LAYERS)), tmp_path_factory.mktemp("programs"), monkeypatch)
    template = Helm.template

    def remembered(self, release, chart, values, *, kubernetes=""):
        version = str(self.version)
        key = (version, self._namespace, release, str(chart), json.dumps(values), kubernetes)
        if key not in _TEMPLATES:
            _TEMPLATES[key] = template(self, release, chart, values, kubernetes=kubernetes)
        return _TEMPLATES[key]

    monkeypatch.setattr(Helm, "template", remembered)


def spec(**values: Any) -> dict[str, Any]:
    return {
        "name": "kiva",
        "target": "kubernetes",
        "kubernetes": cluster(gateway={"replicas": 1}),
        "models": [model("qwen-2.5", replicas=2), model("small")],
        **values,
    }


def write_site(folder: Path, signing_key: bytes, base: dict[str, Any] | None = None, **overlays: dict[str, Any]) -> Path:
    """A spec with its overlays and its keys; the path of the spec."""
    (folder / ".kiva" / "tokens").mkdir(parents=True, exist_ok=True)
    (folder / ".kiva" / "tokens" / "signing.key").write_bytes(signing_key)
    for old in folder.glob("kiva*.yaml"):
        old.unlink()
    for name, content in {"kiva.yaml": base or spec(), **{f"kiva.{name}.yaml": content for name, content in overlays.items()}}.items():
        (folder / name).write_text(json.dumps(content))
    return folder / "kiva.yaml"


@pytest.fixture
def site(tmp_path, signing_key) -> Path:
    """A spec without overlays."""
    folder = tmp_path / "site"
    folder.mkdir()
    return write_site(folder, signing_key)


def rendering(spec: Path, folder: Path, wishes: Wishes = MANIFESTS, environment: str | None = None, **options: Any):
    made = plan_render(spec, environment, folder, wishes, **options)
    apply_render(made)
    return made


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def tops(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_environment_has_a_folder(tmp_path, signing_key):
    path = write_site(tmp_path, signing_key, dev={"kubernetes": {"namespace": "kiva-dev"}}, prod={"kubernetes": {"context": "production"}})
    folder = tmp_path / "deploy"
    rendering(path, folder, GIT)
    assert tops(folder) == {"charts", "dev", "prod", INDEX}
    assert tops(folder / "prod") == {"argocd", "flux", "helmfile.yaml", "keys.json", "manifests", "release.json", "umbrella.yaml", "values"}
    assert {path.stem for path in (folder / "dev" / "values").iterdir()} == tops(folder / "dev" / "manifests") - {"namespace.yaml"}
    assert yaml.safe_load((folder / "dev" / "manifests" / "namespace.yaml").read_text())["metadata"]["name"] == "kiva-dev"
    assert yaml.safe_load((folder / "prod" / "helmfile.yaml").read_text())["helmDefaults"]["kubeContext"] == "production"


def test_a_second_run_changes_no_byte_and_writes_nothing(site, tmp_path):
    folder = tmp_path / "deploy"
    rendering(site, folder, GIT)
    before, stamps = tree(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = rendering(site, folder, Wishes())
    assert again.plan.empty
    assert tree(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps


def test_the_same_spec_gives_the_same_bytes_wherever_it_lies(site, tmp_path, signing_key):
    elsewhere = tmp_path / "another" / "place"
    elsewhere.mkdir(parents=True)
    rendering(site, tmp_path / "one", GIT)
    rendering(write_site(elsewhere, signing_key), tmp_path / "two", GIT)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert not [name for name, text in tree(tmp_path / "one").items() if str(tmp_path) in text]


def test_every_version_of_helm_gives_the_same_bytes(site, tmp_path, monkeypatch):
    trees = []
    for version in LAYERS:
        use_helm(version, tmp_path, monkeypatch)
        rendering(site, tmp_path / version, GIT)
        trees.append(tree(tmp_path / version))
    assert trees[0] == trees[1] == trees[2]


def test_the_manifests_are_what_helm_makes_of_the_values(site, tmp_path):
    rendering(site, tmp_path / "deploy")
    for release, chart in (("kiva-small", "kiva-engine"), ("kiva-gateway", "kiva-gateway"), ("kiva-monitoring", "kiva-monitoring")):
        values = yaml.safe_load((tmp_path / "deploy" / "default" / "values" / f"{release}.yaml").read_text())
        of_helm = render(chart, values, release, kube_version=OLDEST_KUBERNETES)
        of_ours = [yaml.safe_load(path.read_text()) for path in (tmp_path / "deploy" / "default" / "manifests" / release).iterdir()]

        def key(manifest):
            return manifest["kind"], manifest["metadata"]["name"]

        assert sorted(of_ours, key=key) == sorted(of_helm, key=key)


def test_no_secret_is_written(site, tmp_path, signing_key):
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    rendering(site, tmp_path / "deploy", GIT)
    number = load_pem_private_key(signing_key, None).private_numbers().private_value
    texts = tree(tmp_path / "deploy")
    secrets = ["PRIVATE KEY", str(number), f"{number:x}", '"d":', "kind: Secret\n"]
    assert [(name, secret) for name, text in texts.items() for secret in secrets if secret in text] == []
    assert json.loads(texts["default/keys.json"])["jwks"]["keys"][0]["kty"] == "EC"


def test_a_chart_that_makes_a_secret_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr(Helm, "template", lambda *_, **__: "kind: Secret\nmetadata: {name: token}\n")
    with pytest.raises(ToolError, match="makes the Secret token"):
        rendering(site, tmp_path / "deploy")
    assert not (tmp_path / "deploy").exists()


def test_revoked_tokens_stay_written_when_they_would_have_ended(site, tmp_path):
    from datetime import UTC, datetime

    rendering(site, tmp_path / "deploy")
    key = json.loads((tmp_path / "deploy" / "default" / "keys.json").read_text())["jwks"]["keys"][0]["kid"]
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    entries = [
        Entry(id=name, tenant="t", name="n", key=key, issued_at=long_ago, expires_at=long_ago, revoked_at=when)
        for name, when in (("b", long_ago), ("a", long_ago), ("c", None))
    ]
    layout = Layout(site.parent / ".kiva", tmp_path)
    write_register(layout, Register(tokens=tuple(entries)))
    made = rendering(site, tmp_path / "deploy")
    assert json.loads((tmp_path / "deploy" / "default" / "keys.json").read_text())["revoked"] == ["a", "b"]
    assert "default/manifests/kiva-gateway/configmap-kiva-gateway-revoked.yaml" in {change.subject for change in made.plan.changes}


@pytest.mark.parametrize(
    ("style", "there"),
    [
        (Style.MANIFESTS, {"manifests"}),
        (Style.HELMFILE, {"helmfile.yaml"}),
        (Style.ARGOCD, {"argocd", "umbrella.yaml"}),
        (Style.FLUX, {"flux", "umbrella.yaml"}),
    ],
)
def test_a_style_alone(site, tmp_path, style, there):
    wishes = Wishes(style=style, repository=GIT.repository if "umbrella.yaml" in there else None)
    rendering(site, tmp_path / "deploy", wishes)
    assert tops(tmp_path / "deploy" / "default") == {"values", "release.json", "keys.json", *there}


def test_charts_from_a_registry_are_not_copied(site, tmp_path):
    folder = tmp_path / "deploy"
    rendering(site, folder, GIT)
    made = rendering(site, folder, Wishes(charts="oci://registry.example.org/charts"))
    assert not (folder / "charts").exists()
    assert {change.subject.partition("/")[0] for change in made.plan.changes if change.verb is Verb.DELETE} == {"charts"}
    rendering(site, folder, Wishes(charts=""))
    assert tops(folder / "charts") == {"kiva-engine", "kiva-gateway", "kiva-monitoring"}
    assert not list((folder / "charts").glob("*/ci"))


def test_options_are_kept_in_the_folder(site, tmp_path):
    folder = tmp_path / "deploy"
    rendering(site, folder, Wishes(style=Style.HELMFILE, kubernetes="1.36.0", charts="oci://registry.example.org/charts"))
    again = plan_render(site, None, folder, Wishes())
    assert again.plan.empty
    other = plan_render(site, None, folder, Wishes(kubernetes="1.37.0"))
    assert {change.subject for change in other.plan.changes} >= {"default/release.json"}
    only_the_index = plan_render(site, None, folder, Wishes(revision="release"))
    assert [change.subject for change in only_the_index.plan.changes] == [INDEX]
    apply_render(only_the_index)
    assert plan_render(site, None, folder, Wishes()).plan.empty


def test_the_folder_is_found_in_its_repository(site, tmp_path):
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    folder = tmp_path / "repository" / "clusters" / "kiva"
    rendering(site, folder, GIT)
    application = yaml.safe_load((folder / "default" / "argocd" / "platform.yaml").read_text())
    assert application["spec"]["source"]["path"] == "clusters/kiva/default/argocd/releases"
    rendering(site, folder, Wishes(path="./elsewhere/"))
    application = yaml.safe_load((folder / "default" / "argocd" / "platform.yaml").read_text())
    assert application["spec"]["source"]["path"] == "elsewhere/default/argocd/releases"


def test_what_is_stale_is_found(tmp_path, signing_key):
    path = write_site(tmp_path, signing_key)
    folder = tmp_path / "deploy"
    rendering(path, folder)
    (folder / "default" / "values" / "kiva-small.yaml").write_text("edited: by hand\n")
    (folder / "default" / "release.json").unlink()
    changed = plan_render(path, None, folder, Wishes(), stored_keys=True).plan.changes
    assert {change.subject: change.verb for change in changed} == {"default/values/kiva-small.yaml": Verb.UPDATE, "default/release.json": Verb.CREATE}
    rendering(path, folder)
    write_site(tmp_path, signing_key, spec(models=[model("qwen-2.5", replicas=3)]))
    changed = {change.subject: change.verb for change in plan_render(path, None, folder, Wishes(), stored_keys=True).plan.changes}
    assert changed["default/values/kiva-small.yaml"] is Verb.DELETE
    assert changed["default/release.json"] is Verb.UPDATE
    rendering(path, folder)
    assert not (folder / "default" / "manifests" / "kiva-small").exists()


def test_a_check_needs_no_keys_where_the_folder_has_the_public_ones(site, tmp_path):
    folder = tmp_path / "deploy"
    rendering(site, folder)
    shutil.rmtree(site.parent / ".kiva")
    assert plan_render(site, None, folder, Wishes(), stored_keys=True).plan.empty
    with pytest.raises(PreconditionError) as refused:
        plan_render(site, None, folder, Wishes())
    assert refused.value.hint == "kivactl provision"
    (folder / "default" / "keys.json").write_text("{}")
    with pytest.raises(PreconditionError, match=r"keys\.json is damaged"):
        plan_render(site, None, folder, Wishes(), stored_keys=True)


def test_without_keys_the_next_command_is_said(tmp_path, signing_key):
    path = write_site(tmp_path, signing_key, prod={})
    shutil.rmtree(tmp_path / ".kiva")
    with pytest.raises(PreconditionError, match="no keys for the tokens of 'kiva'") as refused:
        plan_render(path, None, tmp_path / "deploy", MANIFESTS, stored_keys=True)
    assert refused.value.hint == "kivactl provision --env prod"
    assert not (tmp_path / "deploy").exists()


def test_one_environment_leaves_the_others_alone(tmp_path, signing_key):
    path = write_site(tmp_path, signing_key, dev={}, prod={})
    folder = tmp_path / "deploy"
    rendering(path, folder)
    write_site(tmp_path, signing_key, spec(models=[model("other")]), dev={}, prod={})
    made = rendering(path, folder, environment="prod")
    assert {change.subject.partition("/")[0] for change in made.plan.changes} == {"prod"}
    assert (folder / "dev" / "values" / "kiva-small.yaml").exists()
    assert not (folder / "prod" / "values" / "kiva-small.yaml").exists()
    assert not plan_render(path, None, folder, Wishes()).plan.empty
    rendering(path, folder)
    assert plan_render(path, None, folder, Wishes()).plan.empty


def test_an_environment_that_is_gone_goes(tmp_path, signing_key):
    path = write_site(tmp_path, signing_key, dev={}, prod={})
    folder = tmp_path / "deploy"
    rendering(path, folder)
    (folder / "dev" / "notes.md").write_text("mine")
    (tmp_path / "kiva.dev.yaml").unlink()
    rendering(path, folder)
    assert tree(folder / "dev") == {"notes.md": "mine"}, "what somebody else put there stays"


def test_environments_for_another_target_are_left_out(tmp_path, signing_key):
    path = write_site(tmp_path, signing_key, dev={"target": "local", "kubernetes": None}, prod={})
    made = rendering(path, tmp_path / "deploy")
    assert tops(tmp_path / "deploy") == {"charts", "prod", INDEX}
    assert made.plan.notes == ("kiva.yaml + kiva.dev.yaml is for the target local: nothing to render",)
    with pytest.raises(SpecError, match="no environment of this spec is for Kubernetes"):
        plan_render(path, "dev", tmp_path / "deploy", Wishes())


def test_a_folder_of_somebody_else_is_refused(site, tmp_path):
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / ".git").mkdir()
    (folder / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"holds something that kivactl did not render: README\.md"):
        plan_render(site, None, folder, MANIFESTS)
    (folder / "README.md").unlink()
    rendering(site, folder)
    (folder / "README.md").write_text("mine, later")
    assert plan_render(site, None, folder, Wishes()).plan.empty
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        plan_render(site, None, tmp_path / "file", MANIFESTS)


def test_a_file_of_somebody_else_is_not_overwritten(site, tmp_path, signing_key):
    folder = tmp_path / "deploy"
    rendering(site, folder)
    (folder / "default" / "values" / "kiva-new.yaml").write_text("mine")
    write_site(site.parent, signing_key, spec(models=[model("new")]))
    before = tree(folder)
    with pytest.raises(PreconditionError, match=r"kiva-new\.yaml is there and was not rendered by kivactl"):
        rendering(site, folder)
    assert tree(folder) == before


def test_nothing_is_written_through_a_link(site, tmp_path, signing_key):
    folder = tmp_path / "deploy"
    rendering(site, folder)
    (tmp_path / "outside").mkdir()
    shutil.rmtree(folder / "default" / "values")
    (folder / "default" / "values").symlink_to(tmp_path / "outside")
    with pytest.raises(PreconditionError, match="is a link"):
        rendering(site, folder)
    assert not tops(tmp_path / "outside")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 7, "options": {}, "files": {}}'])
def test_a_damaged_index_is_said(site, tmp_path, text):
    folder = tmp_path / "deploy"
    rendering(site, folder)
    (folder / INDEX).write_text(text)
    with pytest.raises(UsageError, match=r"render\.json is"):
        plan_render(site, None, folder, Wishes())


@pytest.mark.parametrize("writes", [1, 2, 5, 20])
def test_a_run_that_was_killed_is_gone_on_with(site, tmp_path, monkeypatch, writes, signing_key):
    folder = tmp_path / "deploy"
    rendering(site, folder)
    write_site(site.parent, signing_key, spec(models=[model("a"), model("b"), model("c")]))
    write, done = rendered._write, []

    def killed(path, text):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        write(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(rendered, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            rendering(site, folder)
    rendering(site, folder)
    rendering(site, tmp_path / "fresh")
    assert tree(folder) == tree(tmp_path / "fresh")


def test_the_digest_says_which_platform_it_is(site, tmp_path, signing_key):
    def digest_of(folder: str) -> dict[str, Any]:
        rendering(site, tmp_path / folder)
        return json.loads((tmp_path / folder / "default" / "release.json").read_text())

    one = digest_of("one")
    assert digest_of("again") == one
    assert one["spec"]["digest"] == load(site).digest
    assert one["models"]["small"]["version"] == yaml.safe_load((tmp_path / "one" / "default" / "values" / "kiva-small.yaml").read_text())["model"]["version"]
    assert set(one["charts"]) == {"kiva-engine", "kiva-gateway", "kiva-monitoring"}
    write_site(site.parent, signing_key, spec(models=[model("qwen-2.5", replicas=2), model("small", max_length=4096)]))
    other = digest_of("other")
    assert other["digest"] != one["digest"]
    assert other["models"]["small"]["version"] != one["models"]["small"]["version"]
    assert other["releases"]["kiva-monitoring"] == one["releases"]["kiva-monitoring"]


def test_argo_cd_and_flux_need_a_repository(site, tmp_path):
    with pytest.raises(UsageError, match="none is named") as refused:
        plan_render(site, None, tmp_path / "deploy", Wishes())
    assert "--repository" in refused.value.hint
    with pytest.raises(UsageError, match="no registry of charts"):
        plan_render(site, None, tmp_path / "deploy", Wishes(style=Style.HELMFILE, charts="https://charts.example.org"))


def test_values_that_a_chart_refuses_are_said(site, tmp_path, monkeypatch):
    monkeypatch.setattr("kivactl.flows.render.releases_for", lambda *_, **__: (ChartRelease("kiva-gateway", "kiva-gateway", "kiva", {"replicas": "two"}, 0),))
    with pytest.raises(ToolError) as refused:
        plan_render(site, None, tmp_path / "deploy", MANIFESTS)
    assert any("replicas" in line for line in refused.value.details)


def test_what_helm_prints_and_nobody_understands_is_said(site, tmp_path, monkeypatch):
    monkeypatch.setattr(Helm, "template", lambda *_, **__: "a: [\n")
    with pytest.raises(ToolError, match="cannot be rendered"):
        plan_render(site, None, tmp_path / "deploy", MANIFESTS)
