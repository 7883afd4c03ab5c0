"""The tests' API server by itself: what it grants, refuses, remembers and breaks, as the real one would."""

from __future__ import annotations

import json
import threading

import httpx
import pytest
from kube_api.conftest import deployment
from kube_api.server import KubeApi

APPS = "/apis/apps/v1/namespaces/kiva/deployments"
MAPS = "/api/v1/namespaces/kiva/configmaps"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


@pytest.fixture
def http(api):
    with httpx.Client(base_url=api.url, timeout=30) as client:
        yield client


def config_map(name="x", **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kiva"}, "data": data}


def apply(http, value, manager="kivactl", **query):
    kind = APPS if value["kind"] == "Deployment" else MAPS
    return http.patch(f"{kind}/{value['metadata']['name']}", params={"fieldManager": manager, **query}, headers=APPLY, content=json.dumps(value))


def test_it_is_there_at_once_and_speaks_of_itself(http):
    assert http.get("/version").json()["gitVersion"] == "v1.37.1"
    assert http.get("/readyz").text == "ok"
    assert [one["name"] for one in http.get("/api/v1").json()["resources"] if "/" not in one["name"]][:3] == ["namespaces", "nodes", "pods"]
    assert "apps" in [one["name"] for one in http.get("/apis").json()["groups"]]
    assert http.get("/apis/none.example.org/v1").status_code == 404
    document = http.get("/openapi/v3/apis/apps/v1").json()
    assert "io.k8s.api.apps.v1.DeploymentSpec" in document["components"]["schemas"]
    assert document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"]["type"] == "integer"


def test_an_object_has_what_the_server_gives_it(http):
    made = http.post(APPS, json=deployment()).json()
    meta = made["metadata"]
    assert (meta["generation"], meta["namespace"], len(meta["uid"])) == (1, "kiva", 36)
    assert made["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    pod = made["spec"]["template"]["spec"]
    assert (pod["terminationGracePeriodSeconds"], pod["containers"][0]["imagePullPolicy"]) == (30, "IfNotPresent")


def test_the_generation_counts_changes_of_the_spec_only(http):
    http.post(APPS, json=deployment())
    merge = {"Content-Type": "application/merge-patch+json"}
    first = http.patch(f"{APPS}/kiva-x", headers=merge, content='{"metadata":{"labels":{"a":"b"}}}').json()
    assert first["metadata"]["generation"] == 1
    assert http.patch(f"{APPS}/kiva-x", headers=merge, content='{"spec":{"replicas":2}}').json()["metadata"]["generation"] == 2
    status = http.patch(f"{APPS}/kiva-x/status", headers=merge, content='{"status":{"replicas":2},"spec":{"replicas":9}}').json()
    assert (status["metadata"]["generation"], status["status"]["replicas"], status["spec"]["replicas"]) == (2, 2, 2)
    assert http.patch(f"{APPS}/kiva-x", headers=merge, content='{"status":{"replicas":7}}').json()["status"]["replicas"] == 2


def test_who_writes_from_an_old_state_is_refused(http):
    made = http.post(MAPS, json=config_map(a="1")).json()
    assert http.put(f"{MAPS}/x", json={**made, "data": {"a": "2"}}).status_code == 200
    answer = http.put(f"{MAPS}/x", json={**made, "data": {"a": "3"}})
    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    assert "please apply your changes to the latest version" in answer.json()["message"]
    assert http.post(MAPS, json=config_map()).json()["reason"] == "AlreadyExists"
    assert http.request("DELETE", f"{MAPS}/x", json={"preconditions": {"resourceVersion": "1"}}).status_code == 409


def test_writing_the_same_writes_nothing(http):
    made = http.post(MAPS, json=config_map(a="1")).json()
    assert http.put(f"{MAPS}/x", json=made).json()["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    applied = apply(http, config_map(a="1")).json()
    assert apply(http, config_map(a="1")).json()["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"spec": {"replica": 2}}, 400, 'strict decoding error: unknown field "spec.replica"'),
        ({"spec": {"replicas": "two"}}, 400, "cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32"),
        ({"spec": {"template": None}}, 422, "spec.template: Required value"),
        ({"metadata": {"name": "Kiva_X"}}, 422, "a lowercase RFC 1123 subdomain"),
        ({"metadata": {"labels": {"a": "-"}}}, 422, "a valid label must be"),
        ({"spec": {"selector": {"matchLabels": {"app": "other"}}}}, 422, "`selector` does not match template `labels`"),
        (
            {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}}},
            422,
            'Not found: "v"',
        ),
        ({"kind": "StatefulSet"}, 400, "does not match the endpoint"),
        ({"metadata": {"namespace": "other"}}, 400, "the namespace of the provided object does not match"),
    ],
)
def test_what_the_real_one_refuses(api, http, change, code, said):
    from kube_api.merge import merge_patch

    answer = http.post(APPS, params={"fieldValidation": "Strict"}, json=merge_patch(deployment(), change))
    assert answer.status_code == code
    assert said in answer.json()["message"]
    assert api.list("Deployment") == []


def test_unknown_fields_are_dropped_with_a_warning_unless_strict(http):
    answer = http.post(APPS, json=deployment(replica=2))
    assert answer.status_code == 201
    assert answer.headers["Warning"] == '299 - "unknown field \\"spec.replica\\""'
    assert "replica" not in answer.json()["spec"]


def test_what_must_stay_stays(http):
    http.post(APPS, json=deployment())
    patch = [{"op": "replace", "path": "/spec/selector/matchLabels", "value": {"app": "other"}}]
    answer = http.patch(f"{APPS}/kiva-x", headers={"Content-Type": "application/json-patch+json"}, content=json.dumps(patch))
    assert answer.status_code == 422
    assert "field is immutable" in answer.json()["message"]


def test_namespaces_are_there_first_and_take_all_with_them(api, http):
    answer = http.post("/api/v1/namespaces/none/configmaps", json={"metadata": {"name": "x"}})
    assert (answer.status_code, answer.json()["message"]) == (404, 'namespaces "none" not found')
    http.post(MAPS, json=config_map())
    http.delete("/api/v1/namespaces/kiva")
    assert api.list("ConfigMap", "kiva") == []


def test_owners_take_what_they_own_with_them_and_finalizers_hold(api, http):
    owner = http.post(MAPS, json=config_map("owner")).json()
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned = config_map("owned")
    owned["metadata"]["ownerReferences"] = [reference]
    http.post(MAPS, json=owned)
    held = config_map("held")
    held["metadata"] |= {"finalizers": ["example.org/hold"], "ownerReferences": [reference]}
    http.post(MAPS, json=held)
    http.delete(f"{MAPS}/owner")
    assert api.get("ConfigMap", "owned", "kiva") is None
    assert "deletionTimestamp" in api.get("ConfigMap", "held", "kiva")["metadata"]
    http.patch(f"{MAPS}/held", headers={"Content-Type": "application/merge-patch+json"}, content='{"metadata":{"finalizers":null}}')
    assert api.get("ConfigMap", "held", "kiva") is None


# Server-side apply


def test_everyone_owns_what_they_apply(http):
    apply(http, config_map(a="1", b="1"))
    assert apply(http, config_map(c="1"), "other").json()["data"] == {"a": "1", "b": "1", "c": "1"}
    assert apply(http, config_map(a="1")).json()["data"] == {"a": "1", "c": "1"}, "what its only owner leaves out is gone"


def test_a_field_of_somebody_else_is_taken_by_force_only(http):
    apply(http, config_map(a="1"))
    answer = apply(http, config_map(a="2"), "other")
    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    assert answer.json()["message"] == 'Apply failed with 1 conflict: conflict with "kivactl": .data.a'
    assert answer.json()["details"]["causes"][0] == {"reason": "FieldManagerConflict", "message": 'conflict with "kivactl"', "field": ".data.a"}
    assert apply(http, config_map(a="2"), "other", force="true").json()["data"] == {"a": "2"}
    assert apply(http, config_map(a="3")).status_code == 409
    assert apply(http, config_map(a="2")).status_code == 200, "who agrees owns it too"


def test_lists_with_keys_are_merged_item_by_item(http):
    apply(http, deployment())
    mine = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kiva-x"}}
    mine["spec"] = {"template": {"spec": {"containers": [{"name": "engine", "env": [{"name": "A", "value": "1"}]}, {"name": "side", "image": "s"}]}}}
    made = apply(http, mine, "other").json()["spec"]["template"]["spec"]["containers"]
    assert [(one["name"], one["image"]) for one in made] == [("engine", "registry.example.org/engine@sha256:1"), ("side", "s")]
    again = apply(http, deployment(image="registry.example.org/engine@sha256:2")).json()["spec"]["template"]["spec"]["containers"]
    assert again[0]["image"].endswith(":2")
    assert again[0]["env"] == [{"name": "A", "value": "1"}]
    mine["spec"] = {"template": {"spec": {"containers": [{"name": "engine"}]}}}
    assert [one["name"] for one in apply(http, mine, "other").json()["spec"]["template"]["spec"]["containers"]] == ["engine"]


def test_a_change_by_hand_is_a_conflict_for_the_next_apply(api, http):
    apply(http, deployment())
    api.change("Deployment", "kiva-x", {"spec": {"replicas": 5}}, "kiva", manager="kubectl-edit")
    answer = apply(http, deployment(replicas=2))
    assert answer.json()["message"] == 'Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas'


def test_an_apply_says_who_it_is_and_what_it_does_not_know(http):
    assert http.patch(f"{MAPS}/x", headers=APPLY, content=json.dumps(config_map())).status_code == 422
    answer = apply(http, deployment(replica=1))
    assert answer.status_code == 500
    assert answer.json()["message"].endswith("(kiva/kiva-x; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema")


def test_a_dry_run_answers_as_if_and_leaves_no_trace(api, http):
    http.post(MAPS, json=config_map(a="1"))
    before = api.get("ConfigMap", "x", "kiva")
    assert apply(http, config_map(a="1", b="2"), dryRun="All").json()["data"] == {"a": "1", "b": "2"}
    assert apply(http, config_map("new"), dryRun="All").status_code == 201
    api.admission.deny("ConfigMap", "no")
    assert apply(http, config_map("new"), dryRun="All").status_code == 403
    assert api.get("ConfigMap", "x", "kiva") is before
    assert [one["metadata"]["name"] for one in api.list("ConfigMap", "kiva")] == ["kube-root-ca.crt", "x"]


# Lists and watches


def test_selectors_and_pages(http):
    for number in range(5):
        made = config_map(f"m{number}")
        made["metadata"]["labels"] = {"parity": "odd" if number % 2 else "even", "number": str(number)}
        http.post(MAPS, json=made)

    def names(**query):
        return [one["metadata"]["name"] for one in http.get(MAPS, params=query).json()["items"]]

    assert names(labelSelector="parity=odd") == ["m1", "m3"]
    assert names(labelSelector="parity!=odd,number in (0, 2)") == ["m0", "m2"]
    assert names(labelSelector="!parity") == ["kube-root-ca.crt"]
    assert names(labelSelector="number notin (0,1,2),number") == ["m3", "m4"]
    assert names(fieldSelector="metadata.name=m2") == ["m2"]
    first = http.get(MAPS, params={"limit": 4, "labelSelector": "number"}).json()
    assert (len(first["items"]), first["metadata"]["remainingItemCount"]) == (4, 1)
    assert names(**{"limit": 4, "labelSelector": "number", "continue": first["metadata"]["continue"]}) == ["m4"]


def test_a_page_from_before_the_changes_were_forgotten(api, http):
    for number in range(3):
        http.post(MAPS, json=config_map(f"m{number}"))
    token = http.get(MAPS, params={"limit": 1}).json()["metadata"]["continue"]
    http.post(MAPS, json=config_map("new"))
    api.compact()
    answer = http.get(MAPS, params={"limit": 1, "continue": token})
    assert (answer.status_code, answer.json()["reason"]) == (410, "Expired")


def watch(http, **query):
    with http.stream("GET", MAPS, params={"watch": "true", "timeoutSeconds": "20", **query}) as answer:
        for line in answer.iter_lines():
            yield json.loads(line)


def test_a_watch_tells_all_changes_since_its_version(api, http):
    version = http.get(MAPS).json()["metadata"]["resourceVersion"]
    api.add(config_map("x", a="1"))
    seen = watch(http, resourceVersion=version)
    assert next(seen)["type"] == "ADDED"
    api.change("ConfigMap", "x", {"data": {"a": "2"}}, "kiva")
    changed = next(seen)
    assert (changed["type"], changed["object"]["data"]) == ("MODIFIED", {"a": "2"})
    api.remove("ConfigMap", "x", "kiva")
    assert next(seen)["type"] == "DELETED"


def test_what_no_longer_fits_the_selector_is_gone_for_the_watch(api, http):
    version = http.get(MAPS).json()["metadata"]["resourceVersion"]
    seen = watch(http, resourceVersion=version, labelSelector="a=1")
    made = config_map()
    made["metadata"]["labels"] = {"a": "1"}
    threading.Timer(0.1, api.add, [made]).start()
    assert next(seen)["type"] == "ADDED"
    api.change("ConfigMap", "x", {"metadata": {"labels": {"a": "2"}}}, "kiva")
    assert next(seen)["type"] == "DELETED"


def test_bookmarks_say_how_far_it_is(api, http):
    seen = watch(http, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true")
    assert next(seen)["object"]["metadata"]["name"] == "kube-root-ca.crt"
    assert next(seen)["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    api.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}, "kiva")
    bookmark = next(seen)
    assert (bookmark["type"], int(bookmark["object"]["metadata"]["resourceVersion"])) == ("BOOKMARK", api.objects.store.revision)


def test_a_watch_from_a_forgotten_version_ends_with_410(api, http):
    version = http.get(MAPS).json()["metadata"]["resourceVersion"]
    api.add(config_map())
    api.compact()
    (event,) = watch(http, resourceVersion=version)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_a_watch_that_is_dropped_ends_without_a_word(api, http):
    seen = watch(http)
    assert next(seen)["type"] == "ADDED"
    api.drop_watches()
    with pytest.raises(httpx.HTTPError):
        next(seen)


# Faults


@pytest.mark.parametrize(
    ("answer", "reason"), [(409, "Conflict"), (410, "Expired"), (429, "TooManyRequests"), (500, "InternalError"), (503, "ServiceUnavailable")]
)
def test_ordered_answers_come_as_often_as_ordered(api, http, answer, reason):
    api.faults.add("get", "ConfigMap", "x", answer=answer, times=2, after=1, seconds=7)
    api.add(config_map())
    answers = [http.get(f"{MAPS}/x") for _ in range(4)]
    assert [one.status_code for one in answers] == [200, answer, answer, 200]
    assert answers[1].json()["reason"] == reason
    assert answers[1].headers.get("Retry-After") == ("7" if answer in {429, 503} else None)


def test_a_write_whose_answer_is_lost_is_done_and_one_that_is_cut_is_not(api, http):
    api.faults.add("create", "ConfigMap", answer="lost")
    api.faults.add("create", "ConfigMap", answer="disconnect")
    for name in ("done", "not-done"):
        with pytest.raises(httpx.TransportError):
            http.post(MAPS, json=config_map(name))
    assert api.get("ConfigMap", "done", "kiva")
    assert api.get("ConfigMap", "not-done", "kiva") is None


def test_denials_permissions_and_tokens(api, http):
    api.faults.add("create", "ConfigMap", answer="denied", message="no")
    assert http.post(MAPS, json=config_map()).json()["message"] == 'admission webhook "policy.example.org" denied the request: no'
    api.admission.forbid("list", "configmaps")
    said = 'configmaps is forbidden: User "kiva" cannot list resource "configmaps" in API group "" in the namespace "kiva"'
    assert http.get(MAPS).json()["message"] == said
    with KubeApi(token="right") as other:
        assert httpx.get(f"{other.url}/version").status_code == 401
        assert httpx.get(f"{other.url}/version", headers={"Authorization": "Bearer right"}).status_code == 200


def test_a_quota_counts_what_is_there(api, http):
    api.add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": {"configmaps": "2"}}}, "kiva")
    assert http.post(MAPS, json=config_map("one")).status_code == 201
    answer = http.post(MAPS, json=config_map("two"))
    assert answer.json()["message"] == 'configmaps "two" is forbidden: exceeded quota: team, requested: configmaps=1, used: configmaps=2, limited: configmaps=2'
    http.delete(f"{MAPS}/one")
    assert http.post(MAPS, json=config_map("two")).status_code == 201


def test_after_a_stop_it_is_gone_and_after_a_start_as_before(api, http):
    api.add(config_map())
    api.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api.url}/version")
    api.start()
    assert httpx.get(f"{api.url}{MAPS}/x").status_code == 200


def test_everything_asked_is_remembered(api, http):
    http.post(MAPS, json=config_map(a="1"), headers={"User-Agent": "kivactl/1"})
    http.get(MAPS)
    apply(http, config_map(a="2"), force="true", dryRun="All")
    (write,) = api.writes("ConfigMap")
    assert (write.verb, write.name, write.value()["data"], write.manager, write.code) == ("create", "", {"a": "1"}, "kivactl", 201)
    assert [one.verb for one in api.requests] == ["create", "list", "patch"]


def test_two_hundred_objects_and_many_callers(api):
    def work(first):
        with httpx.Client(base_url=api.url) as client:
            for number in range(first, first + 25):
                assert client.post(MAPS, json=config_map(f"m{number}", a="1")).status_code == 201

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(api.list("ConfigMap", "kiva")) == 201
    versions = [int(one["metadata"]["resourceVersion"]) for one in api.list("ConfigMap")]
    assert len(set(versions)) == len(versions)
