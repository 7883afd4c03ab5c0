"""What `kivactl render` prints: exit codes, stdout, stderr."""

from __future__ import annotations

import json
import os

import pytest
from cluster_specs import cluster, model
from helm.charts import binary

pytestmark = pytest.mark.charts


@pytest.fixture
def site(tmp_path, monkeypatch, signing_key):
    """A spec for a cluster with one overlay, and its keys, where the command runs."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "helm").symlink_to(binary())
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    spec = {"name": "kiva", "target": "kubernetes", "kubernetes": cluster(gateway={"replicas": 1}), "models": [model("small")]}
    (tmp_path / "kiva.yaml").write_text(json.dumps(spec))
    (tmp_path / "kiva.prod.yaml").write_text("kubernetes: {namespace: kiva-prod}\n")
    (tmp_path / ".kiva" / "tokens").mkdir(parents=True)
    (tmp_path / ".kiva" / "tokens" / "signing.key").write_bytes(signing_key)
    return tmp_path


def test_render_check_change_check(site, kivactl):
    seen = kivactl("render", "deploy", "--style", "helmfile")
    digest = json.loads((site / "deploy" / "prod" / "release.json").read_text())["digest"]
    files = len([path for path in (site / "deploy").rglob("*") if path.is_file()]) - 1
    assert (seen.code, seen.stdout, seen.stderr) == (0, f"prod: {digest[:12]}\ndeploy: {files} files, {files} written\n", "")

    seen = kivactl("render", "deploy", "--check")
    assert (seen.code, seen.stdout, seen.stderr) == (0, "render into deploy: nothing to change.\n", "")

    (site / "deploy" / "prod" / "helmfile.yaml").write_text("edited: by hand\n")
    seen = kivactl("render", "deploy", "--check")
    assert (seen.code, seen.stderr) == (2, "")
    assert seen.stdout == "render into deploy:\n    ~ update prod/helmfile.yaml\n1 to update\n"
    assert (site / "deploy" / "prod" / "helmfile.yaml").read_text() == "edited: by hand\n"

    seen = kivactl("render", "deploy")
    assert seen.stdout.endswith(f"deploy: {files} files, 1 changed\n")


def test_for_programs(site, kivactl):
    seen = kivactl("render", "deploy", "--style", "manifests", "-o", "json")
    data = json.loads(seen.stdout)
    assert (seen.code, seen.stderr) == (0, "")
    assert set(data) == {"folder", "environments", "written", "changed", "removed", "notes"}
    assert data["environments"] == {"prod": json.loads((site / "deploy" / "prod" / "release.json").read_text())["digest"]}
    assert "prod/values/kiva-small.yaml" in data["written"]
    (site / "kiva.prod.yaml").write_text("kubernetes: {namespace: kiva-prod}\nservice_levels: {ttft_p95: 3s}\n")
    seen = kivactl("render", "deploy", "--check", "-o", "json")
    assert seen.code == 2
    changed = {change["subject"]: change["verb"] for change in json.loads(seen.stdout)["changes"]}
    assert changed["prod/values/kiva-monitoring.yaml"] == "update"


def test_an_environment_for_another_target_is_talked_of(site, kivactl):
    (site / "kiva.dev.yaml").write_text("target: local\nkubernetes: null\n")
    seen = kivactl("render", "deploy", "--style", "manifests")
    assert (seen.code, seen.stderr) == (0, "kiva.yaml + kiva.dev.yaml is for the target local: nothing to render\n")


@pytest.mark.parametrize(
    ("argv", "code", "error", "hint"),
    [
        (
            ("render", "deploy"),
            2,
            "Argo CD and Flux read a Git repository, and none is named",
            "kivactl render deploy --repository https://git.example.org/kiva.git, or --style manifests or helmfile",
        ),
        (
            ("render", ".", "--style", "helmfile"),
            2,
            ". holds something that kivactl did not render: .kiva, kiva.prod.yaml, kiva.yaml",
            "kivactl render AN-EMPTY-FOLDER",
        ),
        (("render",), 2, "Missing argument 'DIR'", "kivactl render --help"),
    ],
)
def test_refusals(site, kivactl, argv, code, error, hint):
    seen = kivactl(*argv)
    assert (seen.code, seen.stdout, seen.stderr) == (code, "", f"error: {error}\nhint: {hint}\n")


def test_without_keys_the_next_command_is_said(site, kivactl):
    (site / ".kiva" / "tokens" / "signing.key").unlink()
    seen = kivactl("render", "deploy", "--style", "helmfile")
    assert (seen.code, seen.stdout) == (3, "")
    assert seen.stderr == f"error: there are no keys for the tokens of 'kiva': no {site}/.kiva/tokens/signing.key\nhint: kivactl provision --env prod\n"


def test_without_helm_it_is_said_how_to_get_it(site, kivactl, monkeypatch):
    monkeypatch.setenv("PATH", str(site))
    seen = kivactl("render", "deploy", "--style", "helmfile")
    assert (seen.code, seen.stdout) == (3, "")
    assert seen.stderr.startswith("error: the program 'helm' is not on PATH\nhint: install Helm 3.17 or newer")


def test_the_shell_completes_styles(completed):
    seen = completed("kivactl render deploy --style ")
    assert set(seen.stdout.split()) == {"argocd", "flux", "helmfile", "manifests", "all"}
