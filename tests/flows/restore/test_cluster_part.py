"""What a backup of a platform in a cluster has besides the operator's files: read strictly, whatever lies there."""

from __future__ import annotations

import json

import pytest
from cluster_specs import model, platform_on_cluster
from hypothesis import given
from hypothesis import strategies as st

from kivactl.flows.restore.cluster import faults_of_cluster, is_of_cluster, record_in, starting_s
from kivactl.flows.restore.manifest import File, Keys, Manifest
from kivactl.targets.kubernetes.record import Deploy, Record, format_record

RELEASE = {"release": "kiva-qwen", "namespace": "kiva", "chart": "kiva-engine-0.1.0", "revision": 1, "status": "deployed", "values": {"platform": "kiva"}}
RECORD = format_record(Record("kiva", deploys=(Deploy(1, "2026-11-29T12:00:00+00:00"),), ready_s={"kiva-qwen": 40.0, "kiva-small": 90.0, "kiva-gateway": 3.0}))


def manifest_of(*names):
    files = dict.fromkeys(names, File())
    made_at = "2026-11-29T12:00:00+00:00"
    return Manifest.model_validate(
        {"format": 1, "platform": "kiva", "made_at": made_at, "state": "/x", "spec_files": ["kiva.yaml"], "files": files, "keys": Keys(signing="k")}
    )


def faults(tree, record=RECORD, release=None, name="cluster/releases/kiva-qwen.json"):
    for path, text in (("cluster/record.json", record), (name, json.dumps(RELEASE) if release is None else release)):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    return list(faults_of_cluster(tree, manifest_of("cluster/record.json", name)))


def test_what_was_backed_up_is_good(tmp_path):
    assert faults(tmp_path) == []
    assert record_in(tmp_path, "kiva").last.number == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": None}, "does not have the values of a release"),
        ({"release": ""}, "does not have the values of a release"),
        ({"chart": 1}, "does not have the values of a release"),
        ({"values": {"platform": "other"}}, "is of the platform 'other'"),
        ({"chart": "redis-1.0.0"}, "is of the chart redis-1.0.0, which this version of kivactl does not have"),
    ],
)
def test_a_release_that_is_none(tmp_path, changes, said):
    assert faults(tmp_path, release=json.dumps({**RELEASE, **changes})) == [f"cluster/releases/kiva-qwen.json {said}"]


@pytest.mark.parametrize(
    ("record", "said"), [("[]", "is no record of deploys"), ("{", "is no record of deploys"), ('{"platform": "x"}', "is of the platform 'x'")]
)
def test_a_record_that_is_none(tmp_path, record, said):
    assert faults(tmp_path, record) == [f"cluster/record.json {said}"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["platform", "values", "chart", "release", "x"]), inner, max_size=4),
    max_leaves=8,
)


@given(record=JSON.map(json.dumps) | st.text(max_size=20), release=JSON.map(json.dumps) | st.text(max_size=20))
def test_whatever_lies_there_is_told_and_never_breaks_it(tmp_path_factory, record, release):
    tree = tmp_path_factory.mktemp("tree")
    for fault in faults(tree, record, release):
        assert fault.startswith("cluster/")
    record_in(tree, "kiva")


def test_a_backup_of_one_machine_has_no_part_of_a_cluster():
    assert not is_of_cluster(manifest_of("state/release.json"))
    assert is_of_cluster(manifest_of("cluster/record.json"))


def test_the_time_to_start_is_that_of_the_slowest_engine_and_then_the_gateway(tmp_path):
    faults(tmp_path)
    record = record_in(tmp_path, "kiva")
    assert starting_s(record, platform_on_cluster(model("qwen"), model("small"))) == 93.0
    assert starting_s(record, platform_on_cluster(model("qwen"))) == 43.0
    assert starting_s(record, platform_on_cluster(model("other"))) is None, "nobody knows"
    assert starting_s(Record("kiva", ready_s={"kiva-qwen": float("inf"), "kiva-gateway": 0.0}), platform_on_cluster(model("qwen"))) is None
    assert starting_s(Record("kiva", ready_s={"kiva-qwen": 0.0, "kiva-gateway": 0.0}), platform_on_cluster(model("qwen"))) == 0.0
