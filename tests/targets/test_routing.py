"""Shares that a rollout holds against the spec: read, laid over it, and put into the deployed routes without anything else."""

import json

import pytest
from gateway_specs import platform, platforms
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.stack.gateway.routes import routes_for
from kivactl.stack.layout import Layout
from kivactl.targets.routing import counts, in_order, read_shares, routes_with, shares_file, with_shares, write_shares

SPEC = platform("v1", "v2", "other", aliases={"chat": {"v1": 100}, "x.y": {"v1": 1, "v2": 1}})


def as_deployed(spec):
    return json.loads(json.dumps(routes_for(spec)))


def layout(tmp_path):
    return Layout(tmp_path, tmp_path)


def test_nothing_is_held_where_there_is_no_file(tmp_path):
    assert read_shares(layout(tmp_path)) == {}


def test_what_is_held_is_read_as_it_was_written_and_the_file_goes_with_the_last(tmp_path):
    write_shares(layout(tmp_path), {"chat": {"v1": 90, "v2": 10}})
    assert read_shares(layout(tmp_path)) == {"chat": {"v1": 90, "v2": 10}}
    assert shares_file(layout(tmp_path)).stat().st_mode & 0o777 == 0o600
    write_shares(layout(tmp_path), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[", "[]", '{"chat": 1}', '{"chat": {"v1": "x"}}', '{"chat": {"v1": -1}}', '{"chat": {"v1": true}}', "\x00"])
def test_a_damaged_file_is_told_with_what_to_do(tmp_path, text):
    shares_file(layout(tmp_path)).write_text(text)
    with pytest.raises(PreconditionError, match="unreadable") as caught:
        read_shares(layout(tmp_path))
    assert "kivactl deploy" in caught.value.hint


def test_held_shares_stand_in_the_place_of_the_specs_in_its_order():
    seen = with_shares(SPEC, {"chat": {"v2": 10, "v1": 90}, "gone": {"v1": 1}})
    assert list(seen.aliases[0].models.items()) == [("v1", 90), ("v2", 10)]
    assert seen.aliases[1] == SPEC.aliases[1]
    assert seen.models == SPEC.models


@pytest.mark.parametrize("held", [None, {}, {"v9": 1}, {"v1": 0}, {"v1": 1, "v9": 0}])
def test_shares_that_mean_nothing_do_not_count(held):
    assert not counts(held, {"v1", "v2"})
    assert with_shares(SPEC, {"chat": held} if held is not None else {}) == SPEC


def test_a_model_without_a_share_keeps_its_place_with_nothing():
    assert in_order({"v1": 100, "v2": 0}, {"v2": 100}) == {"v1": 0, "v2": 100}


def test_routes_with_other_shares_are_those_that_a_deploy_would_write():
    held = {"chat": {"v1": 90, "v2": 10}}
    assert routes_with(as_deployed(SPEC), SPEC, held, "chat") == as_deployed(with_shares(SPEC, held))


def test_what_else_the_spec_changed_is_not_published_by_the_way():
    deployed = as_deployed(SPEC)
    changed = platform("v1", "v2", "new", aliases={"chat": {"v1": 100}, "x.y": {"v1": 1, "v2": 1}}, request_timeout="61s")
    for alias, shares in (("chat", {"v1": 90, "v2": 10}), ("x.y", {"v1": 0, "v2": 5})):
        routes = routes_with(deployed, changed, {alias: shares}, alias)
        text = json.dumps(routes)
        assert "new" not in text
        assert '"61s"' not in text
        assert '"other"' in text
        wanted = as_deployed(with_shares(SPEC, {alias: shares}))
        clusters = [route["route"].get("weighted_clusters", route["route"].get("cluster")) for route in table(routes) if leads_from(route, alias)]
        expected = [route["route"].get("weighted_clusters", route["route"].get("cluster")) for route in table(wanted) if leads_from(route, alias)]
        assert clusters == expected


def test_an_alias_that_is_not_deployed_has_no_routes():
    assert routes_with(as_deployed(platform("v1", "v2")), SPEC, {"chat": {"v1": 9, "v2": 1}}, "chat") is None
    assert routes_with({"resources": []}, SPEC, {}, "chat") is None


@given(spec=platforms().filter(lambda spec: spec.aliases), data=st.data())
def test_of_any_spec_only_the_shares_of_the_alias_change(spec, data):
    alias = data.draw(st.sampled_from(spec.aliases))
    models = [model.name for model in spec.models]
    shares = data.draw(st.dictionaries(st.sampled_from(models), st.integers(0, 100), min_size=1).filter(lambda shares: sum(shares.values()) > 0))
    held = {alias.name: shares}
    routes = routes_with(as_deployed(spec), spec, held, alias.name)
    assert routes == as_deployed(with_shares(spec, held))
    assert routes_with(routes, spec, {}, alias.name) == as_deployed(spec)


def table(routes):
    return routes["resources"][0]["virtual_hosts"][0]["routes"]


def leads_from(route, alias):
    text = json.dumps(route["match"])
    return "route" in route and "x-kiva-version" not in text and (f'"{alias}"' in text or f"/models/{alias}".replace(".", "\\\\.") + "/" in text)
