"""What one machine's gateway is given, to the byte: reviewed in diffs when it changes."""

import json
from pathlib import Path

from gateway_specs import JWKS, everything

from kivactl.stack.engine import GIB, Share
from kivactl.stack.gateway.files import endpoints_file
from kivactl.stack.layout import Layout
from kivactl.targets.desired import Weights, desired_for, endpoints

GOLDEN = Path(__file__).with_name("local_configuration.json")


def local_configuration() -> str:
    """Every file of the gateway and its command line, in the order they are written."""
    spec, layout = everything(), Layout(Path("/srv/kiva"), Path("/cache"))
    desired = desired_for(
        spec,
        layout,
        weights={model.name: Weights(Path("/w"), "w", 10) for model in spec.models},
        shares={model.name: [Share((0,), GIB)] * model.replicas for model in spec.models},
        jwks=JWKS,
        python=Path("/py"),
        envoy=Path("/envoy"),
        gateway_workers=2,
    )
    replicas = {
        endpoints_file(layout.gateway, model): endpoints(model, layout, names, frozenset(names[1:]), waiting=model != "embed")
        for model, names in desired.replicas.items()
    }
    content = {str(path): value for path, value in {**replicas, **desired.first, **desired.files}.items()}
    return json.dumps({"command": desired.processes["gateway"].argv, **content}, indent=1) + "\n"


def test_the_configuration_of_one_machine_is_the_golden_one():
    assert local_configuration() == GOLDEN.read_text()
