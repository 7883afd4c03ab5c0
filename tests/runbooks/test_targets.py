"""Which procedures work on which target: the others are refused before anything runs, with every part of them that does not."""

from __future__ import annotations

import json

import pytest
from cluster_specs import cluster, model
from own_runbooks import GOOD, faults_in, spec, written

from kivactl import root
from kivactl.errors import SpecError, UsageError
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import ANYWHERE, CLUSTER, MACHINE
from kivactl.runbooks.binding import bind, bind_file
from kivactl.spec.load import load

SHIPPED = {path.stem for path in root.content("runbooks").glob("*.yaml")}
IN_CLUSTER = {
    "backup",
    "backup-verification",
    "certificate-renewal",
    "disk-full",
    "emergency-stop",
    "engine-out-of-memory",
    "failover-gateway",
    "failover-hung",
    "failover-killed",
    "gpu-fault",
    "handover-check",
    "key-rotation",
    "model-rollback",
    "model-rollout",
    "node-maintenance",
    "restart",
    "restore",
    "restore-drill",
    "scale",
    "start",
    "status-check",
    "stop",
    "token-revocation",
}


def on_cluster(folder, **more):
    content = {"name": "kiva", "target": "kubernetes", "kubernetes": cluster(), "models": [model("qwen"), model("small")], **more}
    (folder / "kiva.yaml").write_text(json.dumps(content))
    return load(folder / "kiva.yaml")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_runbook_works_in_a_cluster_or_is_refused_whole(tmp_path, name):
    loaded = on_cluster(tmp_path, aliases=[{"name": "chat", "models": {"qwen": 100, "small": 0}}])
    if name in IN_CLUSTER:
        bound = bind(name, loaded)
        assert bound.steps
        return
    with pytest.raises(SpecError) as caught:
        bind(name, loaded, {})
    error = caught.value
    assert error.message == f"the runbook '{name}' works on one machine only, and this platform runs elsewhere"
    assert error.hint == "kivactl runbook list"
    assert error.details
    assert all(f"{name}.yaml:" in line and line.endswith("' works on one machine only") for line in error.details)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_runbook_works_on_one_machine(tmp_path, name):
    assert bind(name, spec(tmp_path)).steps


def test_the_matrix_says_something_of_every_runbook():
    assert IN_CLUSTER < SHIPPED


def test_targets_are_declared():
    assert {one.targets for one in (*ACTIONS.values(), *PROBES.values())} == {MACHINE, CLUSTER, ANYWHERE}
    assert ACTIONS["replica.take-out"].targets == MACHINE
    assert PROBES["cluster.drift"].targets == CLUSTER


def test_all_parts_that_do_not_work_are_told_at_once_with_file_and_line(tmp_path):
    loaded = on_cluster(tmp_path)
    path = written(
        tmp_path,
        GOOD
        + """
  - name: two
    title: {en: Two, de: Zwei}
    action: replica.take-out
    undo: {action: replica.bring-back}
    check: {title: {en: Ok, de: Gut}, probe: memory.available, tolerance: {at_least: 1GiB}}
""",
    )
    assert faults_in(path, loaded).splitlines() == [
        "greet.yaml:14: steps[1].action: the action 'replica.take-out' works on one machine only",
        "greet.yaml:15: steps[1].undo.action: the action 'replica.bring-back' works on one machine only",
        "greet.yaml:16: steps[1].check.probe: the probe 'memory.available' works on one machine only",
    ]
    assert faults_in(path, spec(tmp_path)) == ""


def test_other_faults_are_told_with_them(tmp_path):
    path = written(tmp_path, GOOD.replace("platform.answer", "replica.take-out").replace("{prompt: Hello}", "{promt: x}"))
    with pytest.raises(SpecError) as caught:
        bind_file(path, on_cluster(tmp_path))
    details = "\n".join(caught.value.details)
    assert "works on one machine only" in details
    assert "unknown key 'promt'" in details
    assert caught.value.hint == f"correct it, then: kivactl runbook check {path}"


DRIFT = """
steady_state:
  after:
    - {title: {en: No drift, de: Keine Abweichung}, probe: cluster.drift, tolerance: {empty: true}}
"""


def test_what_only_a_cluster_has_is_refused_on_one_machine(tmp_path):
    path = written(tmp_path, GOOD + DRIFT)
    with pytest.raises(SpecError, match="works in a cluster only"):
        bind_file(path, spec(tmp_path))
    assert bind_file(path, on_cluster(tmp_path)).after


def test_parts_for_one_target_count_there_only(tmp_path):
    text = (
        GOOD
        + "  - {name: two, title: {en: Two, de: Zwei}, action: disk.reserve, params: {size: 1GiB}, only_on: local}\n"
        + DRIFT.replace("{title: {en: No", "{only_on: kubernetes, title: {en: No")
    )
    path = written(tmp_path, text)
    here, there, unknown = bind_file(path, spec(tmp_path)), bind_file(path, on_cluster(tmp_path)), bind_file(path)
    assert ([step.name for step in here.steps], len(here.after)) == (["hello", "two"], 0)
    assert ([step.name for step in there.steps], len(there.after)) == (["hello"], 1)
    assert ([step.name for step in unknown.steps], len(unknown.after)) == (["hello", "two"], 1)


def test_steps_for_a_target_each_may_have_one_name_for_what_they_hand_on(tmp_path):
    note = "  - {{name: note, title: {{en: N, de: N}}, action: {}, only_on: {}}}\n"
    text = GOOD.replace("steps:\n", "steps:\n" + note.format("model.note", "local") + note.format("backup.rehearse", "kubernetes"))
    assert faults_in(written(tmp_path, text.replace("{prompt: Hello}", "{max_tokens: '${note.replicas}'}")), spec(tmp_path)) == ""
    path = written(tmp_path, text.replace("{prompt: Hello}", "{prompt: '${note.started}'}"))
    assert faults_in(path, on_cluster(tmp_path)) == ""
    assert [step.name for step in bind_file(path).steps] == ["note", "note", "hello"]
    for one in ("local", "kubernetes"):
        twice = text.replace("only_on: local", f"only_on: {one}").replace("only_on: kubernetes", f"only_on: {one}")
        assert "'note' is the name of an earlier step already" in faults_in(written(tmp_path, twice))
    assert "'note' is the name of an earlier step already" in faults_in(written(tmp_path, text.replace(", only_on: local", "")))


def test_what_is_no_target(tmp_path):
    path = written(tmp_path, GOOD.replace("timeout: 30s", "only_on: moon"))
    assert "steps[0].only_on" in faults_in(path, spec(tmp_path))


def test_a_result_of_a_step_for_another_target_is_missing(tmp_path):
    text = GOOD.replace("{prompt: Hello}", "{max_tokens: '${note.replicas}'}").replace(
        "steps:\n", "steps:\n  - {name: note, title: {en: N, de: N}, action: model.note, only_on: local}\n"
    )
    path = written(tmp_path, text)
    assert faults_in(path, spec(tmp_path)) == ""
    assert "there is no step 'note'" in faults_in(path, on_cluster(tmp_path))


def test_pods_are_the_clusters_to_know(tmp_path):
    bound = bind("restart", on_cluster(tmp_path), {"replica": "kiva-qwen-6d4-x7k2p"})
    assert bound.steps[0].do.params.replica == "kiva-qwen-6d4-x7k2p"
    with pytest.raises(UsageError):
        bind("restart", on_cluster(tmp_path), {"model": "nobody"})


def test_replicas_that_come_and_go_by_load_are_not_scaled_by_hand(tmp_path):
    scaled = model("qwen", kubernetes={"autoscale": {"min": 1, "max": 4}})
    loaded = on_cluster(tmp_path, models=[scaled, model("small")])
    with pytest.raises(SpecError) as caught:
        bind("scale", loaded, {"model": "qwen", "replicas": 2})
    assert "the replicas of 'qwen' come and go by load, 1 to 4 of them" in "\n".join(caught.value.details)
    assert bind("scale", loaded, {"model": "small", "replicas": 2}).steps
