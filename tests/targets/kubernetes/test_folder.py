"""Releases of a rendered folder compared with those of a spec, whatever the objects: nothing is nothing, no change is lost, no secret is shown."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kivactl.stack.kubernetes.releases import ChartRelease
from kivactl.targets.kubernetes.course import Act
from kivactl.targets.kubernetes.folder import FolderRelease, course_between
from kivactl.targets.kubernetes.plan import plan_of

NAMES = st.sampled_from(["a", "b", "c"])
FIELDS = st.dictionaries(st.sampled_from(["replicas", "paused", "text"]), st.integers(1, 3) | st.sampled_from(["x", "y"]), min_size=1)
OBJECTS = st.dictionaries(st.tuples(st.sampled_from(["Deployment", "Service"]), NAMES), FIELDS, max_size=4)
LONG = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8)
RELEASES = st.dictionaries(NAMES, OBJECTS, max_size=3)


def releases(groups, *, whole=True):
    return {
        name: FolderRelease(
            ChartRelease(name, "kiva-engine", "", {f"{kind} {inner}": spec for (kind, inner), spec in group.items()}, 0, name),
            "\n---\n".join(json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"name": inner}, "spec": spec}) for (kind, inner), spec in group.items())
            if whole
            else None,
        )
        for name, group in groups.items()
    }


def plan(before, after, **how):
    return plan_of(course_between(releases(before, **how), releases(after, **how)), "x")


@given(groups=RELEASES, whole=st.booleans())
def test_the_same_is_no_change(groups, whole):
    found = plan(groups, groups, whole=whole)
    assert found.empty


@given(before=RELEASES, after=RELEASES, whole=st.booleans())
def test_every_change_is_told_and_nothing_else(before, after, whole):
    found = {change.subject: change for change in plan(before, after, whole=whole).changes}
    created = {f"engine {name}" for name in after if name not in before}
    updated = {f"engine {name}" for name in after if name in before and before[name] != after[name]}
    deleted = {f"release {name}" for name in before if name not in after}
    assert {subject: change.verb for subject, change in found.items()} == (
        dict.fromkeys(created, "create") | dict.fromkeys(updated, "update") | dict.fromkeys(deleted, "delete")
    )
    if whole:
        for name in (name for name in after if f"engine {name}" in updated):
            told = {tuple(one.path.split(" ")[:2]) for one in found[f"engine {name}"].differences}
            old, new = before[name], after[name]
            assert told == {key for key in {**old, **new} if old.get(key) != new.get(key)}


@given(before=RELEASES, after=RELEASES)
def test_back_is_as_many_fields_as_forth(before, after):
    forth, back = plan(before, after), plan(after, before)
    assert sum(change.verb == "update" for change in forth.changes) == sum(change.verb == "update" for change in back.changes)
    assert forth.empty == back.empty


@given(old=LONG, new=LONG)
def test_values_of_secrets_are_never_shown(old, new):
    def holding(value):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": value}}
        return {"a": FolderRelease(ChartRelease("a", "kiva-gateway", "", {}, 1), json.dumps(secret))}

    found = course_between(holding(f"<{old}>"), holding(f"<{new}>"))
    step = found.steps[0]
    assert step.act is (Act.KEEP if old == new else Act.UPGRADE)
    assert f"<{old}>" not in repr(step.differences)
    assert f"<{new}>" not in repr(step.differences)
