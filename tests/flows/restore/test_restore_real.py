"""A backup of a running platform is tried beside it, and put back after a disaster, with the real supervisor and gateway."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess

import httpx
import pytest
from backed_up import contents, tree_of
from light_platform import Light, interpreter

from kivactl.flows.deploy import Deployment
from kivactl.flows.restore.examination import examined
from kivactl.flows.restore.losing import forget, strike, undo
from kivactl.flows.restore.places import places_for, trial_of
from kivactl.flows.restore.putting import as_before, clear, finish, put_back, take_back
from kivactl.spec.load import load, paths
from kivactl.stack.layout import Layout
from kivactl.targets.rollout import STATE_VARIABLE
from kivactl.tools import leftovers

pytestmark = pytest.mark.real

TRIAL = """\
import json, sys
from pathlib import Path
from kivactl.flows.deploy import Deployment
from kivactl.flows.restore.trial import Engines, trial
from kivactl.spec.load import load, paths
from kivactl.stack.layout import Layout
spec = Path("kiva.yaml")
deployment = Deployment(load(spec), Layout(*paths(load(spec))), lambda: load(spec))
print(json.dumps(list(trial(deployment, Path(sys.argv[1]), Engines(sys.argv[2])))[-1].data["result"]))
"""
MOVING = ("logs", "usage", "backup", "run", "lock", "supervisor.log", "journal.jsonl")
"""What a running platform changes by itself."""


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restore")
    (folder / "platform").mkdir()
    light = Light(folder / "platform", interpreter(folder / "python"), folder / "cache")
    light.write(replicas=1, gateway=", tenants: [{name: police}, {name: tax}]")
    light.run("provision", "--yes")
    light.run("deploy", "--yes")
    yield light
    light.run("down", "--yes", code=None)
    for pid in light.pids():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def deployment(light):
    spec = light.folder / "kiva.yaml"
    return Deployment(load(spec), Layout(*paths(load(spec))), lambda: load(spec))


@pytest.fixture(scope="module")
def tokens(light):
    """One that is good, and one that was revoked before the backup."""
    good, bad = (json.loads(light.run("token", "issue", "police", "--output", "json")[0]) for _ in range(2))
    light.run("token", "revoke", bad["id"], "--yes")
    return good["token"], bad["token"]


@pytest.fixture(scope="module")
def tree(deployment, tokens, tmp_path_factory):
    return tree_of(deployment, tmp_path_factory.mktemp("backup") / "tree")


def asks(light, bearer):
    context = ssl.create_default_context(cafile=light.layout.ca_certificate)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with httpx.Client(verify=context, trust_env=False, timeout=60) as client:
        return client.post(f"https://127.0.0.1:{light.port}/v1/chat/completions", headers={"authorization": f"Bearer {bearer}"}, json=body).status_code


@pytest.mark.parametrize(("engines", "started"), [("never", "gateway"), ("always", "engines")])
def test_a_trial_starts_a_platform_beside_the_running_one_which_notices_nothing(light, deployment, tree, tokens, engines, started):
    pids, before = light.pids(), contents(deployment.layout.state, *MOVING)
    done = subprocess.run(
        [light.python, "-c", TRIAL, tree, engines], cwd=light.folder, env=light.environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["started"] == started
    assert light.pids() == pids
    assert contents(deployment.layout.state, *MOVING) == before
    assert leftovers.marked(STATE_VARIABLE, str(trial_of(deployment.layout) / "state")) == []
    assert not (trial_of(deployment.layout) / "state").exists()
    assert asks(light, tokens[0]) == 200


def test_after_a_disaster_the_restored_platform_lets_in_the_same_people(light, deployment, tree, tokens):
    places, run = places_for(deployment.layout), "restore-1"
    list(strike(deployment))
    assert light.pids() == []
    assert not deployment.layout.signing_key.exists()
    assert [one.message for one in clear(deployment, run, replace=False)] == ["nothing runs"]
    shutil.copytree(tree, places.fetched, symlinks=True, dirs_exist_ok=True)
    assert examined(deployment, places.fetched).notes == ()
    list(put_back(deployment, run, "aa"))
    list(deployment.target.start())
    assert [asks(light, token) for token in tokens] == [200, 401]
    list(finish(deployment))
    list(forget(deployment))
    assert [asks(light, token) for token in tokens] == [200, 401]


def test_a_disaster_that_is_undone(light, deployment, tokens):
    list(strike(deployment))
    assert light.pids() == []
    list(undo(deployment))
    assert [asks(light, token) for token in tokens] == [200, 401]


def test_a_running_platform_is_replaced_and_that_taken_back(light, deployment, tree, tokens):
    later = json.loads(light.run("token", "issue", "tax", "--output", "json")[0])["token"]
    light.run("token", "rotate-keys", "--yes")
    latest = json.loads(light.run("token", "issue", "tax", "--output", "json")[0])["token"]
    run, everybody = "restore-2", (*tokens, later, latest)
    assert [asks(light, token) for token in everybody] == [200, 401, 200, 200]
    list(clear(deployment, run, replace=True))
    shutil.copytree(tree, places_for(deployment.layout).fetched, symlinks=True)
    list(put_back(deployment, run, "aa"))
    list(deployment.target.start())
    assert [asks(light, token) for token in everybody] == [200, 401, 200, 401], "the newest key is not in the backup"
    list(take_back(deployment, run))
    list(as_before(deployment, run))
    assert [asks(light, token) for token in everybody] == [200, 401, 200, 200]
