"""The spec's part on the one way in: TLS, tenants, limits, identity providers, what is measured."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from kivactl.spec.fields import Address, Amount, Name, Port, PositiveBytes, PositiveDuration, Strict, Url
from kivactl.spec.quantities import Duration


class Tls(Strict):
    """The certificate the gateway shows. TLS 1.3 only."""

    certificate: str | None = Field(default=None, description="PEM file with the certificate chain; an own CA issues one when absent.")
    key: str | None = Field(default=None, description="PEM file with the private key of that certificate.")
    names: tuple[str, ...] = Field(
        default=("localhost",), description="DNS names and addresses in the certificate of the own CA, besides the gateway's address."
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key go together: give both or none"
            raise ValueError(msg)
        return self


class Limits(Strict):
    """How much within a minute; absent is unlimited."""

    requests_per_minute: int | None = Field(default=None, strict=True, ge=1, le=10_000_000, description="Requests; more are refused with 429 at once.")
    tokens_per_minute: int | None = Field(
        default=None, strict=True, ge=1, description="Prompt and answer tokens; above it requests are refused with 429 within seconds."
    )


class Tenant(Limits):
    """A department that uses the platform with tokens of its own. Its limits count for each model by itself."""

    name: Name = Field(description="Stands in the tenant's tokens and bills.")
    cost_centre: str | None = Field(default=None, description="Where its use is billed.")
    contact: str | None = Field(default=None, description="Who is told when something concerns it.")
    models: tuple[Name, ...] | None = Field(default=None, description="Models and aliases it may use; all when absent.")
    per_model: dict[Name, Limits] = Field(default_factory=dict, description="Other limits for single models or aliases.")
    monthly_budget: Amount | None = Field(default=None, description="Amount after which requests are refused until the month (UTC) ends.")
    priority: Literal["high", "normal", "low"] = Field(default="normal", description="Who goes first when engines are busy.")

    def limits_for(self, model: str) -> Limits:
        """Its limits for a model or alias."""
        return self.per_model.get(model, Limits(requests_per_minute=self.requests_per_minute, tokens_per_minute=self.tokens_per_minute))


class Issuer(Strict):
    """An OpenID Connect provider whose tokens are accepted besides the platform's own."""

    issuer: Url = Field(description="The provider's `iss`, such as https://sso.example.com/realms/land.")
    audience: str = Field(min_length=1, description="The `aud` its tokens for this platform have.")
    jwks: str = Field(min_length=1, description="URL of its keys (`jwks_uri`), or a file with them.")
    ca: str | None = Field(default=None, description="PEM file with the authority of the provider's own certificate; the system's authorities when absent.")
    claim: str = Field(
        default="tenant",
        pattern=r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$",
        description="Claim that says the tenant: text or a list; dots lead into nested claims.",
    )
    tenants: dict[str, Name] = Field(default_factory=dict, description="Tenant by value of the claim; when empty the value is the tenant's name.")


class Metrics(Strict):
    """Where Prometheus reads the metrics of gateway and engines. Nothing there is secret, and nothing is protected."""

    address: Address = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port | None = Field(default=None, description="TCP port to listen on; the one after the gateway's when absent.")


class Tracing(Strict):
    """Traces (W3C trace context) to an OpenTelemetry collector; off when absent."""

    otlp: Url = Field(description="The collector's OTLP/HTTP address, such as http://127.0.0.1:4318.")
    sample_ratio: float = Field(default=1.0, strict=True, ge=0, le=1, description="Share of the requests without a trace of their own that are traced.")


class Gateway(Strict):
    """The one way in: TLS, tokens, limits, choice of a replica."""

    address: Address = Field(default="127.0.0.1", description="Address to listen on; loopback unless you open it.")
    port: Port = Field(default=4000, description="TCP port to listen on.")
    tls: Tls = Tls()
    tenants: tuple[Tenant, ...] = (Tenant(name="default"),)
    issuers: tuple[Issuer, ...] = ()
    request_size: PositiveBytes = Field(default=4 * 2**20, description="Largest request body.")
    header_size: PositiveBytes = Field(default=32 * 2**10, ge=2**10, le=8192 * 2**10, description="Largest request headers, all together; at most 8 MiB.")
    request_timeout: PositiveDuration = Field(default=600.0, description="Longest time for a whole answer.")
    connections: int = Field(default=20_000, strict=True, ge=1, description="Client connections at once; more are refused.")
    wait: Duration = Field(default=15.0, le=300, description="Longest time a request waits while no replica of its model is healthy, before it is refused.")
    metrics: Metrics = Metrics()
    tracing: Tracing | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = {tenant.name for tenant in self.tenants}
        for issuer in self.issuers:
            for value, tenant in issuer.tenants.items():
                if tenant not in names:
                    msg = f"the issuer {issuer.issuer} gives '{value}' the tenant '{tenant}', which is none of: {', '.join(sorted(names))}"
                    raise ValueError(msg)
        if len({issuer.issuer for issuer in self.issuers}) < len(self.issuers):
            msg = "two issuers have the same `issuer`"
            raise ValueError(msg)
        if self.wait >= self.request_timeout:
            msg = "`wait` must be shorter than `request_timeout`"
            raise ValueError(msg)
        if self.metrics_port > 65535 or self.metrics_port == self.port:
            msg = "metrics need a port of their own: set `gateway.metrics.port`"
            raise ValueError(msg)
        return self

    @property
    def metrics_port(self) -> int:
        """TCP port of the metrics."""
        return self.metrics.port or self.port + 1
