"""What a gateway's values say of tokens, and what is kept of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.spec.platform import Platform
from kivactl.stack.gateway import access
from kivactl.targets.kubernetes.trust import AUTHENTICATION, REVOCATION, changes_for, files_in, trust_in, with_files, with_trust_of

PLATFORM = Platform.model_validate(
    {
        "name": "kiva",
        "models": [{"name": "m", "source": "x/y"}],
        "gateway": {
            "tenants": [{"name": "police"}],
            "issuers": [{"issuer": "https://id.example.org", "audience": "llm", "jwks": "https://id.example.org/keys"}],
        },
    }
)
ids = st.frozensets(st.text("0123456789abcdef", min_size=1, max_size=4), max_size=4)
jwks = st.frozensets(st.sampled_from("abc"), min_size=1).map(lambda names: {"keys": [{"kid": name} for name in sorted(names)]})


def values(keys, revoked, **more):
    return with_files(more, {AUTHENTICATION: access.authentication_for(PLATFORM, keys), REVOCATION: access.revocation_for(revoked)})


@given(keys=jwks, revoked=ids)
def test_what_is_written_is_read(keys, revoked):
    assert trust_in(files_in(values(keys, revoked))) == (keys, revoked)


@given(keys=jwks, revoked=ids, other=jwks, more=ids)
def test_after_a_change_the_gateway_goes_by_what_it_was_told(keys, revoked, other, more):
    there = values(keys, revoked)
    changes = changes_for(files_in(there), other, sorted(more))
    known, refused = trust_in(files_in(with_files(there, changes)))
    assert known == other
    assert refused >= more
    assert (changes == {}) == (keys == other and revoked >= more)
    # Identity providers are none of it.
    if changes:
        assert "id.example.org" in json.dumps(changes[AUTHENTICATION])


@given(keys=jwks, revoked=ids, other=jwks, more=ids)
def test_what_is_taken_back_keeps_the_newest_trust_and_nothing_else(keys, revoked, other, more):
    old, newest = values(keys, revoked, replicas=1), values(other, more, replicas=5)
    back = with_trust_of(old, newest)
    assert trust_in(files_in(back)) == (other, more)
    assert back["replicas"] == 1
    assert with_trust_of(back, newest) == back


def test_values_of_another_version_are_left_alone_or_refused():
    assert with_trust_of({"files": {"routes.json": "{}"}}, values({"keys": []}, ())) == {"files": {"routes.json": "{}"}}
    assert with_trust_of(values({"keys": []}, ()), {"files": {}}) == values({"keys": []}, ())
    assert files_in({"files": {"a": "no json", "b": "[]", "c": None}}) == {}
    with pytest.raises(PreconditionError, match="not of this version"):
        changes_for({AUTHENTICATION: {"resources": []}}, {"keys": []}, [])
