from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from generated import examples
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.stack import tokens
from kivactl.stack.secret import Secret

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def _pem(key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _public_pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def _issue(key=KEY, **changes) -> Secret:
    words = {"platform": "kiva", "tenant": "physics", "name": "laptop", "token_id": "0af3", "issued_at": NOW, "lifetime": timedelta(days=1)}
    return tokens.issue(_pem(key), **(words | changes))


def _claims(token: Secret) -> dict:
    return jwt.decode(token.reveal(), options={"verify_signature": False})


def test_the_claims_are_these_and_no_others():
    issued_s = int(NOW.timestamp())
    assert _claims(_issue()) == {
        "iss": "kiva:kiva",
        "aud": "kiva",
        "sub": "physics",
        "jti": "0af3",
        "name": "laptop",
        "iat": issued_s,
        "exp": issued_s + 86400,
    }


def test_without_a_lifetime_there_is_no_end():
    claims = _claims(_issue(lifetime=None))
    assert "exp" not in claims
    assert "nbf" not in claims


def test_a_token_is_checked_by_the_published_keys():
    token = _issue(issued_at=datetime.now(UTC)).reveal()
    keys = jwt.PyJWKSet.from_dict(tokens.jwks_for([_pem(OTHER), _pem(KEY)]))
    kid = jwt.get_unverified_header(token)["kid"]
    assert jwt.get_unverified_header(token)["alg"] == "ES256"
    assert jwt.decode(token, keys[kid].key, algorithms=["ES256"], audience="kiva", issuer="kiva:kiva")["sub"] == "physics"
    stranger = tokens.jwks_for([_pem(OTHER)])["keys"][0]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, jwt.PyJWK(stranger).key, algorithms=["ES256"], audience="kiva")


def test_published_keys_are_public_only_and_once_each():
    published = tokens.jwks_for([_pem(KEY), _public_pem(KEY), _pem(OTHER)])
    assert len(published["keys"]) == 2
    assert tokens.jwks_for([_public_pem(KEY)])["keys"][0] == published["keys"][0]
    for key in published["keys"]:
        assert set(key) == {"crv", "kty", "x", "y", "alg", "use", "kid"}
        assert len(base64.urlsafe_b64decode(key["x"] + "=")) == 32


def test_the_key_id_is_the_thumbprint():
    key = tokens.jwks_for([_pem(KEY)])["keys"][0]
    members = '{"crv":"P-256","kty":"EC","x":"' + key["x"] + '","y":"' + key["y"] + '"}'
    assert key["kid"] == base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest()).rstrip(b"=").decode()


def test_coordinates_keep_their_leading_zeros():
    for number in range(1, 1000):  # one in 256 points has a coordinate that is a byte shorter
        key = ec.derive_private_key(number, ec.SECP256R1())
        if key.public_key().public_numbers().x < 2**248:
            break
    else:
        pytest.fail("no such point among the first thousand")
    (jwk,) = tokens.jwks_for([_pem(key)])["keys"]
    assert len(jwk["x"]) == 43
    assert jwt.PyJWK(jwk).key.public_numbers() == key.public_key().public_numbers()


@examples(0.3)
@given(tenant=st.text(min_size=1), name=st.text(), seconds=st.integers(1, 10**9))
def test_any_names_survive(tenant, name, seconds):
    claims = _claims(_issue(tenant=tenant, name=name, lifetime=timedelta(seconds=seconds)))
    assert (claims["sub"], claims["name"], claims["exp"] - claims["iat"]) == (tenant, name, seconds)


def test_a_token_does_not_show_itself():
    token = _issue()
    assert f"{token} {token!r}" == "*** ***"
    assert json.dumps(str(token)) == '"***"'


RSA = rsa.generate_private_key(65537, 2048)
P384 = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    "pem",
    [b"", b"nonsense", _pem(KEY)[:120], _pem(RSA), _pem(P384), _public_pem(RSA), _public_pem(P384), _public_pem(KEY)[:80]],
    ids=["empty", "nonsense", "truncated", "rsa", "p384", "rsa public", "p384 public", "truncated public"],
)
def test_unusable_keys_are_refused(pem):
    with pytest.raises(PreconditionError, match="damaged or not for ES256"):
        tokens.jwks_for([pem])
    with pytest.raises(PreconditionError, match="damaged or not for ES256"):
        tokens.issue(pem, platform="p", tenant="t", name="n", token_id="i", issued_at=NOW, lifetime=None)


def test_an_encrypted_key_is_refused():
    pem = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word"))
    with pytest.raises(PreconditionError):
        tokens.jwks_for([pem])


@pytest.mark.parametrize("changes", [{"issued_at": NOW.replace(tzinfo=None)}, {"lifetime": timedelta(0)}, {"lifetime": timedelta(seconds=-1)}])
def test_careless_callers_are_refused(changes):
    with pytest.raises(ValueError, match="aware time"):
        _issue(**changes)
