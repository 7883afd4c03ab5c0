"""Specs for the tests of the gateway's builders: by hand, and any that the spec allows."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from kivactl.spec.gateway import Gateway, Issuer, Limits, Metrics, Tenant, Tracing
from kivactl.spec.platform import Alias, Model, Platform
from kivactl.stack.gateway.clusters import Replica
from kivactl.stack.gateway.files import Files

JWKS = {
    "keys": [
        {
            "kty": "EC",
            "crv": "P-256",
            "kid": "k1",
            "alg": "ES256",
            "use": "sig",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    ]
}


def files(folder: Path, certificate: Path | None = None, key: Path | None = None) -> Files:
    return Files(folder, folder, certificate or folder / "gateway.pem", key or folder / "gateway.key", folder / "access.log")


def platform(*models: str, aliases: dict[str, dict[str, int]] | None = None, **gateway_values: object) -> Platform:
    return Platform(
        name="kiva",
        models=tuple(Model(name=name, source="x") for name in models),
        aliases=tuple(Alias(name=name, models=shares) for name, shares in (aliases or {}).items()),
        gateway=Gateway(**gateway_values),
    )


def everything() -> Platform:
    """A spec that uses all the gateway can do."""
    return Platform(
        name="kiva",
        models=(
            Model(name="llama-3.1", source="x", replicas=2, balance="prefix", stalled_after="20s"),
            Model(name="llama-3.2", source="x", replicas=1, queue=7, concurrency=3),
            Model(name="embed", source="x"),
        ),
        aliases=(Alias(name="chat", models={"llama-3.1": 90, "llama-3.2": 10}),),
        gateway=Gateway(
            address="0.0.0.0",
            tenants=(
                Tenant(name="police", requests_per_minute=5, priority="high", models=("chat", "llama-3.1")),
                Tenant(name="tax", requests_per_minute=600, per_model={"embed": Limits(requests_per_minute=7)}),
                Tenant(name="parks", models=("embed",)),
            ),
            issuers=(
                Issuer(
                    issuer="https://sso.example/realms/land", audience="kiva", jwks="https://sso.example/keys", claim="realm.roles", tenants={"p": "police"}
                ),
                Issuer(issuer="https://lab.example", audience="kiva", jwks="http://lab.example:8080/keys"),
            ),
            request_size="8MiB",
            request_timeout="5m",
            wait="20s",
            metrics=Metrics(address="127.0.0.1", port=9001),
            tracing=Tracing(otlp="http://collector.example:4318", sample_ratio=0.25),
        ),
    )


def replicas(spec: Platform) -> dict[str, list[Replica]]:
    return {model.name: [Replica(f"{model.name}-{index}", Path(f"/run/{model.name}-{index}.sock")) for index in range(model.replicas)] for model in spec.models}


names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
amounts = st.none() | st.integers(1, 10_000_000)


@st.composite
def platforms(draw: st.DrawFn) -> Platform:
    """Any spec, as far as it concerns the gateway."""
    public = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    split = draw(st.integers(1, len(public)))
    models, others = public[:split], public[split:]
    weights = st.dictionaries(st.sampled_from(models), st.integers(0, 100), min_size=1).filter(lambda shares: sum(shares.values()) > 0)
    allowed = st.none() | st.lists(st.sampled_from(public), unique=True).map(tuple)
    limits = st.builds(Limits, requests_per_minute=amounts, tokens_per_minute=amounts)
    tenants = draw(
        st.lists(
            st.builds(
                Tenant,
                name=names,
                models=allowed,
                requests_per_minute=amounts,
                per_model=st.dictionaries(st.sampled_from(public), limits, max_size=3),
                priority=st.sampled_from(["high", "normal", "low"]),
            ),
            min_size=1,
            max_size=6,
            unique_by=lambda tenant: tenant.name,
        )
    )
    claims = st.dictionaries(st.text(max_size=12), st.sampled_from([tenant.name for tenant in tenants]), max_size=3)
    issuers = draw(
        st.lists(
            st.builds(
                Issuer,
                issuer=st.from_regex(r"https://[a-z]{1,9}\.example/[a-z]{0,5}", fullmatch=True),
                audience=st.text(min_size=1, max_size=9),
                jwks=st.sampled_from(["https://127.0.0.1:8443/keys", "http://localhost/jwks"]),
                claim=st.sampled_from(["tenant", "realm_access.roles", "https://x/claim"]),
                tenants=claims,
            ),
            max_size=2,
            unique_by=lambda issuer: issuer.issuer,
        )
    )
    port = draw(st.integers(1, 65534))
    return Platform(
        name=draw(names),
        models=tuple(
            Model(
                name=name,
                source="x",
                replicas=draw(st.integers(1, 3)),
                queue=draw(st.integers(0, 99)),
                balance=draw(st.sampled_from(["least-request", "prefix"])),
            )
            for name in models
        ),
        aliases=tuple(Alias(name=name, models=draw(weights)) for name in others),
        gateway=Gateway(
            address=draw(st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"])),
            port=port,
            tenants=tuple(tenants),
            issuers=tuple(issuers),
            request_size=f"{draw(st.integers(1024, 2**30))}B",
            header_size=f"{draw(st.integers(1024, 8192 * 1024))}B",
            wait=draw(st.sampled_from(["0s", "1s", "15s", "300s"])),
            metrics=Metrics(port=draw(st.none() | st.just(port % 60000 + 2))),
            tracing=draw(st.none() | st.builds(Tracing, otlp=st.just("http://127.0.0.1:4318"), sample_ratio=st.floats(0, 1))),
        ),
    )
