"""Whether releases fit, in which way they are exchanged, and what is said of it beforehand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.targets.kubernetes.capacity import PODS, Budget, Capacity, Node, Pod, Quota, Taint, Toleration
from kivactl.targets.kubernetes.feasibility import Feasibility, Wanted, Way, feasibility_of, minutes

GIB = 2**30
GPU = "nvidia.com/gpu"
ROOM = {"cpu": 32_000, "memory": 256 * GIB, PODS: 110}


def node(name="gpu-1", gpus=2, **more):
    return Node(name, {**ROOM, GPU: gpus, **more.pop("allocatable", {})}, **more)


def wanted(label="smollm2", replicas=1, gpus=1, **more):
    requests = {"cpu": 4000, "memory": 16 * GIB, GPU: gpus, **more.pop("requests", {})}
    return Wanted(f"kiva-{label}", label, replicas, {name: amount for name, amount in requests.items() if amount}, **more)


def pod(label="smollm2", at="gpu-1", gpus=1, index=0, release=None, **more):
    requests = {"cpu": 4000, "memory": 16 * GIB, GPU: gpus, PODS: 1}
    return Pod(f"kiva-{label}-{index}", at, requests, f"kiva-{label}" if release is None else release, **more)


def decided(capacity, *releases, removed=()):
    result = feasibility_of(capacity, releases, removed)
    assert not result.faults
    return {one.release.removeprefix("kiva-"): one for one in result.decisions}


def fault(capacity, *releases):
    (sentence,) = feasibility_of(capacity, releases).faults
    return sentence


def test_with_a_free_gpu_nobody_notices():
    decision = decided(Capacity((node(),), (pod(),)), wanted())["smollm2"]
    assert (decision.way, decision.surge, decision.unavailable, decision.disruption) == (Way.ROLLING, 1, 0, "")


def test_without_a_free_gpu_the_outage_is_told_beforehand():
    decision = decided(Capacity((node(gpus=1),), (pod(),)), wanted(start_s=265, stop_s=15, measured=True))["smollm2"]
    assert decision.way is Way.RECREATE
    assert decision.disruption == "smollm2: about 4 min 40 s without answers: no free GPU for a second pod"


def test_an_outage_that_was_never_measured_is_told_by_its_limit():
    decision = decided(Capacity((node(gpus=1),), (pod(),)), wanted(start_s=600))["smollm2"]
    assert decision.disruption == "smollm2: up to 10 min without answers: no free GPU for a second pod"


def test_several_replicas_are_exchanged_one_by_one_without_a_free_gpu():
    capacity = Capacity((node(gpus=2),), (pod(index=0), pod(index=1)))
    decision = decided(capacity, wanted(replicas=2))["smollm2"]
    assert (decision.way, decision.surge, decision.unavailable) == (Way.ROLLING_WITHOUT_SURGE, 0, 1)
    assert decision.disruption == "smollm2: 1 of 2 replicas answer while they are exchanged one by one: no free GPU for a further pod"


@pytest.mark.parametrize(
    ("strategy", "gpus", "way"),
    [
        ("auto", 4, Way.ROLLING),
        ("rolling", 4, Way.ROLLING),
        ("rolling", 3, Way.ROLLING),
        ("rolling", 2, Way.ROLLING_WITHOUT_SURGE),
        ("recreate", 4, Way.RECREATE),
        ("blue-green", 4, Way.BLUE_GREEN),
    ],
)
def test_the_spec_may_choose_the_way(strategy, gpus, way):
    capacity = Capacity((node(gpus=gpus),), (pod(index=0), pod(index=1)))
    assert decided(capacity, wanted(replicas=2, strategy=strategy))["smollm2"].way is way


def test_an_outage_that_the_spec_asks_for_says_so():
    decision = decided(Capacity((node(),), (pod(),)), wanted(strategy="recreate", start_s=30, measured=True))["smollm2"]
    assert decision.disruption == "smollm2: about 30 s without answers: the spec asks for it"


def test_what_the_spec_asks_for_and_cannot_be_is_refused():
    two = Capacity((node(gpus=3),), (pod(index=0), pod(index=1)))
    assert fault(two, wanted(replicas=2, strategy="blue-green")) == ("'smollm2' cannot be exchanged blue-green: there is room for 1 of 2 further pods")
    one = Capacity((node(gpus=1),), (pod(),))
    assert fault(one, wanted(strategy="rolling")) == "'smollm2' cannot be exchanged pod by pod: no free GPU for a second pod"


@pytest.mark.parametrize(
    ("release", "nodes", "sentence"),
    [
        (wanted(gpus=4), (node(), node("gpu-2", 1)), "'smollm2' needs 4 nvidia.com/gpu on one node; the largest node has 2"),
        (wanted(gpus=1), (node(gpus=0),), "'smollm2' needs 1 nvidia.com/gpu on one node; no node has any"),
        (
            wanted(gpus=0, requests={"memory": 512 * GIB}),
            (node(),),
            "'smollm2' needs 512GiB of memory on one node; the largest node has 256GiB of memory",
        ),
        (wanted(requests={"cpu": 64_000}), (node(),), "'smollm2' needs 64 cpu on one node; the largest node has 32 cpu"),
        (wanted(selector={"kiva/pool": "gpu"}), (node(),), "'smollm2' finds no node: none has the label kiva/pool=gpu"),
        (
            wanted(),
            (node(taints=(Taint(GPU, "present"),)),),
            "'smollm2' finds no node: it does not tolerate nvidia.com/gpu=present:NoSchedule of gpu-1",
        ),
        (wanted(), (node(cordoned=True),), "'smollm2' finds no node: gpu-1 is cordoned"),
        (wanted(), (node(ready=False), node("gpu-2", cordoned=True)), "'smollm2' finds no node: gpu-1, gpu-2 are cordoned or not ready"),
        (
            wanted(requests={"memory": 200 * GIB}),
            (node(allocatable={"memory": 64 * GIB}), node("cpu-1", gpus=0)),
            "'smollm2' needs 1 nvidia.com/gpu, 200GiB of memory, 4 cpu on one node; no node has all of it",
        ),
        (wanted(), (), "the cluster has no nodes"),
    ],
)
def test_what_can_never_fit_is_refused_with_its_culprit(release, nodes, sentence):
    assert fault(Capacity(nodes), release) == sentence


def test_what_others_use_is_not_free():
    foreign = pod("other", release="", gpus=2)
    assert fault(Capacity((node(),), (foreign,)), wanted()) == "'smollm2' needs 1 nvidia.com/gpu on one node; 0 is free on gpu-1, the node with the most"


def test_pods_that_fit_one_by_one_and_not_together_are_refused_with_the_number():
    capacity = Capacity((node(gpus=3), node("gpu-2", 1)))
    assert fault(capacity, wanted(replicas=3, gpus=2)) == "'smollm2' needs 3 pods with 2 nvidia.com/gpu each; there is room for 1"


def test_a_toleration_opens_a_tainted_node():
    tainted = node(taints=(Taint(GPU, "present"), Taint("soft", effect="PreferNoSchedule")))
    assert decided(Capacity((tainted,)), wanted(tolerations=(Toleration(GPU),)))["smollm2"].way is Way.START


@pytest.mark.parametrize(
    ("toleration", "taint", "covered"),
    [
        (Toleration(), Taint("any", "thing"), True),
        (Toleration("a"), Taint("a", "x"), True),
        (Toleration("a", "y"), Taint("a", "x"), False),
        (Toleration("a", "x", "NoExecute"), Taint("a", "x"), False),
        (Toleration("b"), Taint("a"), False),
    ],
)
def test_what_a_toleration_covers(toleration, taint, covered):
    assert toleration.covers(taint) is covered


def test_a_quota_leaves_no_room_for_a_surge():
    quota = Quota("gpus", {f"requests.{GPU}": 1}, {f"requests.{GPU}": 1})
    decision = decided(Capacity((node(),), (pod(),), (quota,)), wanted(start_s=60, measured=True))["smollm2"]
    assert decision.way is Way.RECREATE
    assert decision.disruption == "smollm2: about 1 min without answers: the quota 'gpus' has no nvidia.com/gpu left for a second pod"


def test_a_quota_that_is_too_small_in_any_case_is_refused():
    quota = Quota("gpus", {f"requests.{GPU}": 1}, {})
    assert fault(Capacity((node(),), (), (quota,)), wanted(replicas=2)) == (
        "'smollm2' needs 2 nvidia.com/gpu in all; the quota 'gpus' allows 1 nvidia.com/gpu (requests.nvidia.com/gpu)"
    )


def test_a_quota_that_others_use_up_is_refused():
    quota = Quota("gpus", {f"requests.{GPU}": 4}, {f"requests.{GPU}": 3})
    assert fault(Capacity((node(gpus=8),), (), (quota,)), wanted(replicas=2)) == (
        "the quota 'gpus' does not suffice for 'smollm2': 2 x 1 nvidia.com/gpu is needed (requests.nvidia.com/gpu), 1 nvidia.com/gpu is left"
    )


def test_two_releases_share_one_free_gpu_one_after_the_other():
    capacity = Capacity((node(gpus=3),), (pod("a"), pod("b")))
    decisions = decided(capacity, wanted("a"), wanted("b"))
    assert [(one.way, one.wave) for one in decisions.values()] == [(Way.ROLLING, 0), (Way.ROLLING, 1)]


def test_a_new_release_does_not_take_the_room_for_a_surge():
    capacity = Capacity((node(gpus=2),), (pod("old"),))
    decisions = decided(capacity, wanted("new"), wanted("old"))
    assert {name: (one.way, one.wave) for name, one in decisions.items()} == {"old": (Way.ROLLING, 0), "new": (Way.START, 1)}


def test_with_enough_room_everything_goes_together():
    capacity = Capacity((node(gpus=4),), (pod("a"), pod("b")))
    assert {one.wave for one in decided(capacity, wanted("a"), wanted("b")).values()} == {0}


def test_what_is_unchanged_keeps_its_place_and_is_not_decided_on():
    capacity = Capacity((node(gpus=2),), (pod("a"), pod("b")))
    assert list(decided(capacity, wanted("a"), wanted("b", changed=False))) == ["a"]


def test_what_goes_goes_first_only_where_its_place_is_needed():
    full = Capacity((node(gpus=1),), (pod("old"),))
    result = feasibility_of(full, (wanted("new"),), ("kiva-old",))
    assert (result.removal_first, result.faults) == (True, ())
    assert result.notes == ("what goes, goes first, for its place is needed: 'kiva-old'",)
    wide = Capacity((node(gpus=2),), (pod("old"),))
    kept = Capacity((node(gpus=2),), (pod("old"), pod("kept")))
    unnoticed = feasibility_of(kept, (wanted("kept"),), ("kiva-old",))
    assert (unnoticed.removal_first, unnoticed.decisions[0].way) == (True, Way.ROLLING)
    assert not feasibility_of(wide, (wanted("new"),), ("kiva-old",)).removal_first


def test_more_replicas_need_room_for_those_only():
    capacity = Capacity((node(gpus=2),), (pod(),))
    decision = decided(capacity, wanted(replicas=2, same_pods=True))["smollm2"]
    assert (decision.way, decision.disruption) == (Way.SCALE, "")
    assert fault(Capacity((node(gpus=1),), (pod(),)), wanted(replicas=2, same_pods=True)) == (
        "'smollm2' needs 2 pods with 1 nvidia.com/gpu each; there is room for 1"
    )


def test_a_larger_pod_is_not_promised_the_place_of_a_smaller_one():
    capacity = Capacity((node(gpus=3), node("gpu-2", 1)), (pod(index=0), pod(at="gpu-2", index=1)))
    decision = decided(capacity, wanted(gpus=2, replicas=1))["smollm2"]
    assert decision.way is Way.ROLLING
    assert fault(capacity, wanted(gpus=2, replicas=2)) == "'smollm2' needs 2 pods with 2 nvidia.com/gpu each; there is room for 1"


def test_a_volume_for_one_node_keeps_the_surge_on_that_node():
    capacity = Capacity((node(gpus=1), node("gpu-2", 4)), (pod(),))
    assert decided(capacity, wanted())["smollm2"].way is Way.ROLLING
    assert decided(capacity, wanted(one_node=True))["smollm2"].way is Way.RECREATE


def test_a_replica_of_several_pods_needs_room_for_all_of_them():
    capacity = Capacity((node(gpus=8), node("gpu-2", 8)))
    assert decided(capacity, wanted(gpus=8, pods=2))["smollm2"].way is Way.START
    assert fault(capacity, wanted(gpus=8, pods=2, replicas=2)) == "'smollm2' needs 4 pods with 8 nvidia.com/gpu each; there is room for 2"


def test_a_disruption_budget_that_is_undercut_is_mentioned():
    labels = {"kiva/model": "smollm2"}
    capacity = Capacity((node(gpus=2),), (pod(index=0, labels=labels), pod(index=1, labels=labels)), budgets=(Budget("keep-two", labels, min_available=2),))
    result = feasibility_of(capacity, (wanted(replicas=2),))
    assert result.notes == ("the PodDisruptionBudget 'keep-two' wants 2 pods of smollm2 ready; meanwhile there are 1",)
    assert feasibility_of(replace(capacity, nodes=(node(gpus=3),)), (wanted(replicas=2),)).notes == ()


def test_without_a_look_at_the_nodes_nothing_is_refused_and_nothing_ended_first():
    result = feasibility_of(Capacity(None, (pod(),)), (wanted(), wanted("new")))
    assert [(one.way, one.surge, one.unavailable) for one in result.decisions] == [(Way.ROLLING, 1, 0), (Way.START, 1, 0)]
    assert result.notes == ("the cluster's nodes may not be read: whether everything fits shows when it starts",)
    assert feasibility_of(Capacity(None), ()) == Feasibility()


@pytest.mark.parametrize(("seconds", "text"), [(0, "1 s"), (50, "50 s"), (60, "1 min"), (280, "4 min 40 s"), (3600, "1 h"), (3900, "1 h 5 min")])
def test_times_are_written_for_people(seconds, text):
    assert minutes(seconds) == text


STRATEGIES = st.sampled_from(["auto", "auto", "rolling", "recreate"])


@st.composite
def clusters(draw):
    nodes = tuple(node(f"n{index}", draw(st.integers(0, 4))) for index in range(draw(st.integers(1, 3))))
    free = {one.name: one.allocatable[GPU] for one in nodes}
    releases, pods = [], []
    for label in "abc"[: draw(st.integers(1, 3))]:
        gpus = draw(st.integers(1, 2))
        running = draw(st.integers(0, 2))
        for index in range(running):
            places = [name for name, left in free.items() if left >= gpus]
            if places:
                at = draw(st.sampled_from(places))
                free[at] -= gpus
                pods.append(pod(label, at, gpus, index))
        releases.append(
            wanted(label, draw(st.integers(1, 3)), draw(st.integers(1, 2)), strategy=draw(st.sampled_from(["auto", "auto", "rolling", "recreate"])))
        )
    return Capacity(nodes, tuple(pods)), tuple(releases)


@given(clusters())
def test_what_is_decided_fits_in_the_end(case):
    capacity, releases = case
    result = feasibility_of(capacity, releases)
    if result.faults:
        assert not result.decisions
        return
    assert {one.release for one in result.decisions} == {one.release for one in releases}
    assert sum(one.replicas * one.requests[GPU] for one in releases) <= sum(one.allocatable[GPU] for one in capacity.nodes)


@given(clusters())
def test_an_outage_is_announced_exactly_where_a_release_may_be_without_pods(case):
    capacity, releases = case
    by_name = {one.release: one for one in releases}
    for decision in feasibility_of(capacity, releases).decisions:
        nobody = by_name[decision.release].replicas - decision.unavailable <= 0
        assert ("without answers" in decision.disruption) == (nobody and decision.way is not Way.START)


@given(clusters())
def test_more_free_gpus_never_make_it_worse(case):
    capacity, releases = case
    rank = [Way.START, Way.SCALE, Way.ROLLING, Way.ROLLING_WITHOUT_SURGE, Way.RECREATE]
    before = feasibility_of(capacity, releases)
    after = feasibility_of(replace(capacity, nodes=(*capacity.nodes, node("further", 64))), releases)
    assert not after.faults
    for decision in before.decisions:
        later = after.decision(decision.release)
        assert later is not None
        assert rank.index(later.way) <= rank.index(decision.way)
