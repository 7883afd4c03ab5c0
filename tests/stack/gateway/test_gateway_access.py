"""Who is let in: the rules that the filters get."""

import json

import pytest
from gateway_specs import JWKS, platform

from kivactl.stack.gateway import access, claims, quota, refusals
from kivactl.stack.gateway.waiting import pauses_for


def config(content):
    [resource] = content["resources"]
    return resource["typed_config"]


def branches(content):
    return config(content)["matcher"]["matcher_tree"]["exact_match_map"]["map"]


def test_the_token_is_checked_by_es256_keys_and_never_forwarded():
    provider = config(access.authentication_for(platform("m"), JWKS))["providers"]["kiva"]
    assert provider["forward"] is False
    assert provider["issuer"] == "kiva:kiva"
    assert json.loads(provider["local_jwks"]["inline_string"]) == JWKS


def test_the_token_comes_from_its_header_only():
    provider = config(access.authentication_for(platform("m"), JWKS))["providers"]["kiva"]
    assert provider["from_headers"] == [{"name": "authorization", "value_prefix": "Bearer "}]


def test_an_identity_provider_joins_in():
    spec = platform("m", issuers=[{"issuer": "https://sso.example", "audience": "kiva", "jwks": "https://sso.example/keys"}])
    found = config(access.authentication_for(spec, JWKS))
    assert found["rules"][0]["requires"] == {"requires_any": {"requirements": [{"provider_name": "kiva"}, {"provider_name": "issuer-0"}]}}
    assert found["providers"]["issuer-0"]["require_expiration"] is True
    assert "claim_to_headers" not in found["providers"]["issuer-0"], "its subject is a person, not a tenant"


def test_a_claim_cannot_break_out_of_the_script():
    spec = platform("m", issuers=[{"issuer": "https://sso.example", "audience": "k", "jwks": "/k", "tenants": {'x"] = 1} os.exit() --\n': "default"}}])
    script = claims.filter_for(spec.gateway.issuers)["typed_config"]["default_source_code"]["inline_string"]
    assert "os.exit()" not in script
    assert "\\034\\093" in script


def test_revoked_tokens_are_found_by_their_id():
    assert set(branches(access.revocation_for(["a", "b"]))) == {"a", "b"}
    assert "matcher_tree" not in config(access.revocation_for([]))["matcher"]


def test_only_tenants_of_the_spec_are_let_in_to_their_models():
    spec = platform("a", "b", tenants=[{"name": "police"}, {"name": "tax", "models": ["a"]}])
    content = access.admission_for(spec)
    assert branches(content)["police"]["action"]["typed_config"]["action"] == "ALLOW"
    [forbidden] = branches(content)["tax"]["matcher"]["matcher_list"]["matchers"]
    assert forbidden["predicate"]["single_predicate"]["custom_match"]["typed_config"]["value"] == {"string_match": {"exact": "b"}}
    assert config(content)["matcher"]["on_no_match"]["action"]["name"] == "tenant"


def test_limits_are_per_tenant_and_model():
    tenants = [{"name": "t", "requests_per_minute": 60, "per_model": {"b": {"requests_per_minute": 5}}}, {"name": "u"}]
    descriptors = config(access.limits_for(platform("a", "b", tenants=tenants)))["descriptors"]
    assert [([entry["value"] for entry in descriptor["entries"]], descriptor["token_bucket"]["max_tokens"]) for descriptor in descriptors] == [
        (["t", "a"], 60),
        (["t", "b"], 5),
    ]


def test_who_has_used_up_what():
    content = quota.quota_for({"t": {quota.EVERY_MODEL: quota.Reason.BUDGET}, "u": {"a": quota.Reason.TOKENS}, "v": {}})
    [named] = branches(content)["t"]["matcher"]["matcher_list"]["matchers"]
    assert named["on_match"]["action"]["name"] == "budget"
    assert named["predicate"]["single_predicate"]["custom_match"]["typed_config"]["value"] == {"present_match": True}, "the list of models costs nothing"
    assert branches(content)["u"]["matcher"]["matcher_list"]["matchers"][0]["on_match"]["action"]["name"] == "tokens"
    assert "v" not in branches(content)


@pytest.mark.parametrize("mapper", refusals.local_replies()["mappers"])
def test_every_refusal_is_openai_shaped(mapper):
    error = mapper["body_format_override"]["json_format"]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")


def test_refusals_worth_repeating_say_when():
    for mapper in refusals.local_replies()["mappers"]:
        says_when = any(header["header"]["key"] == "retry-after" for header in mapper["headers_to_add"])
        assert says_when == (mapper["status_code"] in {429, 502, 503, 504}), mapper


def test_every_rule_that_refuses_has_its_words():
    worded = json.dumps(refusals.local_replies())
    for rule in ("revoked", "tenant", "model", *quota.Reason):
        assert f"[{rule}]" in worded


@pytest.mark.parametrize("wait_s", [0.5, 15, 300])
def test_pauses_grow_and_are_the_whole_wait(wait_s):
    pauses = pauses_for(wait_s)
    assert sum(pauses) == pytest.approx(wait_s)
    assert pauses == sorted(pauses)


def test_no_wait_is_no_pause():
    assert pauses_for(0) == []
