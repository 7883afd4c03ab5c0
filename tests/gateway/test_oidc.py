"""Single sign-on: tokens of a real OpenID Connect provider are let in as the spec says, follow its key rotation, and its failure is nobody else's."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from joserfc.jwk import RSAKey

from kivactl.spec.gateway import Issuer, Tenant
from kivactl.stack.gateway import access

pytestmark = pytest.mark.real

PROCESS = Path(__file__).with_name("identity_provider_process.py")
SCOPE = "openid profile groups address"
GOOD = {"model": "m", "messages": []}

USERS = [
    {"user_name": "anna", "password": "pw", "display_name": "police", "groups": ["staff", "/departments/police"], "region": "police"},
    {"user_name": "bert", "password": "pw", "display_name": "tax", "groups": ["staff", "/departments/tax"], "region": "tax"},
    {"user_name": "carl", "password": "pw", "display_name": "nobody", "groups": ["staff"], "region": "nowhere"},
    {"user_name": "dora", "password": "pw"},
]
"""Text claim: `preferred_username` (display name); list: `groups`; nested: `address.region`."""


class Provider:
    """A real OpenID Connect provider in a process of its own; its users sign in by their passwords."""

    def __init__(self, certificate: tuple[Path, Path], port: int) -> None:
        self.certificate, self.port = certificate, port
        self.keys = [RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)]
        self.http = httpx.Client(verify=ssl.create_default_context(cafile=str(certificate[0])), base_url=self.url)
        self.process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def start(self) -> None:
        orders = {
            "port": self.port,
            "certificate": str(self.certificate[0]),
            "key": str(self.certificate[1]),
            "signing_keys": self.keys,
            "clients": {"kiva": "secret", "other": "secret"},
            "users": USERS,
        }
        self.process = subprocess.Popen([sys.executable, str(PROCESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.process.stdin.write(json.dumps(orders))
        self.process.stdin.close()
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def rotate(self) -> None:
        """Sign with a new key; the old one is still published."""
        self.stop()
        self.keys = [RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True), *self.keys][:2]
        self.start()

    @property
    def discovered(self) -> dict:
        return self.http.get("/.well-known/openid-configuration").json()

    def tokens(self, user: str, client: str = "kiva") -> dict:
        """What the token endpoint gives this user."""
        form = {"grant_type": "password", "username": user, "password": "pw", "scope": SCOPE}
        answer = self.http.post(self.discovered["token_endpoint"], data=form, auth=(client, "secret"))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def token(self, user: str, client: str = "kiva") -> str:
        return self.tokens(user, client)["access_token"]

    def expired(self, user: str) -> str:
        """A token that had expired when it was issued (this provider's setting for refreshed ones)."""
        form = {"grant_type": "refresh_token", "refresh_token": self.tokens(user)["refresh_token"]}
        return self.http.post(self.discovered["token_endpoint"], data=form, auth=("kiva", "secret")).json()["access_token"]

    def sign(self, **claims) -> str:
        """What the provider might sign as well: its key, any claims."""
        whole = {**jwt.decode(self.token("anna"), options={"verify_signature": False}), **claims}
        key = RSAKey.import_key(self.keys[0])
        text = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(text, key.as_pem(private=True), algorithm="RS256", headers={"kid": self.keys[0]["kid"]})


@pytest.fixture(scope="module", autouse=True)
def _keys_are_fetched_often() -> Iterator[None]:
    """What takes a minute takes a second here; the interval is the only thing that is different."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "_KEYS_FETCHED_EVERY", "1s")
        yield


@pytest.fixture(scope="module")
def provider(certificate, free_port) -> Iterator[Provider]:
    provider = Provider(certificate, free_port)
    yield provider
    provider.stop()


def issuer_for(provider, certificate, **how) -> Issuer:
    return Issuer(issuer=provider.url, audience="kiva", jwks=provider.discovered["jwks_uri"], ca=str(certificate[0]), **how)


DEPARTMENTS = {"/departments/police": "police", "/departments/tax": "tax"}
CLAIMS = {
    "text": {"claim": "preferred_username"},
    "text, mapped": {"claim": "sub", "tenants": {"anna": "police", "bert": "tax"}},
    "list, mapped": {"claim": "groups", "tenants": DEPARTMENTS},
    "nested": {"claim": "address.region"},
    "nested, mapped": {"claim": "address.region", "tenants": {"police": "police", "tax": "tax"}},
}


@pytest.fixture(scope="module")
def site(start_gateway, provider, certificate):
    gateway = start_gateway(tenants=(Tenant(name="police"), Tenant(name="tax")), issuers=(issuer_for(provider, certificate, **CLAIMS["list, mapped"]),))
    until_accepted(gateway, provider)
    yield gateway
    gateway.stop()


def ask(gateway, token):
    return gateway.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {token}")])


def until_accepted(gateway, provider, patience_s=60):
    """The keys are fetched in the background, and again at the interval that the gateway has for it."""
    end_s = time.monotonic() + patience_s
    while (answer := ask(gateway, provider.token("anna"))).status != 200:
        assert time.monotonic() < end_s, gateway.log[-1]
        time.sleep(0.1)
    return answer


def apply(gateway, *issuers, **values):
    spec = gateway.platform
    gateway.apply(spec.model_copy(update={"gateway": spec.gateway.model_copy(update={"issuers": issuers, **values})}))


def test_the_provider_is_a_real_one(provider):
    """Discovery, keys and tokens fit together as OpenID Connect says."""
    known = provider.discovered
    assert known["issuer"] == provider.url
    token = provider.token("anna")
    keys = jwt.PyJWKSet.from_dict(provider.http.get(known["jwks_uri"]).json())
    claims = jwt.decode(token, keys[jwt.get_unverified_header(token)["kid"]], algorithms=["RS256"], audience="kiva", issuer=provider.url)
    assert claims["sub"] == "anna"
    assert set(claims["groups"]) == {"staff", "/departments/police"}
    assert claims["address"] == {"region": "police"}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_token_of_the_provider_is_accepted_for_the_tenant_in_its_claim(fresh_gateway, provider, certificate, kind):
    gateway = fresh_gateway(tenants=(Tenant(name="police"), Tenant(name="tax", models=())), issuers=(issuer_for(provider, certificate, **CLAIMS[kind]),))
    answer = until_accepted(gateway, provider)
    record = gateway.logged(answer.header("x-request-id"))
    assert (record["tenant"], record["issuer"]) == ("police", provider.url)
    ask(gateway, provider.token("bert")).refuses(403, "model_not_allowed")
    ask(gateway, provider.token("carl")).refuses(403, "unknown_tenant")
    ask(gateway, provider.token("dora")).refuses(403, "unknown_tenant")
    assert gateway.serves()


def test_each_tenant_is_the_one_in_the_claim(site, provider):
    for user, tenant in (("anna", "police"), ("bert", "tax")):
        answer = ask(site, provider.token(user))
        assert answer.status == 200
        assert site.logged(answer.header("x-request-id"))["tenant"] == tenant
    assert all("authorization" not in dict(entry["headers"]) for entry in site.received)


def test_an_id_token_for_this_audience_is_as_good(site, provider):
    """Entra and others give clients that sign in themselves an ID token for the client's own audience."""
    until_accepted(site, provider)  # on a busy machine a fetch of the keys may fail, and nobody of the provider's is let in until the next
    assert ask(site, provider.sign(at_hash="x", nonce="y")).status == 200


REFUSED = {
    "for another client": lambda p: p.token("anna", "other"),
    "expired": lambda p: p.expired("anna"),
    "without an end": lambda p: p.sign(exp=None),
    "not valid yet": lambda p: p.sign(nbf=4_000_000_000),
    "of another issuer": lambda p: p.sign(iss="https://localhost:1"),
    "of an issuer with a slash": lambda p: p.sign(iss=p.url + "/"),
    "in the platform's own name": lambda p: p.sign(iss="kiva:kiva", aud="kiva", sub="tax"),
    "without an audience": lambda p: p.sign(aud=None),
    "for an audience that begins alike": lambda p: p.sign(aud=["kiva2", "kiv"]),
    "signed by another key": lambda p: jwt.encode(
        jwt.decode(p.token("anna"), options={"verify_signature": False}),
        RSAKey.generate_key(2048).as_pem(private=True),
        algorithm="RS256",
        headers={"kid": p.keys[0]["kid"]},
    ),
    "signed by nobody": lambda p: jwt.encode(jwt.decode(p.token("anna"), options={"verify_signature": False}), None, algorithm="none"),
    "cut": lambda p: p.token("anna")[:-10],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_token_that_the_provider_did_not_give_for_this_is_refused(site, provider, kind):
    before = len(site.received)
    ask(site, REFUSED[kind](provider)).refuses(401, "invalid_api_key")
    assert len(site.received) == before


@pytest.mark.parametrize(
    "claim",
    [
        None,
        "",
        "police",
        [],
        [""],
        ["staff"],
        ["/DEPARTMENTS/POLICE"],
        [["/departments/x"]],
        {},
        {"police": True},
        1,
        True,
        ["x"] * 2000,
        "/departments/police\x00",
        "*",
    ],
    ids=lambda claim: repr(claim)[:20],
)
def test_a_claim_that_is_mapped_to_no_tenant_is_refused(site, provider, claim):
    before = len(site.received)
    ask(site, provider.sign(groups=claim)).refuses(403, "unknown_tenant")
    assert len(site.received) == before


def test_the_first_group_that_is_mapped_counts(site, provider):
    answer = ask(site, provider.sign(groups=["x", "/departments/tax", "/departments/police"]))
    assert site.logged(answer.header("x-request-id"))["tenant"] == "tax"


def test_a_tenant_in_a_header_does_not_help_a_token_without_one(site, provider):
    answer = site.ask(GOOD, tenant=None, headers=[("authorization", f"Bearer {provider.token('carl')}"), ("x-kiva-tenant", "police")])
    answer.refuses(403, "unknown_tenant")


def test_a_platform_s_token_is_not_read_by_the_provider_s_rules(site):
    token = site.token("police", groups=["/departments/tax"])
    answer = ask(site, token)
    assert site.logged(answer.header("x-request-id"))["tenant"] == "police"


def test_providers_come_and_go_and_change_while_requests_run(fresh_gateway, provider, certificate):
    gateway = fresh_gateway(tenants=(Tenant(name="police"), Tenant(name="tax")))
    ask(gateway, provider.token("anna")).refuses(401)
    apply(gateway, issuer_for(provider, certificate, claim="preferred_username"))
    assert gateway.logged(until_accepted(gateway, provider, 15).header("x-request-id"))["tenant"] == "police"
    apply(gateway, issuer_for(provider, certificate, claim="groups", tenants={"staff": "tax"}))
    gateway.until(lambda: gateway.logged(until_accepted(gateway, provider, 15).header("x-request-id"))["tenant"] == "tax")
    apply(gateway)
    gateway.until(lambda: ask(gateway, provider.token("anna")).status == 401)
    assert gateway.serves()


def test_a_rotation_of_the_provider_s_keys_is_followed_and_old_tokens_stay_good(site, provider):
    old = provider.token("anna")
    provider.rotate()
    new = provider.token("anna")
    assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
    assert site.serves()
    until_accepted(site, provider)
    assert ask(site, old).status == 200


def test_while_the_provider_is_down_all_others_are_served(site, provider):
    token = provider.token("anna")
    assert ask(site, token).status == 200
    provider.stop()
    try:
        for _ in range(5):
            assert site.serves()
            assert ask(site, token).status == 200, "the keys that the gateway has stay good"
    finally:
        provider.start()


def test_a_gateway_starts_without_the_provider_and_takes_its_tokens_once_it_is_there(fresh_gateway, provider, certificate):
    issuer = issuer_for(provider, certificate, claim="preferred_username")
    token = provider.token("anna")
    provider.stop()
    try:
        gateway = fresh_gateway(tenants=(Tenant(name="police"),), issuers=(issuer,))
        assert gateway.serves()
        ask(gateway, token).refuses(401)
    finally:
        provider.start()
    until_accepted(gateway, provider, 15)


def test_a_provider_whose_certificate_is_not_of_its_authority_is_not_believed(fresh_gateway, provider, tmp_path, certificate):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=other", "-days", "2", "-keyout", tmp_path / "k", "-out", tmp_path / "ca.pem"],
        check=True,
        capture_output=True,
    )
    issuer = issuer_for(provider, certificate, claim="preferred_username").model_copy(update={"ca": str(tmp_path / "ca.pem")})
    gateway = fresh_gateway(tenants=(Tenant(name="police"),), issuers=(issuer,))
    with pytest.raises(AssertionError):
        until_accepted(gateway, provider, 3)
    assert gateway.serves()


def test_keys_from_a_file_need_no_provider(fresh_gateway, provider, tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text(provider.http.get(provider.discovered["jwks_uri"]).text)
    gateway = fresh_gateway(
        tenants=(Tenant(name="police"),), issuers=(Issuer(issuer=provider.url, audience="kiva", jwks=str(keys), claim="preferred_username"),)
    )
    assert ask(gateway, provider.token("anna")).status == 200
