"""`kivactl deploy --plan --rendered DIR`: exit codes, stdout, stderr; no cluster is anywhere."""

from __future__ import annotations

import json
import os
import re

import pytest
from cluster_specs import cluster, model
from helm.charts import binary

pytestmark = pytest.mark.charts

NOTE = "note: whether it fits and how pods are exchanged, only the cluster knows: kivactl deploy --plan\n"


@pytest.fixture
def site(tmp_path, monkeypatch, signing_key, kivactl):
    """A platform whose folder `deploy` has just been rendered; nothing answers where its kubeconfig says."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "helm").symlink_to(binary())
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    write(tmp_path, model("small"))
    (tmp_path / ".kiva" / "tokens").mkdir(parents=True)
    (tmp_path / ".kiva" / "tokens" / "signing.key").write_bytes(signing_key)
    assert kivactl("render", "deploy", "--style", "manifests").code == 0
    return tmp_path


def write(folder, *models, **values):
    spec = {"name": "kiva", "target": "kubernetes", "kubernetes": cluster(gateway={"replicas": 1}), "models": list(models), **values}
    (folder / "kiva.yaml").write_text(json.dumps(spec))


def plan(kivactl, *more):
    return kivactl("deploy", "--plan", "--rendered", "deploy", *more)


def test_nothing_then_a_change_then_another_model_then_none(site, kivactl):
    seen = plan(kivactl)
    assert (seen.code, seen.stdout, seen.stderr) == (0, "deploy kiva on kubernetes, against deploy/default: nothing to change.\n", "")

    write(site, model("small", max_length=4096))
    seen = plan(kivactl)
    assert (seen.code, seen.stderr) == (2, "")
    lines = seen.stdout.splitlines()
    assert lines[0] == "deploy kiva on kubernetes, against deploy/default:"
    assert "    ~ update engine small" in lines
    assert "        Deployment kiva-small containers.engine.command[8] (--max-model-len)  2048 -> 4096" in lines
    assert seen.stdout.endswith(f"{NOTE}{lines[-1]}\n")

    write(site, model("small"), model("other"))
    seen = plan(kivactl)
    assert seen.code == 2
    assert "    + create engine other" in seen.stdout.splitlines()
    assert "Deployment kiva-other  new" in re.sub(" {2,}", "  ", seen.stdout), seen.stdout

    assert kivactl("render", "deploy").code == 0
    write(site, model("small"))
    lines = plan(kivactl).stdout.splitlines()
    place = lines.index("    - delete release kiva-other")
    assert lines[place + 1].strip() == "'other' is not served any more"


def test_for_programs_it_is_the_plan_against_a_cluster(site, kivactl):
    seen = plan(kivactl, "-o", "json")
    assert (seen.code, json.loads(seen.stdout)["changes"]) == (0, [])
    write(site, model("small", replicas=2))
    seen = plan(kivactl, "-o", "json")
    data = json.loads(seen.stdout)
    assert (seen.code, set(data)) == (2, {"title", "changes", "notes", "basis"})
    engine = next(one for one in data["changes"] if one["subject"] == "engine small")
    assert engine["verb"] == "update"
    assert {"path": "Deployment kiva-small replicas", "before": "1", "after": "2"} in engine["differences"]


def test_without_keys_those_of_the_folder_count(site, kivactl):
    (site / ".kiva" / "tokens" / "signing.key").unlink()
    assert plan(kivactl).code == 0


def test_values_are_compared_where_the_folder_has_no_manifests(site, kivactl):
    assert kivactl("render", "deploy", "--style", "helmfile").code == 0
    write(site, model("small", replicas=2))
    seen = plan(kivactl)
    assert seen.code == 2
    assert "Values kiva-small replicas  1 -> 2" in re.sub(" {2,}", "  ", seen.stdout), seen.stdout
    assert "note: deploy holds no manifests, so the values of the charts are compared" in seen.stdout


def test_each_environment_is_told_by_its_name(site, kivactl):
    (site / "kiva.prod.yaml").write_text("kubernetes: {namespace: kiva-prod}\n")
    (site / "kiva.test.yaml").write_text("kubernetes: {namespace: kiva-test}\n")
    assert kivactl("render", "deploy").code == 0
    write(site, model("small", replicas=2))
    lines = plan(kivactl).stdout.splitlines()
    assert lines[0] == "deploy kiva on kubernetes, against deploy:"
    assert {"    ~ update prod: engine small", "    ~ update test: engine small"} <= set(lines)
    lines = plan(kivactl, "--env", "prod").stdout.splitlines()
    assert lines[0] == "deploy kiva on kubernetes, against deploy/prod:"
    assert "    ~ update engine small" in lines


def test_what_changes_no_object_is_a_note(site, kivactl):
    with (site / "kiva.yaml").open("a") as file:
        file.write("\n# a remark\n")
    index = json.loads((site / "deploy" / "render.json").read_text())
    index["options"]["kubernetes"] = "1.36.0"
    (site / "deploy" / "render.json").write_text(json.dumps(index))
    seen = plan(kivactl)
    assert seen.code == 0
    assert "note: no object would change, but 1 file is older than the spec or this kivactl: kivactl render deploy\n" in seen.stdout


def spoil_edited(folder):
    path = folder / "default" / "manifests" / "kiva-small" / "deployment-kiva-small.yaml"
    path.write_text(path.read_text().replace("replicas: 1", "replicas: 7"))


def spoil_missing(folder):
    (folder / "default" / "values" / "kiva-small.yaml").unlink()


def spoil_empty(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def spoil_foreign(folder):
    spoil_empty(folder)
    (folder / "notes.txt").write_text("mine")


def spoil_index(folder):
    (folder / "render.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "error", "details", "hint"),
    [
        (
            spoil_edited,
            "deploy is not as kivactl rendered it: somebody changed 1 of its files",
            "  default/manifests/kiva-small/deployment-kiva-small.yaml\n",
            "git checkout deploy, or take the spec's state over: kivactl render deploy",
        ),
        (
            spoil_missing,
            "deploy is not as kivactl rendered it: somebody changed 1 of its files",
            "  default/values/kiva-small.yaml\n",
            "git checkout deploy, or take the spec's state over: kivactl render deploy",
        ),
        (spoil_empty, "nothing has been rendered into deploy: it holds no render.json", "", "kivactl render deploy"),
        (spoil_foreign, "deploy holds something that kivactl did not render: notes.txt", "", "kivactl render AN-EMPTY-FOLDER"),
        (spoil_index, "deploy/render.json is damaged", "", "git checkout deploy/render.json, or render into an empty folder"),
    ],
)
def test_a_folder_that_cannot_be_compared_never_ends_as_a_change(site, kivactl, spoil, error, details, hint):
    spoil(site / "deploy")
    seen = plan(kivactl)
    assert (seen.code, seen.stdout, seen.stderr) == (3, "", f"error: {error}\n{details}hint: {hint}\n")


def test_a_folder_is_only_compared_with(site, kivactl):
    seen = kivactl("deploy", "--rendered", "deploy")
    assert (seen.code, seen.stdout) == (2, "")
    assert seen.stderr == (
        "error: --rendered only shows what would change; Argo CD, Flux or helmfile deploy a folder\nhint: kivactl deploy --plan --rendered deploy\n"
    )


def test_the_shell_completes_it(kivactl_process):
    seen = kivactl_process(environment={"_KIVACTL_COMPLETE": "complete_bash", "COMP_WORDS": "kivactl deploy --ren", "COMP_CWORD": "2"})
    assert seen.stdout.split() == ["--rendered"]
