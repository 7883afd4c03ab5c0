"""A real Prometheus beside a real gateway: the list of targets and the alert rules that a deploy leaves are all that it needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from kivactl.root import content
from kivactl.spec.gateway import Tenant
from kivactl.spec.platform import Model
from kivactl.stack.monitoring import levels_rules_for, scrape_targets_for

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not here: apt-get install prometheus"),
]

MODELS = (Model(name="m", source="x", replicas=2), Model(name="small.v2", source="x"))


class Prometheus:
    """A running Prometheus that looks every second."""

    def __init__(self, folder: Path, port: int, targets: object, levels: object) -> None:
        self._url = f"http://127.0.0.1:{port}"
        (folder / "targets.json").write_text(json.dumps(targets))
        (folder / "levels.rules.json").write_text(json.dumps(levels))
        rules = yaml.safe_load((content("helm") / "kiva-monitoring" / "rules" / "kiva.rules.yaml").read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / "kiva.rules.yaml").write_text(yaml.safe_dump(rules))
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "*.rules.*")],
            "scrape_configs": [{"job_name": "kiva", "file_sd_configs": [{"files": [str(folder / "targets.json")]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        argv = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

    def _ask(self, path: str) -> list[dict]:
        try:
            with urllib.request.urlopen(f"{self._url}{path}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return []

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Values by the model's name, or nothing where there is none."""
        data = self._ask(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        found = data["result"] if data else []
        return {(one["metric"].get("model_name", ""),): float(one["value"][1]) for one in found}

    def alerts(self) -> set[tuple[str, str]]:
        """Alerts that wait or fire, with the model they are about."""
        data = self._ask("/api/v1/alerts")
        return {(one["labels"]["alertname"], one["labels"].get("model_name", "")) for one in (data["alerts"] if data else [])}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def gateway(start_gateway):
    return start_gateway(models=MODELS, tenants=(Tenant(name="police"),), wait="0s")


@pytest.fixture(scope="module")
def prometheus(gateway, tmp_path_factory, free_port):
    names = {model.name: [f"{model.name}-{index}" for index in range(model.replicas)] for model in MODELS}
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), free_port, scrape_targets_for(gateway.platform, names), levels_rules_for(gateway.platform))
    yield running
    running.stop()


def test_the_rules_find_what_the_gateway_shows(gateway, prometheus):
    def counted():
        gateway.serves()
        return prometheus.query("kiva:requests:rate5m") and prometheus.query("kiva:gateways_up:count")

    gateway.until(counted)
    gateway.until(lambda: prometheus.query("kiva:replicas_healthy:min") == {("m",): 2.0, ("small.v2",): 1.0})
    assert prometheus.query("kiva:replicas_expected") == {("m",): 2.0, ("small.v2",): 1.0}
    assert prometheus.query("kiva:level:ttft_p95_seconds") == {("",): 2.0}
    assert ("KivaNoReplica", "small.v2") not in prometheus.alerts()
    assert not {name for name, _ in prometheus.alerts()} & {"KivaGatewayDown", "KivaReplicasMissing"}


def test_a_model_without_a_replica_raises_an_alert(gateway, prometheus):
    gateway.until(lambda: prometheus.query("kiva:replicas_healthy:min"))
    gateway.engines["small.v2-0"].kill()
    gateway.until(lambda: ("KivaNoReplica", "small.v2") in prometheus.alerts())
    assert ("KivaNoReplica", "m") not in prometheus.alerts()

    def fails_more_often_than_promised():
        gateway.ask({"model": "small.v2"})
        return prometheus.query("kiva:error_ratio:rate5m > 0.05")

    gateway.until(fails_more_often_than_promised)
