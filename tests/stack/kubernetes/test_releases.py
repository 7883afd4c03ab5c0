"""All releases of a platform, and the values of gateway and monitoring."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from cluster_specs import DIGEST, ENGINE, GATEWAY, TOOLS, model, platform_on_cluster

from kivactl.plan import digest
from kivactl.stack.gateway import routes
from kivactl.stack.gateway.clusters import Service
from kivactl.stack.kubernetes.gateway_values import gateway_values_for, services_for
from kivactl.stack.kubernetes.monitoring_values import monitoring_values_for
from kivactl.stack.kubernetes.releases import releases_for
from kivactl.stack.metering import orders_from

CHARTS = Path(__file__).parents[3] / "helm"
JWKS = {"keys": [{"kty": "EC", "kid": "k"}]}
KEDA = {"kubernetes": {"autoscale": {"by": "keda", "min": 0, "max": 6}}}
PROMETHEUS = {"monitoring": {"prometheus": "http://prometheus:9090", "namespace": "monitoring"}}


def gateway(*models, cluster_values=None, **values):
    return gateway_values_for(platform_on_cluster(*models, cluster_values=cluster_values, **values), jwks=JWKS)


class TestReleases:
    def test_engines_come_first_then_the_gateway_then_the_monitoring(self):
        releases = releases_for(platform_on_cluster(model("a"), model("b")), jwks=JWKS)
        assert [(release.name, release.chart, release.order, release.model) for release in releases] == [
            ("kiva-a", "kiva-engine", 0, "a"),
            ("kiva-b", "kiva-engine", 0, "b"),
            ("kiva-gateway", "kiva-gateway", 1, ""),
            ("kiva-monitoring", "kiva-monitoring", 2, ""),
        ]
        assert {release.namespace for release in releases} == {"kiva"}

    def test_they_are_the_same_whenever_they_are_computed(self):
        spec = platform_on_cluster(model("a"), model("b"))
        once, again = (digest([release.values for release in releases_for(spec, jwks=JWKS)]) for _ in range(2))
        assert once == again

    def test_what_is_known_of_one_model_concerns_that_one(self):
        releases = releases_for(platform_on_cluster(model("a"), model("b")), jwks=JWKS, weights_bytes={"a": 2**30}, rollouts={"b": "recreate"})
        a, b = releases[0].values, releases[1].values
        assert (a["startup"]["budgetSeconds"], b["startup"]["budgetSeconds"]) == (315, 1800)
        assert (a["strategy"]["kind"], b["strategy"]["kind"]) == ("rolling", "recreate")

    def test_no_value_is_anything_but_json(self):
        for release in releases_for(platform_on_cluster(model("a", **KEDA), cluster_values=PROMETHEUS), jwks=JWKS, revoked=["t1"]):
            assert json.loads(json.dumps(release.values)) == release.values


class TestGateway:
    def test_it_has_every_file_and_nothing_secret(self):
        files = gateway()["files"]
        assert files.keys() == {
            f"{name}.json"
            for name in ("bootstrap", "listeners", "routes", "clusters", "certificate", "authentication", "revoked", "admission", "limits", "quota")
        }
        assert "PRIVATE" not in json.dumps(files)

    def test_its_routes_are_the_specs(self):
        spec = platform_on_cluster(model("a"), model("b"), aliases=[{"name": "chat", "models": {"a": 9, "b": 1}}])
        assert json.loads(gateway_values_for(spec, jwks=JWKS)["files"]["routes.json"]) == json.loads(json.dumps(routes.routes_for(spec)))

    def test_it_finds_engines_by_name_and_knows_how_many_there_may_be(self):
        spec = platform_on_cluster(model("a", replicas=2), model("b", **KEDA), cluster_values=PROMETHEUS)
        assert services_for(spec) == {"a": Service("kiva-a.kiva.svc.cluster.local", 8000, 2), "b": Service("kiva-b.kiva.svc.cluster.local", 8000, 6)}

    def test_revoked_tokens_are_refused(self):
        spec = platform_on_cluster()
        assert "the-token" in gateway_values_for(spec, jwks=JWKS, revoked=["the-token"])["files"]["revoked.json"]

    def test_the_meter_finds_in_the_pod_what_the_gateway_leaves_there(self):
        chart = gateway()
        orders = orders_from(json.loads(chart["meter"]["orders"]))
        assert str(orders.access_log) in chart["files"]["listeners.json"]
        assert str(orders.quota) in chart["files"]["listeners.json"]
        assert str(orders.admin_socket) in chart["files"]["bootstrap.json"]
        assert orders.ledger == "sqlite:/var/kiva/ledger/ledger.db"
        assert chart["usage"]["command"][-1] == "/etc/kiva/meter/meter.json"

    def test_a_ledger_on_a_server_needs_a_password_and_no_claim(self):
        meter = gateway(usage={"ledger": "postgresql://kiva@db.example/usage"}, cluster_values={"ledger_secret": "ledger"})["meter"]
        assert (meter["secret"], meter["stateClaim"]["create"]) == ("ledger", False)
        assert gateway(cluster_values={"ledger_secret": "ledger"})["meter"]["secret"] == ""

    def test_it_asks_all_replicas_what_they_counted(self):
        orders = orders_from(json.loads(gateway(model("a"), model("b"))["meter"]["orders"]))
        assert orders.engines == ("kiva-a-all.kiva.svc.cluster.local:8000", "kiva-b-all.kiva.svc.cluster.local:8000")

    @pytest.mark.parametrize("spec", [{}, {"usage": {"ledger": "postgresql://kiva@db.example/usage"}, "cluster_values": {"ledger_secret": "ledger"}}])
    def test_pods_that_follow_each_other_share_a_ledger_as_pods_beside_each_other_do(self, spec):
        assert orders_from(json.loads(gateway(**spec)["meter"]["orders"])).shared

    def test_it_reaches_providers_collector_and_ledger_outside_and_nothing_else(self):
        issuer = {"issuer": "https://sso.example", "audience": "kiva", "jwks": "https://sso.example:8443/keys"}
        spec = {"gateway": {"issuers": [issuer], "tracing": {"otlp": "http://10.0.0.9:4318"}}, "usage": {"ledger": "postgresql://kiva@db.example/usage"}}
        egress = gateway(cluster_values={"ledger_secret": "ledger"}, **spec)["networkPolicy"]["egress"]
        assert [rule["ports"][0]["port"] for rule in egress] == [8443, 4318, 5432]
        assert egress[1]["to"] == [{"ipBlock": {"cidr": "10.0.0.9/32"}}]
        assert gateway()["networkPolicy"]["egress"] == []

    def test_a_new_model_changes_files_only_and_restarts_no_gateway(self):
        changing = {"files", "meter"}
        one, two = gateway(model("a")), gateway(model("a"), model("b"))
        assert {k: v for k, v in one.items() if k not in changing} == {k: v for k, v in two.items() if k not in changing}
        assert one["files"]["bootstrap.json"] == two["files"]["bootstrap.json"]
        assert {k: v for k, v in one["meter"].items() if k != "orders"} == {k: v for k, v in two["meter"].items() if k != "orders"}

    @pytest.mark.parametrize(
        ("certificate", "secrets", "secret", "issuer", "kind", "external"),
        [
            ("own", "kubernetes", "kiva-gateway-tls", "", "Issuer", ("", "SecretStore", "")),
            ("own", "external:vault", "kiva-gateway-tls", "", "Issuer", ("", "SecretStore", "")),
            ("cert-manager:inside", "kubernetes", "kiva-gateway-tls", "inside", "Issuer", ("", "SecretStore", "")),
            ("cluster-issuer:acme", "kubernetes", "kiva-gateway-tls", "acme", "ClusterIssuer", ("", "SecretStore", "")),
            ("secret:mine", "kubernetes", "mine", "", "Issuer", ("", "SecretStore", "")),
            ("secret:mine", "external:vault", "mine", "", "Issuer", ("vault", "SecretStore", "mine")),
            ("secret:mine", "cluster-external:vault", "mine", "", "Issuer", ("vault", "ClusterSecretStore", "mine")),
        ],
    )
    def test_where_its_certificate_comes_from(self, certificate, secrets, secret, issuer, kind, external):
        tls = gateway(cluster_values={"gateway": {"certificate": certificate}, "secrets": secrets})["tls"]
        assert (tls["secret"], tls["certManager"]["issuer"], tls["certManager"]["kind"]) == (secret, issuer, kind)
        assert tuple(tls["externalSecret"][key] for key in ("store", "storeKind", "key")) == external

    def test_how_it_is_reached(self):
        entrance = {"expose": "ingress", "host": "llm.example.org", "class_name": "nginx", "annotations": {"a/b": "c"}}
        assert gateway(cluster_values={"gateway": entrance})["expose"] == {
            "kind": "ingress",
            "host": "llm.example.org",
            "class": "nginx",
            "allowed": [],
            "annotations": {"a/b": "c"},
        }

    def test_a_class_counts_where_there_are_classes(self):
        assert gateway(cluster_values={"gateway": {"expose": "node-port", "class_name": "nginx"}})["expose"]["class"] == ""

    @pytest.mark.parametrize(("timeout", "drain_s"), [("10m", 600), ("2h", 3600)])
    def test_it_ends_after_its_last_answer_or_an_hour(self, timeout, drain_s):
        assert gateway(gateway={"request_timeout": timeout})["drain"]["seconds"] == drain_s

    def test_its_meter_runs_in_the_tools_image_or_the_engines(self):
        images = {"engine": ENGINE, "gateway": GATEWAY}
        assert gateway(cluster_values={"images": images})["tools"]["reference"] == ENGINE
        assert gateway(cluster_values={"images": {**images, "tools": TOOLS}})["tools"]["reference"] == TOOLS

    def test_it_uses_the_cores_it_gets(self):
        command = gateway(cluster_values={"gateway": {"resources": {"cpu": 0.5}}})["command"]
        assert command[command.index("--concurrency") + 1] == "1"
        assert gateway(cluster_values={"gateway": {"resources": {"cpu": 3}}})["command"][command.index("--concurrency") + 1] == "3"


class TestMonitoring:
    def test_it_watches_what_was_promised_and_what_must_be_there(self):
        chart = monitoring_values_for(platform_on_cluster(model("a", replicas=2), model("b", **KEDA), cluster_values=PROMETHEUS))
        assert chart["levels"] == {"ttft_p95_s": 2.0, "tpot_p95_s": 0.2, "error_ratio": 0.01}
        assert chart["models"] == [{"name": "a", "replicas": 2}, {"name": "b", "replicas": 0}]
        assert (chart["namespace"], chart["style"]) == ("monitoring", "prometheus")

    def test_where_nobody_reads_nobody_is_alerted(self):
        assert monitoring_values_for(platform_on_cluster(cluster_values={"monitoring": {"style": "none"}}))["rules"] == {"enabled": False}


@pytest.mark.parametrize("chart", ["kiva-engine", "kiva-gateway", "kiva-monitoring"])
def test_every_chart_takes_the_values_of_its_release(chart):
    schema = CHARTS / chart / "values.schema.json"
    if not schema.exists():
        pytest.skip(f"this checkout has no chart {chart}")
    entrance = {"expose": "gateway-api", "host": "llm.example.org", "class_name": "infra/public", "certificate": "cert-manager:inside"}
    rich = platform_on_cluster(
        model("a", **KEDA), model("b", kubernetes={"image": f"other{DIGEST}"}), cluster_values={**PROMETHEUS, "gateway": entrance, "secrets": "external:vault"}
    )
    for spec in (platform_on_cluster(), rich):
        for release in releases_for(spec, jwks=JWKS):
            if release.chart == chart:
                jsonschema.validate(release.values, json.loads(schema.read_text()))
