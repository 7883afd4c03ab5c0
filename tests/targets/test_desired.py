"""From what is recorded and what should be to what has to change."""

from pathlib import Path

import pytest

from kivactl.plan import Verb
from kivactl.spec.gateway import Gateway
from kivactl.spec.platform import Model, Platform
from kivactl.stack.engine import GIB, Share
from kivactl.stack.layout import Layout
from kivactl.targets.desired import Weights, changes_between, definition, desired_for, desired_from, file_hashes
from kivactl.targets.release import Release

LAYOUT = Layout(Path("/srv/kiva"), Path("/srv/cache"))


def desired(replicas=2, max_length=512, port=4000, identity="w1", models=("m",)):
    platform = Platform(
        name="kiva",
        models=tuple(Model(name=name, source="x", replicas=replicas, max_length=max_length) for name in models),
        gateway=Gateway(port=port),
    )
    return desired_for(
        platform,
        LAYOUT,
        weights={name: Weights(Path("/w"), identity, 300) for name in models},
        shares={name: [Share((index,), GIB) for index in range(replicas)] for name in models},
        jwks={"keys": []},
        python=Path("/py"),
        envoy=Path("/envoy"),
        gateway_workers=1,
    )


def deployed(what):
    return Release(
        platform="kiva",
        spec_digest="x",
        endpoint=what.endpoint,
        processes={name: definition(process) for name, process in what.processes.items()},
        replicas=what.replicas,
        gateway=file_hashes(what),
    )


def changes(release, alive, what):
    return [(change.verb, change.subject) for change in changes_between(release, frozenset(alive), what)]


def test_on_an_empty_machine_everything_is_made():
    assert changes(Release(), [], desired()) == [(Verb.CREATE, "gateway"), (Verb.CREATE, "meter"), (Verb.CREATE, "engine m-0"), (Verb.CREATE, "engine m-1")]


def test_nothing_changed_is_nothing_to_do():
    assert changes(deployed(desired()), ["gateway", "meter", "m-0", "m-1"], desired()) == []


def test_what_does_not_run_is_started():
    assert changes(deployed(desired()), ["gateway", "meter", "m-1"], desired()) == [(Verb.START, "engine m-0")]


def test_a_changed_option_replaces_every_replica_and_names_the_option():
    found = changes_between(deployed(desired()), frozenset(["gateway", "meter", "m-0", "m-1"]), desired(max_length=1024))
    assert [(change.verb, change.subject) for change in found] == [(Verb.REPLACE, "engine m-0"), (Verb.REPLACE, "engine m-1")]
    assert [(difference.path, difference.before, difference.after) for difference in found[0].differences] == [("--max-model-len", "512", "1024")]


def test_two_replicas_take_turns_without_an_outage_and_one_cannot():
    two = changes_between(deployed(desired()), frozenset(["gateway", "meter", "m-0", "m-1"]), desired(max_length=1024))
    one = changes_between(deployed(desired(1)), frozenset(["gateway", "meter", "m-0"]), desired(1, max_length=1024))
    assert {change.disruption for change in two} == {""}
    assert "one replica" in one[0].disruption


def test_other_weights_are_a_change():
    found = changes_between(deployed(desired()), frozenset(["gateway", "meter", "m-0", "m-1"]), desired(identity="w2"))
    assert [difference.path for difference in found[0].differences] == ["KIVA_MODEL_IDENTITY"]


def test_a_replica_too_many_is_removed():
    assert (Verb.DELETE, "engine m-1") in changes(deployed(desired()), ["gateway", "meter", "m-0", "m-1"], desired(1))


def test_a_new_port_updates_the_gateway_without_restarting_it():
    found = changes_between(deployed(desired()), frozenset(["gateway", "meter", "m-0", "m-1"]), desired(port=4001))
    assert [(change.verb, change.subject) for change in found] == [(Verb.UPDATE, "gateway")]


def test_what_was_recorded_can_be_desired_again():
    what = desired()
    again = desired_from(deployed(what))
    assert again.processes == what.processes
    assert again.replicas == what.replicas


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_replica_has_its_own_socket(count):
    sockets = {process.argv[process.argv.index("--uds") + 1] for name, process in desired(count).processes.items() if name not in {"gateway", "meter"}}
    assert len(sockets) == count
