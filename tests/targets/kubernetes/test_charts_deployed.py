"""The platform's own charts, deployed: nothing differs afterwards, and a change shows what it is and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cluster_site import NAMESPACE, Site, desired, engine
from cluster_specs import model, platform_on_cluster
from gateway_specs import JWKS

from kivactl.plan import Verb
from kivactl.root import content
from kivactl.targets.kubernetes.desired import cluster_desired_for

pytestmark = pytest.mark.charts


def wanted(*models, **values):
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kiva-gateway-tls"},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": "YQ==", "tls.key": "Yg=="},
    }
    platform = platform_on_cluster(*models, **values)
    return cluster_desired_for(platform, endpoint="https://llm.example.org/v1", jwks=JWKS, objects=[secret])


@pytest.fixture
def own(site: Site) -> Site:
    site.kubelet.storage_class("disk", default=True)
    site.kubelet.node("gpu-2", gpus=4, cpu="64", memory="512Gi")
    site.target = replace(site.target, charts=content("helm"))
    return site


def test_after_a_deploy_nothing_differs(own):
    one = wanted()
    own.deploy(one)
    assert own.ready("kiva-qwen") == 1
    assert own.target.plan(one, "x").changes == ()
    assert own.target.drift() == ()


def test_an_option_of_the_engine_shows_as_itself(own):
    own.deploy(wanted())
    (change,) = own.target.plan(wanted(model(max_length=4096)), "x").changes
    assert (change.verb, change.subject) == (Verb.REPLACE, "engine qwen")
    fields = {one.path.removeprefix("Deployment kiva-qwen "): (one.before, one.after) for one in change.differences}
    (option,) = (path for path in fields if path.endswith("(--max-model-len)"))
    assert fields.pop(option) == ("2048", "4096")
    assert all(path.startswith("pod.") for path in fields)


def test_shares_between_versions_show_as_weights(own):
    both = (model("v1"), model("v2"))
    own.deploy(wanted(*both, aliases=[{"name": "chat", "models": {"v1": 90, "v2": 10}}]))
    (change,) = own.target.plan(wanted(*both, aliases=[{"name": "chat", "models": {"v1": 50, "v2": 50}}]), "x").changes
    assert change.subject == "gateway"
    found = [(one.path, one.before, one.after) for one in change.differences if "weights" in one.path]
    assert found == [("ConfigMap kiva-gateway-routes routes.json: weights of chat", "v1 90, v2 10", "v1 50, v2 50")]


def test_a_model_that_goes_takes_its_objects_along(own):
    own.deploy(wanted(model("v1"), model("v2")))
    own.deploy(wanted(model("v1")))
    assert own.api.get("Deployment", "kiva-v2", NAMESPACE) is None
    assert own.target.plan(wanted(model("v1")), "x").changes == ()
    assert own.target.drift() == ()


def test_a_plan_without_a_change_asks_as_little_of_many_models_as_of_one(site):
    asked = {}
    for count in (1, 12):
        many = desired(*(engine(f"m{index}", gpus=0) for index in range(count)))
        site.deploy(many)
        before = len(site.api.requests)
        assert site.target.plan(many, "x").changes == ()
        ours = [one for one in site.api.requests[before:] if one.verb != "watch"]
        asked[count] = len(ours)
    assert asked[12] == asked[1] <= 10
