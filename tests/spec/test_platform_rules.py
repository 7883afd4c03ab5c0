"""What the parts of a spec have to do with each other."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from kivactl.spec.gateway import Tenant
from kivactl.spec.platform import Platform

MODELS = [{"name": "v1", "source": "x"}, {"name": "v2", "source": "x"}]
ISSUER = {"issuer": "https://sso.example", "audience": "kiva", "jwks": "https://sso.example/keys"}


def platform(**values):
    return Platform.model_validate({"name": "kiva", "models": MODELS, **values})


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"aliases": [{"name": "chat", "models": {"v3": 1}}]}, "the alias 'chat' names the model 'v3', which is none of: v1, v2"),
        ({"aliases": [{"name": "v1", "models": {"v2": 1}}]}, "'v1' is a model already"),
        ({"aliases": [{"name": "chat", "models": {"v1": 0, "v2": 0}}]}, "at least one model must have a weight above 0"),
        ({"aliases": [{"name": "chat", "models": {"v1": -1}}]}, "greater than or equal to 0"),
        ({"gateway": {"tenants": [{"name": "t", "models": ["v3"]}]}}, "the tenant 't' names the model 'v3'"),
        ({"gateway": {"tenants": [{"name": "t", "per_model": {"v3": {}}}]}}, "the tenant 't' names the model 'v3'"),
        ({"gateway": {"tenants": [{"name": "kivactl:operator"}]}}, "must be 1 to 63 lower-case letters"),
        ({"gateway": {"tenants": [{"name": "t", "requests_per_minute": 0}]}}, "greater than or equal to 1"),
        ({"gateway": {"tenants": [{"name": "t", "monthly_budget": -1}]}}, "greater than or equal to 0"),
        ({"gateway": {"issuers": [{**ISSUER, "tenants": {"/x": "nobody"}}]}}, "gives '/x' the tenant 'nobody', which is none of: default"),
        ({"gateway": {"issuers": [ISSUER, ISSUER]}}, "two issuers have the same `issuer`"),
        ({"gateway": {"issuers": [{**ISSUER, "issuer": "https://user:secret@sso.example"}]}}, "must be a URL without user"),
        ({"gateway": {"wait": "20s", "request_timeout": "20s"}}, "`wait` must be shorter than `request_timeout`"),
        ({"gateway": {"port": 65535}}, "metrics need a port of their own"),
        ({"gateway": {"port": 4000, "metrics": {"port": 4000}}}, "metrics need a port of their own"),
        ({"usage": {"ledger": "postgresql://kiva:secret@db.example/usage"}}, "the password comes from"),
        ({"usage": {"ledger": "mysql://kiva@db.example/usage"}}, "must be sqlite or postgresql://"),
        ({"usage": {"currency": "euro"}}, "should match pattern"),
    ],
)
def test_what_does_not_fit_together_is_a_fault(values, fault):
    with pytest.raises(ValidationError, match="(?s)" + fault.replace("(", r"\(").replace("?", r"\?")):
        platform(**values)


def test_a_tenant_may_use_what_the_spec_says_in_its_order():
    spec = platform(aliases=[{"name": "chat", "models": {"v1": 1}}], gateway={"tenants": [{"name": "all"}, {"name": "some", "models": ["chat", "v1"]}]})
    every, some = spec.gateway.tenants
    assert spec.names_for(every) == ("v1", "v2", "chat")
    assert spec.names_for(some) == ("v1", "chat")


def test_limits_for_a_single_model_replace_the_others():
    tenant = Tenant.model_validate({"name": "t", "requests_per_minute": 60, "tokens_per_minute": 1000, "per_model": {"v1": {"requests_per_minute": 5}}})
    assert (tenant.limits_for("v1").requests_per_minute, tenant.limits_for("v1").tokens_per_minute) == (5, None)
    assert (tenant.limits_for("v2").requests_per_minute, tenant.limits_for("v2").tokens_per_minute) == (60, 1000)


def test_amounts_are_exact():
    spec = platform(models=[{"name": "m", "source": "x", "price": {"input": 0.1, "output": "0.3"}}])
    assert spec.models[0].price.input + spec.models[0].price.output == Decimal("0.4")


def test_metrics_stand_on_the_port_after_the_gateways():
    assert platform(gateway={"port": 4100}).gateway.metrics_port == 4101
    assert platform(gateway={"metrics": {"port": 9090}}).gateway.metrics_port == 9090
