"""Hostile clients with tokens that are not good: none reaches an engine, all hear 401 (403 where the token is genuine) as OpenAI's clients read it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

from kivactl.stack import tokens

pytestmark = pytest.mark.real

GOOD = {"model": "m", "messages": []}


def encoded(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).rstrip(b"=").decode()


def parts(token):
    head, claims, signature = token.split(".")
    return head, json.loads(base64.urlsafe_b64decode(claims + "==")), signature


def foreign_key():
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(gateway):
    return load_pem_private_key(gateway.signing_key, None).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def kid_of(gateway):
    return tokens.jwks_for([gateway.signing_key])["keys"][0]["kid"]


def other_claims_same_signature(gateway):
    head, claims, signature = parts(gateway.token())
    return f"{head}.{encoded({**claims, 'sub': 'tax'})}.{signature}"


def signed_by_hand(gateway, algorithm, secret, **header):
    """HMAC with what everybody knows: the algorithm confusion of JWT libraries."""
    _, claims, _ = parts(gateway.token())
    signed = f"{encoded({'alg': algorithm, 'typ': 'JWT', **header})}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def unsigned(gateway, algorithm, signature=""):
    _, claims, _ = parts(gateway.token())
    return f"{encoded({'alg': algorithm, 'typ': 'JWT'})}.{encoded(claims)}.{signature}"


def with_signature(gateway, change):
    head, claims, signature = gateway.token().split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    return f"{head}.{claims}.{encoded(change(raw))}"


def own_key_in_header(gateway):
    key = foreign_key()
    return gateway.token(key=key, header={"jwk": tokens.jwks_for([key])["keys"][0]})


def repeated_claims(gateway):
    """The signature is good, but only for another text than the one that is sent."""
    head, claims, signature = parts(gateway.token())
    text = json.dumps(claims)[:-1] + ', "sub": "tax"}'
    return f"{head}.{encoded(text.encode())}.{signature}"


REFUSED = {
    "another key's signature": lambda g: g.token(key=foreign_key()),
    "another key's signature, its kid": lambda g: g.token(key=(key := foreign_key()), header={"kid": tokens.jwks_for([key])["keys"][0]["kid"]}),
    "unknown kid, good signature": lambda g: g.token(header={"kid": "unknown"}),
    "claims changed": other_claims_same_signature,
    "claims repeated": repeated_claims,
    "signature cut": lambda g: with_signature(g, lambda raw: raw[:-1]),
    "signature of zeros": lambda g: with_signature(g, lambda _: bytes(64)),
    "signature bit flipped": lambda g: with_signature(g, lambda raw: bytes([raw[0] ^ 1]) + raw[1:]),
    "signature as DER": lambda g: with_signature(g, lambda raw: b"0D\x02 " + raw[:32] + b"\x02 " + raw[32:]),
    "signature missing": lambda g: g.token().rsplit(".", 1)[0] + ".",
    "expired": lambda g: g.token(exp=int(time.time()) - 3600),
    "expired long ago": lambda g: g.token(exp=1),
    "not valid yet": lambda g: g.token(nbf=int(time.time()) + 3600),
    "foreign issuer": lambda g: g.token(iss="kiva:other"),
    "no issuer": lambda g: g.token(iss=None),
    "empty issuer": lambda g: g.token(iss=""),
    "wrong audience": lambda g: g.token(aud="other"),
    "wrong audiences": lambda g: g.token(aud=["other", "kiva2"]),
    "no audience": lambda g: g.token(aud=None),
    "alg none": lambda g: unsigned(g, "none"),
    "alg None": lambda g: unsigned(g, "None"),
    "alg NONE, old signature": lambda g: unsigned(g, "NONE", g.token().rsplit(".", 1)[1]),
    "alg empty": lambda g: unsigned(g, ""),
    "alg missing": lambda g: f"{encoded({'typ': 'JWT'})}.{'.'.join(g.token().split('.')[1:])}",
    "alg ES384 named": lambda g: f"{encoded({'alg': 'ES384', 'kid': kid_of(g)})}.{'.'.join(g.token().split('.')[1:])}",
    "HS256 with the public PEM": lambda g: signed_by_hand(g, "HS256", public_pem(g)),
    "HS256 with the public PEM, kid": lambda g: signed_by_hand(g, "HS256", public_pem(g), kid=kid_of(g)),
    "HS256 with the key set": lambda g: signed_by_hand(g, "HS256", json.dumps(tokens.jwks_for([g.signing_key])).encode(), kid=kid_of(g)),
    "HS256 with nothing": lambda g: signed_by_hand(g, "HS256", b"", kid=kid_of(g)),
    "ES256 named over an HMAC": lambda g: signed_by_hand(g, "ES256", public_pem(g), kid=kid_of(g)),
    "own key in the header": own_key_in_header,
    "own key's address in the header": lambda g: g.token(key=foreign_key(), header={"jku": "https://127.0.0.1:1/keys", "x5u": "https://127.0.0.1:1/x"}),
    "no JSON in it": lambda _: "e30.bm8ganNvbg.e30",
    "no Base64": lambda _: "!!!.???.***",
    "one part": lambda _: "token",
    "four parts": lambda g: g.token() + ".e30",
    "only dots": lambda _: "..",
    "quotes and spaces": lambda g: f'"{g.token()}"',
    "with a NUL's escape": lambda g: g.token() + "%00",
    "giant": lambda _: f"e30.{'A' * 20_000}.e30",
    "genuine twice": lambda g: f"{g.token()} {g.token()}",
    "genuine, then a comma": lambda g: f"{g.token()},{g.token('tax')}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_token_that_is_not_genuine_is_refused(untouched, name):
    answer = untouched.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {REFUSED[name](untouched)}")])
    answer.refuses(401, "invalid_api_key")


@pytest.mark.parametrize("tenant", ["nobody", "", "POLICE", "police ", " police", "police\x00", "pol*", ".*", "*", "x" * 5000, "police,tax", "polizei\u00e4"])
def test_a_genuine_token_of_an_unknown_tenant_is_refused(untouched, tenant):
    untouched.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {untouched.token(sub=tenant)}")]).refuses(403, "unknown_tenant")


@pytest.mark.parametrize("tenant", [["police"], {"police": 1}, 1, True])
def test_a_genuine_token_whose_tenant_is_no_text_is_refused(untouched, tenant):
    untouched.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {untouched.token(sub=tenant)}")]).refuses(401, "invalid_api_key")


def test_bytes_behind_a_good_signature_change_nothing_of_what_the_token_says(unharmed):
    """The gateway reads 64 bytes of an ES256 signature and no more; who has a token can write it in several ways, but not as another's."""
    token = with_signature(unharmed, lambda raw: raw + b"\0")
    answer = unharmed.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {token}")])
    record = unharmed.logged(answer.header("x-request-id"))
    assert (record["tenant"], record["token_id"]) == ("police", "token-of-police")


def test_a_genuine_token_without_a_tenant_is_refused(untouched):
    untouched.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {untouched.token(sub=None)}")]).refuses(403, "unknown_tenant")


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer  ", "Basic cG9saWNlOng=", "Digest x", "{token}", "Token {token}", "Bearer\t{token}x"])
def test_an_authorization_without_a_bearer_token_is_refused(untouched, value):
    untouched.ask(GOOD, tenant=None, headers=[("authorization", value.replace("{token}", untouched.token()))]).refuses(401, "invalid_api_key")


def test_no_authorization_is_refused(untouched):
    untouched.ask(GOOD, tenant=None).refuses(401, "invalid_api_key")


@pytest.mark.parametrize("target", ["/v1/chat/completions?access_token={token}", "/v1/chat/completions?token={token}", "/v1/models?access_token={token}"])
def test_a_token_in_the_query_does_not_count_and_is_not_logged(untouched, target):
    token = untouched.token()
    answer = untouched.ask(GOOD, target=target.replace("{token}", token), tenant=None)
    answer.refuses(401, "invalid_api_key")
    assert token not in json.dumps(untouched.logged(answer.header("x-request-id")))


@pytest.mark.parametrize("header", ["cookie", "x-api-key", "api-key", "x-authorization", "proxy-authorization", "x-kiva-token", "sec-websocket-protocol"])
def test_a_token_in_another_header_does_not_count(untouched, header):
    untouched.ask(GOOD, tenant=None, headers=[(header, f"Bearer {untouched.token()}")]).refuses(401, "invalid_api_key")


@pytest.mark.parametrize("order", ["good first", "good last", "good both"])
def test_two_authorization_headers_are_refused(untouched, order):
    good, bad = f"Bearer {untouched.token()}", f"Bearer {untouched.token(key=foreign_key())}"
    values = {"good first": [good, bad], "good last": [bad, good], "good both": [good, f"Bearer {untouched.token('tax')}"]}[order]
    untouched.ask(GOOD, tenant=None, headers=[("authorization", value) for value in values]).refuses(401, "invalid_api_key")


def test_a_refused_token_stands_in_no_log(untouched):
    token = untouched.token(key=foreign_key())
    answer = untouched.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {token}")])
    record = untouched.logged(answer.header("x-request-id"))
    assert token.split(".")[2] not in json.dumps(record)
    assert (record["tenant"], record["token_id"], record["status"]) == (None, None, 401)
