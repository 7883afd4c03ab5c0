"""The chart kiva-monitoring: its rules fire when they should, ask for metrics that exist, and reach Prometheus and Grafana in each style."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm.charts import CHARTS, Refused, charts, kinds, notes, render, shape_values, shapes, the

from kivactl.spec.platform import Model, Platform, ServiceLevels
from kivactl.stack.monitoring import GATEWAY_METRICS, levels_rules_for

pytestmark = pytest.mark.charts

CHART = CHARTS / "kiva-monitoring"
RULES = CHART / "rules" / "kiva.rules.yaml"
HERE = Path(__file__).parent
RECORDED = HERE / "recorded"

FOREIGN = {
    "up": {"platform", "component"},  # of Prometheus itself, with the labels that scrape.yaml gives to targets
    "ALERTS": {"platform", "alertname", "alertstate"},
    "DCGM_FI_DEV_GPU_UTIL": {"pod", "exported_pod"},  # NVIDIA's DCGM exporter, where there is one
}
TARGET_LABELS = {"platform", "component", "model", "namespace", "pod", "instance"}

Json = dict[str, Any]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus")


def promtool(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, argv)], capture_output=True, text=True, timeout=120, check=False)


@cache
def static_rules() -> list[Json]:
    """Every rule of the file as it is."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = [rule["alert"] for rule in static_rules() if "alert" in rule]


@cache
def dashboard_expressions() -> list[tuple[str, str]]:
    """Where and what every panel and variable asks, with Grafana's variables filled in."""
    found = []
    for path in sorted(CHART.glob("dashboards/*.json")):
        board = json.loads(path.read_text())
        asked = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
        filled = {"$platform": "kiva", "$model": "m", "$__rate_interval": "5m"}
        for title, expression in asked:
            for name, value in filled.items():
                expression = expression.replace(name, value)
            found.append((f"{path.stem}: {title}", expression))
    return found


def expressions() -> list[tuple[str, str]]:
    return [*((rule.get("alert") or rule["record"], rule["expr"]) for rule in static_rules()), *dashboard_expressions()]


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Every metric that an expression reads, with its matchers."""
    return [
        (name, {label: sign + value for label, sign, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers)})
        for name, matchers in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression)
    ]


@cache
def offered() -> dict[str, set[str]]:
    """Metrics that real engines and gateways offered when they were recorded, and those that the rules record, each with its labels."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in FOREIGN.items()}
    for path in RECORDED.glob("*.txt"):
        for name, labels in re.findall(r"^([a-zA-Z_:][\w:]*)\{([^}]*)\}", path.read_text(), re.MULTILINE):
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels), TARGET_LABELS)
    for rule in [*static_rules(), *levels()["groups"][0]["rules"]]:
        if "record" in rule:
            found[rule["record"]] = {"platform", "envoy_response_code_class", "model_name", "workload", "namespace"}
    return found


@cache
def levels() -> Json:
    return yaml.safe_load((HERE / "rules" / "levels.rules.yaml").read_text())


def files_for_prometheus(**values: Any) -> dict[str, str]:
    manifests = render("kiva-monitoring", {"platform": "kiva", "style": "prometheus", **values}, "kiva-monitoring")
    return the(manifests, "ConfigMap", "kiva-monitoring-prometheus")["data"]


@needs_promtool
def test_the_rules_are_rules_as_they_stand_and_as_they_are_rendered(tmp_path):
    for name, text in {
        "static.yaml": RULES.read_text(),
        **{name: text for name, text in files_for_prometheus(models=["m"]).items() if "rules" in name},
    }.items():
        (tmp_path / name).write_text(text)
        checked = promtool("check", "rules", tmp_path / name)
        assert checked.returncode == 0, checked.stderr


@needs_promtool
@pytest.mark.parametrize("path", sorted((HERE / "rules").glob("*.test.yaml")), ids=lambda path: path.name.removesuffix(".test.yaml"))
def test_alerts_fire_when_they_should(path):
    tested = promtool("test", "rules", path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
def test_a_threshold_that_moves_is_noticed(tmp_path):
    (tmp_path / "kiva.rules.yaml").write_text(RULES.read_text().replace("> 0.05", "> 0.15"))
    (tmp_path / "levels.rules.yaml").write_text(yaml.safe_dump(levels()))
    case = yaml.safe_load((HERE / "rules" / "errors.test.yaml").read_text())
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({**case, "rule_files": ["kiva.rules.yaml", "levels.rules.yaml"]}))
    assert promtool("test", "rules", tmp_path / "case.yaml").returncode != 0


@pytest.mark.parametrize("alert", ALERTS)
def test_of_every_alert_both_is_tested_that_it_fires_and_that_it_does_not(alert):
    cases = [case for path in (HERE / "rules").glob("*.test.yaml") for group in yaml.safe_load(path.read_text())["tests"] for case in group["alert_rule_test"]]
    assert {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert} == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_wrong_and_what_to_do(alert):
    (rule,) = [rule for rule in static_rules() if rule.get("alert") == alert]
    assert set(rule["annotations"]) == {"summary", "description", "action"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert "kivactl" in rule["annotations"]["action"]


def test_the_runbooks_that_alerts_name_exist():
    named = {name for rule in static_rules() for name in re.findall(r"kivactl runbook ([\w-]+)", rule.get("annotations", {}).get("action", ""))}
    assert named
    assert [name for name in named if not (CHARTS.parent / "runbooks" / f"{name}.yaml").is_file()] == []


def test_rules_and_dashboards_ask_only_for_metrics_and_labels_that_were_seen():
    unknown = []
    for where, expression in expressions():
        for name, matchers in selectors(expression):
            if name not in offered():
                unknown.append(f"{where}: {name}")
            else:
                unknown += [f"{where}: {name} has no label {label}" for label in set(matchers) - offered()[name]]
    assert unknown == []


def test_no_metric_is_read_without_a_matcher():
    bare = [
        (where, name) for where, expression in expressions() for name in re.findall(r"(?<![\w:])((?:vllm|kiva):[\w:]+|envoy_[a-z]\w+)(?![\w:{])", expression)
    ]
    labels = {"envoy_cluster_name", "envoy_response_code_class", "envoy_http_conn_manager_prefix", "envoy_tls_certificate", "envoy_local_http_ratelimit_prefix"}
    assert [(where, name) for where, name in bare if name not in labels] == []


def test_every_metric_is_of_one_platform():
    open_ones = [
        f"{where}: {name}"
        for where, expression in expressions()
        for name, matchers in selectors(expression)
        if "platform" not in matchers and not name.startswith("DCGM")
    ]
    assert open_ones == []


def test_the_rules_of_two_platforms_in_one_prometheus_do_not_meet():
    for name, text in files_for_prometheus(platform="prod").items():
        assert 'platform!=""' not in text, name
    text = files_for_prometheus(platform="prod")["kiva.rules.yaml"]
    assert text.count('platform="prod"') == RULES.read_text().count('platform!=""') > 20


def test_both_styles_have_the_same_rules():
    plain = files_for_prometheus(models=["m"])
    operator = render("kiva-monitoring", {"platform": "kiva", "style": "operator", "models": ["m"]}, "kiva-monitoring")
    assert the(operator, "PrometheusRule", "kiva-monitoring-rules")["spec"] == yaml.safe_load(plain["kiva.rules.yaml"])
    assert the(operator, "PrometheusRule", "kiva-monitoring-levels")["spec"] == yaml.safe_load(plain["levels.rules.yaml"])


def test_the_levels_are_the_same_from_the_chart_from_kivactl_and_in_the_tests_of_rules():
    platform = Platform(
        name="kiva",
        models=(Model(name="llama-3.1-8b", source="a/b", replicas=2),),
        service_levels=ServiceLevels(ttft_p95="2s", tpot_p95="200ms", error_ratio=0.01),
    )
    of_kivactl = levels_rules_for(platform)
    values = {"levels": {"ttft_p95_s": 2.0, "tpot_p95_s": 0.2, "error_ratio": 0.01}, "models": [{"name": "llama-3.1-8b", "replicas": 2}]}
    assert yaml.safe_load(files_for_prometheus(**values)["levels.rules.yaml"]) == of_kivactl
    tested = levels()["groups"][0]["rules"]
    assert tested[: len(of_kivactl["groups"][0]["rules"])] == of_kivactl["groups"][0]["rules"]


@needs_promtool
def test_a_plain_prometheus_reads_the_scrape_configuration(tmp_path):
    text = files_for_prometheus()["scrape.yaml"]
    content = yaml.safe_load(text)
    for job in content["scrape_configs"]:  # Debian's Prometheus is built without Kubernetes
        job["static_configs"] = [{"targets": [job.pop("kubernetes_sd_configs")[0]["namespaces"]["names"][0]]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(content))
    checked = promtool("check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    assert {name: job["metrics_path"] for name, job in jobs.items()} == {"kiva/kiva/engine": "/metrics", "kiva/kiva/gateway": GATEWAY_METRICS}
    for job in jobs.values():
        assert {one["target_label"] for one in job["relabel_configs"] if "target_label" in one} == TARGET_LABELS


def test_both_styles_read_the_same_pods():
    jobs = yaml.safe_load(files_for_prometheus()["scrape.yaml"])["scrape_configs"]
    monitors = [one for one in render("kiva-monitoring", {"platform": "kiva", "style": "operator"}, "kiva-monitoring") if one["kind"] == "PodMonitor"]
    for job, monitor in zip(jobs, monitors, strict=True):
        (service,) = job["kubernetes_sd_configs"]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert dict(pair.split("=") for pair in service["selectors"][0]["label"].split(",")) == monitor["spec"]["selector"]["matchLabels"]
        assert service["namespaces"]["names"] == monitor["spec"]["namespaceSelector"]["matchNames"] == ["kiva"]
        assert (endpoint["path"], endpoint["interval"]) == (job["metrics_path"], job["scrape_interval"])
        assert endpoint["port"] == job["relabel_configs"][1]["regex"]
        assert [one["targetLabel"] for one in endpoint["relabelings"]] == [one["target_label"] for one in job["relabel_configs"][2:]]


@pytest.mark.parametrize(("chart", "component"), [("kiva-engine", "engine"), ("kiva-gateway", "gateway")])
def test_the_pods_that_are_looked_for_are_those_that_the_other_charts_make(chart, component):
    if chart not in charts():
        pytest.skip(f"there is no chart {chart} in this checkout")
    values = {**shape_values(chart, shapes(chart)[0]), "platform": "kiva"}
    (pods,) = [one["spec"]["template"] for one in render(chart, values, "kiva-x") if one["kind"] == "Deployment"]
    (job,) = [job for job in yaml.safe_load(files_for_prometheus()["scrape.yaml"])["scrape_configs"] if job["job_name"].endswith(component)]
    wanted = dict(pair.split("=") for pair in job["kubernetes_sd_configs"][0]["selectors"][0]["label"].split(","))
    assert wanted.items() <= pods["metadata"]["labels"].items()
    ports = [port["name"] for container in pods["spec"]["containers"] for port in container.get("ports", [])]
    assert ports.count(job["relabel_configs"][1]["regex"]) == 1
    if component == "engine":
        assert "kiva/model" in pods["metadata"]["labels"]


def test_everything_is_made_where_prometheus_runs():
    for style in ("prometheus", "operator"):
        assert {one["metadata"]["namespace"] for one in render("kiva-monitoring", {"style": style, "namespace": "monitoring"})} == {"monitoring"}
        assert {one["metadata"]["namespace"] for one in render("kiva-monitoring", {"style": style})} == {"kiva"}


def test_grafanas_sidecar_finds_the_dashboards():
    boards = render("kiva-monitoring", {"style": "none", "dashboards": {"labels": {"grafana_dashboard": "yes"}}})
    assert kinds(boards) == ["ConfigMap"] * 4
    contents = [json.loads(text) for one in boards for text in one["data"].values()]
    assert sorted(board["uid"] for board in contents) == ["kiva-engines", "kiva-gateway", "kiva-overview", "kiva-tenants"]
    assert all(one["metadata"]["labels"]["grafana_dashboard"] == "yes" and one["metadata"]["annotations"] == {"grafana_folder": "Kiva"} for one in boards)
    names = [name for one in boards for name in one["data"]]
    assert len(set(names)) == len(names), "the sidecar writes all of them into one folder"


@pytest.mark.parametrize("path", sorted(CHART.glob("dashboards/*.json")), ids=lambda path: path.stem)
def test_a_dashboard_holds_together(path):
    board = json.loads(path.read_text())
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps([board["panels"], board["templating"]])))
    assert used <= variables
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@needs_promtool
def test_prometheus_understands_what_the_dashboards_ask(tmp_path):
    rules = [{"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(dashboard_expressions())]
    assert len(rules) > 50
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", tmp_path / "panels.yaml")
    assert checked.returncode == 0, checked.stderr


def test_switches():
    assert kinds(render("kiva-monitoring", {"style": "none", "dashboards": {"enabled": False}})) == []
    assert set(files_for_prometheus(rules={"enabled": False})) == {"scrape.yaml"}
    assert kinds(render("kiva-monitoring", {"style": "operator", "rules": {"enabled": False}, "dashboards": {"enabled": False}})) == ["PodMonitor"] * 2


@pytest.mark.parametrize(
    "values",
    [
        {"style": "influx"},
        {"levels": {"ttft_p95_s": 0}},
        {"levels": {"ttft_p99_s": 1}},
        {"models": [{"name": "m"}]},
        {"models": ["M"]},
        {"intervalSeconds": 1},
        {"dashboard": {}},
    ],
    ids=str,
)
def test_values_that_mean_nothing_are_refused(values):
    with pytest.raises(Refused, match="schema"):
        render("kiva-monitoring", values)


def test_the_notes_say_how_prometheus_gets_it():
    text = notes("kiva-monitoring", {"namespace": "monitoring"}, "kiva-monitoring")
    assert "configMap: kiva-monitoring-prometheus" in text
    assert "`models` is empty" in text
    assert "kube-prometheus" not in text
    assert "release=stack" in notes("kiva-monitoring", {"style": "operator", "operatorLabels": {"release": "stack"}, "models": ["m"]})
    assert "nothing is scraped" in notes("kiva-monitoring", {"style": "none"})
