"""The chart of the gateway: what it makes of its values, and that it agrees with the configuration it carries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from gateway_specs import JWKS, everything, platform
from helm.charts import CHARTS, KUBERNETES, Refused, kinds, notes, render, run_helm, shape_values, the
from helm.policies import faults_of
from helm.schemas import schema_faults

from kivactl.spec.platform import Platform
from kivactl.stack.gateway.clusters import Service
from kivactl.stack.gateway.listener import LIVE, READY
from kivactl.stack.gateway.routes import routes_for
from kivactl.stack.kubernetes.gateway_files import LEDGER_FOLDER, METER_ORDERS, POD_FILES, USAGE_FOLDER, gateway_command_for, pod_files_for
from kivactl.stack.kubernetes.gateway_values import gateway_values_for

pytestmark = pytest.mark.charts

CHART, NAME = "kiva-gateway", "kiva-gateway"

Json = dict[str, Any]


def laid_over(values: Json, **changes: Any) -> Json:
    """Values with others over them, dictionaries key by key."""
    return {
        **values,
        **{key: laid_over(values.get(key, {}), **change) if isinstance(change, dict) and key != "files" else change for key, change in changes.items()},
    }


def made(shape: str = "minimal", **changes: Any) -> list[Json]:
    return render(CHART, laid_over(shape_values(CHART, shape), **changes), NAME)


def pod(manifests: list[Json]) -> Json:
    return the(manifests, "Deployment")["spec"]["template"]["spec"]


def container(manifests: list[Json], name: str) -> Json:
    spec = pod(manifests)
    (found,) = [one for one in (*spec["initContainers"], *spec["containers"]) if one["name"] == name]
    return found


def mounts(manifests: list[Json], name: str) -> dict[str, Json]:
    return {mount["mountPath"]: mount for mount in container(manifests, name)["volumeMounts"]}


def texts() -> dict[str, str]:
    spec = everything()
    services = {model.name: Service(f"kiva-{model.name}.kiva.svc.cluster.local", 8000, 2) for model in spec.models}
    return {name: json.dumps(content, indent=1) for name, content in pod_files_for(spec, services, JWKS, ["a"]).items()}


def test_every_file_is_a_config_map_in_one_folder():
    files = texts()
    manifests = made(files=files)
    maps = {manifest["metadata"]["name"]: manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"}
    (folder,) = [volume["projected"]["sources"] for volume in pod(manifests)["volumes"] if "projected" in volume]
    shown = {item["path"]: maps[source["configMap"]["name"]][item["key"]] for source in folder for item in source["configMap"]["items"]}
    assert shown == files
    assert all(len(data) == 1 for data in maps.values())


def test_names_of_config_maps_stay_apart_when_the_release_has_the_longest_name():
    release = "p" + "x" * 52
    manifests = render(CHART, shape_values(CHART, "one-machine"), release)
    names = [manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    assert len(names) == len(set(names)) == 11
    assert max(map(len, names)) <= 63


def test_the_chart_mounts_what_the_configuration_names():
    manifests = made("one-machine")
    shared = {POD_FILES.run, POD_FILES.access_log.parent, POD_FILES.quota.parent}
    expected = {
        "envoy": {POD_FILES.folder, POD_FILES.certificate.parent, *shared},
        "meter": {METER_ORDERS.parent, USAGE_FOLDER, LEDGER_FOLDER, Path("/tmp"), *shared},
        "usage": {METER_ORDERS.parent, USAGE_FOLDER, Path("/tmp")},
    }
    for name, paths in expected.items():
        found = mounts(manifests, name)
        assert {Path(path) for path in found} == paths
        assert not [path for path, mount in found.items() if "subPath" in mount], "such mounts never change"


def test_the_charts_own_command_and_ports_are_those_of_the_configuration():
    manifests, spec = made(), platform("m")
    envoy = container(manifests, "envoy")
    assert tuple(envoy["command"]) == gateway_command_for(spec, 2)
    listeners = {entry["name"]: entry for entry in pod_files_for(spec, {"m": Service("m", 8000, 1)}, JWKS, ())["listeners.json"]["resources"]}
    assert {port["name"]: port["containerPort"] for port in envoy["ports"]} == {
        "https": listeners["gateway"]["address"]["socket_address"]["port_value"],
        "metrics": listeners["metrics"]["address"]["socket_address"]["port_value"],
    }
    drain = (Path(__file__).parents[2] / "images/gateway/drain").read_text()
    assert f"KIVA_OPERATIONS_PORT:-{POD_FILES.operations_port}" in drain
    assert envoy["startupProbe"]["httpGet"]["path"] == envoy["readinessProbe"]["httpGet"]["path"] == READY
    assert envoy["livenessProbe"]["httpGet"]["path"] == LIVE


def test_only_a_change_that_envoy_cannot_take_over_makes_new_pods():
    files = texts()
    before = the(made(files=files), "Deployment")
    assert the(made(files={**files, "routes.json": "{}", "revoked.json": "{}"}), "Deployment") == before
    assert the(made(files={**files, "bootstrap.json": "{}"}), "Deployment") != before
    metered = the(made("load-balancer"), "Deployment")
    assert the(made("load-balancer", meter={"orders": "{}"}), "Deployment") == metered


def test_the_meter_starts_before_the_gateway_and_ends_after_it():
    spec = pod(made("load-balancer"))
    assert [(one["name"], one.get("restartPolicy")) for one in spec["initContainers"]] == [("first-quota", None), ("meter", "Always"), ("usage", "Always")]
    assert [one["name"] for one in spec["containers"]] == ["envoy"]


def test_each_container_gets_only_the_secrets_it_needs():
    manifests = made("external-secrets")
    assert [name for name in ("first-quota", "meter", "usage", "envoy") if "/etc/kiva/tls" in mounts(manifests, name)] == ["envoy"]
    assert [name for name in ("first-quota", "meter", "usage", "envoy") if "env" in container(manifests, name)] == ["meter"]
    (password,) = container(manifests, "meter")["env"]
    assert password == {"name": "KIVA_LEDGER_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "kiva-ledger", "key": "password"}}}
    assert mounts(manifests, "envoy")["/var/kiva/quota"]["readOnly"] is True


def test_without_orders_there_is_no_meter():
    manifests = made()
    assert [one["name"] for one in pod(manifests)["initContainers"]] == ["first-quota"]
    assert "nothing is metered" in notes(CHART, shape_values(CHART, "minimal"), NAME)


def test_usage_is_fetched_only_when_asked():
    assert [one["name"] for one in pod(made("load-balancer", usage={"command": []}))["initContainers"]] == ["first-quota", "meter"]


def test_no_request_is_cut_in_a_rollout():
    manifests = made(drain={"seconds": 3600, "settleSeconds": 20})
    deployment = the(manifests, "Deployment")["spec"]
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert container(manifests, "envoy")["lifecycle"]["preStop"]["exec"]["command"] == ["/usr/local/bin/drain", "3600", "20"]
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] > 3600 + 20 + 30


def service(manifests: list[Json]) -> Json:
    return the(manifests, "Service", NAME)["spec"]


@pytest.mark.parametrize(
    ("shape", "kind", "extra"),
    [
        ("minimal", "ClusterIP", set()),
        ("node-port", "NodePort", {"externalTrafficPolicy"}),
        ("load-balancer", "LoadBalancer", {"externalTrafficPolicy", "loadBalancerClass", "loadBalancerSourceRanges"}),
        ("ingress", "ClusterIP", set()),
        ("gateway-api", "ClusterIP", set()),
    ],
)
def test_how_it_is_reached(shape, kind, extra):
    found = service(made(shape))
    assert found["type"] == kind
    assert found.keys() == {"type", "selector", "ports", *extra}
    assert found["ports"][0]["targetPort"] == "https"


def test_a_node_port_for_everyone_is_served_by_every_node():
    assert "externalTrafficPolicy" not in service(made("node-port", expose={"allowed": []}))


def test_allowed_networks_are_kept_twice():
    manifests = made("load-balancer")
    assert service(manifests)["loadBalancerSourceRanges"] == ["10.0.0.0/8", "2001:db8::/32"]
    first = the(manifests, "NetworkPolicy")["spec"]["ingress"][0]
    assert [entry["ipBlock"]["cidr"] for entry in first["from"]] == ["10.0.0.0/8", "2001:db8::/32"]
    assert "from" not in the(made(), "NetworkPolicy")["spec"]["ingress"][0]


def test_tls_goes_through_an_ingress():
    ingress = the(made("ingress"), "Ingress")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/ssl-passthrough"] == "true"
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert "tls" not in ingress["spec"], "the controller has no certificate to end TLS with"
    other = the(made("ingress-haproxy"), "Ingress")["metadata"]["annotations"]
    assert other["haproxy-ingress.github.io/ssl-passthrough"] == "true"
    own = made("ingress", expose={"annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "GRPCS"}})
    assert the(own, "Ingress")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPCS"


def test_tls_goes_through_a_gateway_of_the_cluster():
    route = the(made("gateway-api"), "TLSRoute")
    assert route["spec"]["parentRefs"] == [{"namespace": "infra", "name": "public", "sectionName": "tls"}]
    assert route["spec"]["hostnames"] == ["llm.example.org"]
    assert route["spec"]["rules"] == [{"backendRefs": [{"name": NAME, "port": 4000}]}]
    assert "sectionName" not in the(made("gateway-api", expose={"class": "infra/public"}), "TLSRoute")["spec"]["parentRefs"][0]


@pytest.mark.parametrize(
    ("known", "version"),
    [((), "v1"), (("v1alpha3",), "v1alpha3"), (("v1alpha3", "v1"), "v1")],
)
def test_a_cluster_with_an_older_gateway_api_gets_the_route_it_knows(known, version):
    versions = [word for one in known for word in ("--api-versions", f"gateway.networking.k8s.io/{one}/TLSRoute")]
    text = run_helm("template", NAME, str(CHARTS / CHART), *versions, "--values", "-", stdin=json.dumps(shape_values(CHART, "gateway-api")))
    assert re.findall(r"apiVersion: (gateway\S+)", text) == [f"gateway.networking.k8s.io/{version}"]


def test_a_certificate_names_all_ways_to_the_gateway():
    spec = the(made("cert-manager"), "Certificate")["spec"]
    assert spec["dnsNames"] == [f"{NAME}.kiva.svc", f"{NAME}.kiva.svc.cluster.local", "llm.example.org", "llm.intern.example.org"]
    assert spec["ipAddresses"] == ["192.0.2.7", "2001:db8::7"]
    assert spec["issuerRef"] == {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "state-ca"}
    volume = next(volume for volume in pod(made("cert-manager"))["volumes"] if volume["name"] == "tls")
    assert volume["secret"]["secretName"] == spec["secretName"] == f"{NAME}-tls"


def test_a_fetched_certificate_is_a_tls_secret():
    spec = the(made("external-secrets"), "ExternalSecret", f"{NAME}-tls")["spec"]
    assert spec["target"] == {"name": f"{NAME}-tls", "creationPolicy": "Owner", "template": {"type": "kubernetes.io/tls"}}
    assert [entry["secretKey"] for entry in spec["data"]] == ["tls.crt", "tls.key"]
    assert {entry["remoteRef"]["property"] for entry in spec["data"]} == {"tls.crt", "tls.key"}


def test_a_secret_of_the_users_is_mounted_and_none_is_made():
    manifests = made(tls={"secret": "theirs"})
    assert next(volume for volume in pod(manifests)["volumes"] if volume["name"] == "tls")["secret"]["secretName"] == "theirs"
    assert not {"Secret", "Certificate", "ExternalSecret"} & set(kinds(manifests))


def test_the_ledger_in_a_file_outlives_the_release_and_keeps_the_next_pod_near():
    manifests = made("one-machine")
    claim = the(manifests, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["storageClassName"] == "local-path"
    (term,) = pod(manifests)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert "PersistentVolumeClaim" not in kinds(made("existing-claim"))
    assert {"claimName": "ledger-of-last-year"} in [volume.get("persistentVolumeClaim") for volume in pod(made("existing-claim"))["volumes"]]


def test_gateways_keep_away_from_each_other_by_node_and_zone():
    assert [entry["topologyKey"] for entry in pod(made())["topologySpreadConstraints"]] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert [entry["topologyKey"] for entry in pod(made("autoscaling"))["topologySpreadConstraints"]] == ["topology.kubernetes.io/zone"]
    assert "topologySpreadConstraints" not in pod(made(placement={"spread": ""}))


def test_while_load_decides_nobody_else_says_how_many_there_are():
    manifests = made("autoscaling")
    assert "replicas" not in the(manifests, "Deployment")["spec"]
    spec = the(manifests, "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 12)
    (metric,) = spec["metrics"]
    assert metric["containerResource"]["container"] == "envoy"
    assert metric["containerResource"]["target"] == {"type": "Utilization", "averageUtilization": 60}


def test_a_single_gateway_has_no_disruption_budget():
    assert "PodDisruptionBudget" in kinds(made())
    assert "PodDisruptionBudget" not in kinds(made(replicas=1))
    assert "PodDisruptionBudget" not in kinds(made(disruptionBudget={"enabled": False}))


def test_metrics_are_read_from_one_namespace_or_from_nowhere():
    rules = the(made("load-balancer"), "NetworkPolicy")["spec"]["ingress"]
    assert rules[1] == {
        "ports": [{"protocol": "TCP", "port": "metrics"}],
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    }
    assert [rule["ports"][0]["port"] for rule in the(made(), "NetworkPolicy")["spec"]["ingress"]] == ["https"]


def test_what_goes_out_goes_to_engines_of_the_platform_to_dns_and_where_asked():
    dns, engines = the(made(platform="other"), "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert engines["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/component": "engine", "kiva/platform": "other"}}}]
    assert engines["ports"] == [{"protocol": "TCP", "port": 8000}]
    assert the(made("load-balancer"), "NetworkPolicy")["spec"]["egress"][2]["ports"] == [{"protocol": "TCP", "port": 5432}]
    assert "NetworkPolicy" not in kinds(made(networkPolicy={"enabled": False}))


def test_ports_below_1024_need_no_rights():
    assert pod(made("node-port"))["securityContext"]["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "443"}]
    assert "sysctls" not in pod(made())["securityContext"]


@pytest.mark.parametrize(
    ("shape", "changes", "sentence"),
    [
        ("minimal", {"image": {"reference": ""}}, "image.reference is empty"),
        ("minimal", {"image": {"reference": "registry.example.org/gateway:1.0"}}, "has no digest"),
        ("load-balancer", {"tools": {"reference": ""}}, "tools.reference is empty"),
        ("load-balancer", {"tools": {"reference": "tools:1"}}, "tools.reference 'tools:1' has no digest"),
        ("minimal", {"files": {"bootstrap.json": "{}"}}, "files lacks listeners.json"),
        ("one-machine", {"replicas": 2}, "belongs to one gateway"),
        ("one-machine", {"autoscaling": {"enabled": True}}, "belongs to one gateway"),
        ("existing-claim", {"meter": {"stateClaim": {"create": True}}}, "`create` must be false"),
        ("cert-manager", {"tls": {"externalSecret": {"store": "s", "key": "k"}}}, "either cert-manager"),
        ("external-secrets", {"tls": {"externalSecret": {"key": ""}}}, "tls.externalSecret.key is empty"),
        ("ingress", {"expose": {"host": ""}}, "expose.host is empty"),
        ("gateway-api", {"expose": {"allowed": ["10.0.0.0/8"]}}, "expose.allowed cannot be kept"),
        ("gateway-api", {"expose": {"class": "public"}}, "NAMESPACE/NAME"),
        ("node-port", {"expose": {"class": "x"}}, "means nothing for node-port"),
        ("autoscaling", {"autoscaling": {"min": 13}}, "autoscaling.min is more"),
        ("minimal", {"replicas": 0}, "replicas"),
        ("minimal", {"expose": {"kind": "nodeport"}}, "kind"),
        ("minimal", {"expose": {"allowed": ["everyone"]}}, "allowed"),
        ("minimal", {"ports": {"https": 70000}}, "https"),
    ],
)
def test_what_cannot_work_is_refused_and_named(shape, changes, sentence):
    with pytest.raises(Refused, match=re.escape(sentence)):
        made(shape, **changes)


def test_a_file_that_no_config_map_holds_is_refused_and_named():
    files = {**shape_values(CHART, "minimal")["files"], "routes.json": "x" * 1_048_577}
    with pytest.raises(Refused, match=r"files.routes\\?.json has 1048577 bytes"):
        made(files=files)


def test_an_image_by_tag_is_for_those_who_ask_for_it():
    assert container(made(image={"reference": "gateway:dev", "unpinned": True}), "envoy")["image"] == "gateway:dev"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("minimal", "https://kiva-gateway.kiva.svc:4000/v1"),
        ("minimal", "The pods wait for the Secret kiva-gateway-tls"),
        ("load-balancer", "https://llm.example.org:443/v1"),
        ("node-port", "https://NODE:30443/v1"),
        ("ingress", "--enable-ssl-passthrough"),
        ("gateway-api", "tls.mode: Passthrough"),
        ("cert-manager", "cert-manager makes the certificate"),
        ("external-secrets", "External Secrets fetches the certificate"),
    ],
)
def test_the_notes_say_what_comes_next(shape, said):
    assert said in notes(CHART, shape_values(CHART, shape), NAME)


def on_cluster(**values: Any) -> Platform:
    digest = "@sha256:" + "0123456789abcdef" * 4
    images = {name: f"registry.example.org/kiva/{name}{digest}" for name in ("engine", "gateway", "tools")}
    cluster = {"context": "prod", "images": images, "storage": {"size": "20GiB"}, **values.pop("cluster", {})}
    model = {"name": "qwen", "source": "Qwen/Qwen2.5-7B-Instruct", "revision": "989aa7980e4cf806f80c7fef2b1adb7bc71aa306"}
    return Platform.model_validate({"name": "kiva", "target": "kubernetes", "kubernetes": cluster, "models": [model], **values})


def on_postgresql(*, cluster: Json, **values: Any) -> Json:
    return {"usage": {"ledger": "postgresql://kiva@db.example.org/usage"}, "cluster": {"ledger_secret": "ledger", **cluster}, **values}


@pytest.mark.parametrize(
    "values",
    [
        {"cluster": {"gateway": {"replicas": 1}}},
        on_postgresql(cluster={"gateway": {"expose": "load-balancer", "allowed": ["10.0.0.0/8"]}}),
        on_postgresql(cluster={"gateway": {"expose": "gateway-api", "class_name": "infra/public", "host": "llm.example.org"}}),
        on_postgresql(cluster={"gateway": {"certificate": "cluster-issuer:ca"}}, gateway={"tls": {"names": ["10.0.0.1"]}}),
        on_postgresql(cluster={"secrets": "external:vault", "gateway": {"certificate": "secret:tls"}}),
        on_postgresql(cluster={}, gateway={"port": 443, "request_timeout": "5s", "wait": "1s"}),
    ],
)
def test_what_kivactl_computes_is_what_the_chart_takes(values):
    spec = on_cluster(**values)
    computed = gateway_values_for(spec, jwks=JWKS, revoked=["a"])
    manifests = render(CHART, computed, NAME)
    assert faults_of(manifests) == []
    assert [fault for manifest in manifests for fault in schema_faults(manifest, KUBERNETES[0])] == []
    shown = {manifest["metadata"]["name"]: manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"}
    assert json.loads(shown[f"{NAME}-routes"]["routes.json"]) == routes_for(spec)
    assert json.loads(shown[f"{NAME}-meter"]["meter.json"])["engines"] == ["kiva-qwen-all.kiva.svc.cluster.local:8000"]
    listener = json.loads(shown[f"{NAME}-listeners"]["listeners.json"])["resources"][0]
    assert container(manifests, "envoy")["ports"][0]["containerPort"] == listener["address"]["socket_address"]["port_value"]


def test_the_gateway_may_connect_to_what_its_configuration_names():
    issuer = {"issuer": "https://sso.example.org", "audience": "kiva", "jwks": "https://10.0.0.7:8443/keys"}
    spec = on_cluster(**on_postgresql(cluster={}, gateway={"issuers": [issuer], "tracing": {"otlp": "http://collector:4318"}}))
    _, _, *others = the(render(CHART, gateway_values_for(spec, jwks=JWKS), NAME), "NetworkPolicy")["spec"]["egress"]
    assert others == [
        {"ports": [{"protocol": "TCP", "port": 8443}], "to": [{"ipBlock": {"cidr": "10.0.0.7/32"}}]},
        {"ports": [{"protocol": "TCP", "port": 4318}]},
        {"ports": [{"protocol": "TCP", "port": 5432}]},
    ]
