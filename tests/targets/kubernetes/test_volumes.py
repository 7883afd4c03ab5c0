"""How full volumes are, by what containers say that have them."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kivactl.errors import ToolError
from kivactl.targets.kubernetes.volumes import Volume, volumes_of
from kivactl.tools.kube_errors import Denied
from kivactl.tools.kube_objects import Ran


def pod(name, claim, *, running=True, container="meter"):
    state = {"running": {}} if running else {"waiting": {}}
    mounts = [{"name": "data", "mountPath": f"/{claim}"}, {"name": "tmp", "mountPath": "/tmp"}]
    spec = {
        "containers": [{"name": "envoy"}],
        "initContainers": [{"name": container, "volumeMounts": mounts}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}, {"name": "tmp", "emptyDir": {}}],
    }
    return {"metadata": {"name": name}, "spec": spec, "status": {"initContainerStatuses": [{"name": container, "state": state}]}}


def cluster(pods, run):
    return SimpleNamespace(list=lambda *_: SimpleNamespace(items=pods), run_in=run)


def test_each_volume_once_the_fullest_first_by_the_first_container_that_answers():
    free = {"/ledger": [100, 5], "/models": [1000, 500]}

    def run(name, container, argv, **_more):
        assert (container, argv[:2]) == ("meter", ["python3", "-c"])
        if name == "b":
            raise Denied("not this one")
        return Ran(0, json.dumps([free[argv[3]]]), "")

    pods = [pod("a", "models"), pod("b", "ledger"), pod("c", "ledger"), pod("d", "other", running=False)]
    assert volumes_of(cluster(pods, run), "kiva") == [Volume("ledger", 100, 5), Volume("models", 1000, 500)]


@pytest.mark.parametrize("ran", [Ran(127, "", "python3: not found\n"), Ran(0, "odd", ""), Ran(0, "[]", "")])
def test_what_cannot_be_seen_is_not_said_to_be_empty(ran):
    with pytest.raises(ToolError, match=r"how full the volume ledger is cannot be seen in pod a: (python3: not found|exit code 0)"):
        volumes_of(cluster([pod("a", "ledger")], lambda *_args, **_more: ran), "kiva")


def test_a_missing_permission_is_told():
    def run(*_args, **_more):
        raise Denied("may not")

    with pytest.raises(Denied):
        volumes_of(cluster([pod("a", "ledger")], run), "kiva")
    assert volumes_of(cluster([], run), "kiva") == []


def test_what_is_run_in_the_container_tells_what_the_file_system_says(tmp_path):
    def run(_pod, _container, argv, **_more):
        ran = subprocess.run([sys.executable, *argv[1:3], str(tmp_path)], capture_output=True, text=True, check=True)
        return Ran(0, ran.stdout, "")

    (found,) = volumes_of(cluster([pod("a", "ledger")], run), "kiva")
    assert 0 <= found.free_bytes <= found.size_bytes
    assert found.size_bytes > 0
