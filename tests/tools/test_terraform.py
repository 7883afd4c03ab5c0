"""What is asked of Terraform, what it prints, and what the adapter makes of it.

`recorded/terraform/` comes from real runs of Terraform 1.11 with the AWS provider against an EC2 emulator, cut to a few resources.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import KivaError, NotReadyError, PreconditionError, SpecError, ToolError
from kivactl.plan import Status, Verb
from kivactl.stack.secret import Secret
from kivactl.tools import terraform
from kivactl.tools.terraform import (
    LockedState,
    MissingProvider,
    ProtectedResource,
    SmallQuota,
    StalePlan,
    Terraform,
    UnansweredQuota,
    mirror_from,
    settings_for,
)
from kivactl.tools.terraform_failure import Place, failure_of
from kivactl.tools.terraform_output import (
    Diagnostic,
    Reader,
    parse_diagnostics,
    parse_event,
    parse_outputs,
    parse_plan,
    parse_state,
    parse_version,
)
from kivactl.tools.version import Version

RECORDED = Path(__file__).parent / "recorded" / "terraform"
FAILURES = json.loads((RECORDED / "failures.json").read_text())
PLACE = Place("terraform", Path("/s/work/aws"), "aws", "/srv/mirror", "/s/backend.json")


def failed(*errors, operation="apply", place=PLACE):
    return failure_of([Diagnostic("error", *error) if isinstance(error, tuple) else Diagnostic("error", error) for error in errors], [], operation, place)


def recorded(name, place=PLACE):
    errors = [Diagnostic(one["severity"], one["summary"], one.get("detail", ""), one.get("address", "")) for one in FAILURES[name]]
    return failure_of([one for one in errors if one.severity == "error"], [], "plan", place)


@pytest.mark.parametrize(
    ("name", "kind", "message", "hint"),
    [
        ("stale", StalePlan, "the machines changed since the plan was made", "kivactl provision"),
        ("protected", ProtectedResource, "the plan would take away or make anew gpu-2, whose groups are in `infrastructure.protect`", "take the group out"),
        ("typo_apply", SpecError, "aws has no flavour 'm7i.xlargee'", "did you mean m7i.xlarge"),
        (
            "locked",
            LockedState,
            "Terraform's state is locked by ops@build (apply, since 2026-11-29 20:55:30 UTC)",
            "terraform -chdir=/s/work/aws force-unlock f27819e5-23d5-c656-de04-4b2b0533a3e2",
        ),
        ("nocred", PreconditionError, "no credentials for aws", "AWS_PROFILE"),
        ("unreachable", NotReadyError, "aws does not answer: connection refused", "proxy"),
        (
            "small_quotas",
            SmallQuota,
            "the quota of aws for 'EC2-VPC Elastic IPs' in eu-central-1 is 1, and this platform alone needs 3",
            "request-service-quota-increase --region eu-central-1 --service-code ec2 --quota-code L-0263D0A3 --desired-value 3",
        ),
        ("unasked_quotas", UnansweredQuota, "aws does not tell its quotas", "kivactl provision"),
        ("unreachable_quotas", UnansweredQuota, "aws does not tell its quotas", "kivactl provision"),
        ("unasked_quotas_and_no_image", SpecError, "aws has no such machine image", "infrastructure.image"),
        ("nomirror", MissingProvider, "Terraform's provider hashicorp/aws is not in the mirror /srv/mirror", "mirrors.terraform"),
    ],
)
def test_every_recorded_failure_is_a_sentence(name, kind, message, hint):
    error = recorded(name)
    assert type(error) is kind
    assert message in error.message
    assert hint in error.hint


def test_every_quota_that_is_too_small_is_told_with_its_command():
    assert recorded("small_quotas").details == (
        "the quota of aws for 'Running On-Demand G and VT instances' in eu-central-1 is 8 vCPUs, and this platform alone needs 32: "
        "aws service-quotas request-service-quota-increase --region eu-central-1 --service-code ec2 --quota-code L-DB2E81BA --desired-value 32",
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("unasked_quotas", "these credentials lack the permission servicequotas:GetAWSDefaultServiceQuota"),
        ("unreachable_quotas", 'Post "http://127.0.0.1:9/": dial tcp 127.0.0.1:9: connect: connection refused'),
    ],
)
def test_why_quotas_are_not_told_is_said_once(name, why):
    assert recorded(name).details == (why,)


def test_a_flavour_that_nobody_has_is_no_question_of_quotas():
    said = "reading EC2 Instance Type (m77i.xlarge): api error InvalidInstanceType: The following supplied instance types do not exist: [m77i.xlarge]"
    error = failed((said, "", 'module.machines.data.aws_ec2_instance_type.counted["m77i.xlarge"]'), operation="plan")
    assert (type(error), error.message) == (SpecError, "aws has no flavour 'm77i.xlarge'")


@pytest.mark.parametrize(
    ("said", "provider", "kind", "message"),
    [
        (
            "creating EC2 Instance: api error VcpuLimitExceeded: You have requested more",
            "aws",
            PreconditionError,
            "the quota of aws is too small",
        ),
        ("Error creating openstack server: Quota exceeded for cores: Requested 8, but already used 16", "openstack", PreconditionError, "quota of openstack"),
        (
            "OperationNotAllowed: it results in exceeding approved Total Regional Cores quota",
            "azure",
            PreconditionError,
            "quota",
        ),
        ("creating EC2 Instance: api error InsufficientInstanceCapacity: no capacity", "aws", PreconditionError, "has no such machine free just now"),
        ("api error UnauthorizedOperation: You are not authorized: ec2:RunInstances", "aws", PreconditionError, "lack a permission"),
        ("api error InvalidClientTokenId: The security token included in the request is invalid", "aws", PreconditionError, "refuses these credentials"),
        ("One of 'auth_url' or 'cloud' must be specified", "openstack", PreconditionError, "no credentials for openstack"),
        (
            "unable to build authorizer for the API: could not configure AzureCli Authorizer",
            "azure",
            PreconditionError,
            "no credentials for azure",
        ),
        ("Unable to find flavor with name gpu.l4", "openstack", SpecError, "openstack has no flavour 'gpu.l4'"),
        (
            "Resource precondition failed\nthe flavour g6e.9xlarge is not offered in the zone eu-central-1a (machine gpu-1)",
            "aws",
            SpecError,
            "in the zone eu-central-1a",
        ),
        ("Your query returned no results. Please change your search criteria", "aws", SpecError, "no such machine image"),
        ("Backend configuration changed", "aws", PreconditionError, "the place where Terraform keeps its state is another one"),
        ("write /s/plan: no space left on device", "aws", PreconditionError, "no space left"),
        ("Invalid value for variable\noperators: IPv4 networks", "aws", SpecError, "Terraform refuses a value"),
        ("Error acquiring the state lock\nno information", "aws", LockedState, "does not say by whom"),
        ("execution halted", "aws", ToolError, "was interrupted"),
        ("something nobody has seen before", "aws", ToolError, "Terraform's apply failed: something nobody has seen before"),
    ],
)
def test_other_failures(said, provider, kind, message):
    summary, _, detail = said.partition("\n")
    error = failed((summary, detail), place=Place("terraform", Path("/s"), provider))
    assert type(error) is kind
    assert message in error.message
    assert error.hint


def test_a_data_disk_in_the_way():
    detail = 'Resource module.disks.aws_ebs_volume.data["gpu-2"] has lifecycle.prevent_destroy set, but the plan calls for this resource to be destroyed.'
    error = failed(("Instance cannot be destroyed", detail))
    assert error.message == "the plan would take away or make anew the data disk of gpu-2"


def test_what_is_protected_is_told_in_one_order():
    detail = (
        'Resource module.protection.terraform_data.protected["{}"] has lifecycle.prevent_destroy set, but the plan calls for this resource to be destroyed.'
    )
    error = failed(*(("Instance cannot be destroyed", detail.format(name)) for name in ("box-2", "box-1")))
    assert "make anew box-1, box-2, whose groups" in error.message


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), max_size=3), st.lists(st.text(max_size=30), max_size=3))
def test_whatever_terraform_says_is_one_sentence(errors, lines):
    error = failure_of([Diagnostic("error", *said) for said in errors], lines, "plan", PLACE)
    assert isinstance(error, KivaError)
    assert error.message
    assert "\n" not in error.message


def test_words_for_people_have_errors_too():
    found = parse_diagnostics((RECORDED / "init_missing_provider.txt").read_text().splitlines())
    assert [one.summary for one in found] == ["Failed to query available provider packages"]
    assert isinstance(failure_of(found, [], "init", PLACE), MissingProvider)


def outcomes_of(name):
    reader = Reader()
    return [outcome for line in (RECORDED / name).read_text().splitlines() for outcome in reader.read(line)], reader


def test_an_apply_is_told():
    outcomes, reader = outcomes_of("apply.jsonl")
    machine = 'module.machines.aws_instance.machine["gpu-1"]'
    assert next(outcome.status for outcome in outcomes if outcome.step == machine) is Status.STARTED
    done = [outcome for outcome in outcomes if outcome.step == machine][-1]
    assert (done.status, done.message, done.data["action"]) == (Status.DONE, "made", "create")
    assert done.data["id"].startswith("i-")
    assert reader.completed == sum(outcome.status is Status.DONE for outcome in outcomes) > 0
    assert reader.errors == ()


def test_a_plan_is_counted():
    _, reader = outcomes_of("plan.jsonl")
    assert reader.planned == sum('"planned_change"' in line for line in (RECORDED / "plan.jsonl").read_text().splitlines()) > 0


def test_a_saved_plan_is_shown():
    plan = parse_plan((RECORDED / "show.json").read_text())
    assert (plan.changes[0].verb, plan.changes[0].subject) == (Verb.UPDATE, 'module.machines.aws_instance.machine["control-1"]')
    difference = next(one for one in plan.changes[0].differences if one.path == "instance_type")
    assert (difference.before, difference.after) == ("m7i.xlarge", "m7i.xlargee")
    assert 'module.machines.aws_eip.machine["control-1"]' not in plan.drift  # only became known: nothing sets it right again


def shown(**change):
    resource = {"address": "a.b", "change": {"actions": ["update"], "before": {}, "after": {}, "after_unknown": {}, **change}}
    return parse_plan(json.dumps({"resource_changes": [resource]})).changes


def test_sensitive_values_are_never_shown():
    values = {"before": {"key": "old-secret", "deep": [{"x": "deep-secret"}]}, "after": {"key": "new-secret", "deep": [{"x": "other-secret"}]}}
    changes = shown(**values, before_sensitive={"key": True, "deep": [{"x": True}]}, after_sensitive={"key": True})
    assert [(one.path, one.before, one.after) for one in changes[0].differences] == [("deep", "***", "***"), ("key", "***", "***")]
    assert "secret" not in repr(changes)


def test_what_forces_a_replacement_is_shown():
    changes = shown(actions=["delete", "create"], before={"zone": "a"}, after={}, after_unknown={"zone": True, "id": True}, replace_paths=[["zone"]])
    assert changes[0].verb is Verb.REPLACE
    assert [(one.path, one.before, one.after) for one in changes[0].differences] == [("zone", "a", "(known afterwards)")]


def test_a_state_is_listed():
    resources = parse_state((RECORDED / "state.json").read_text())
    disks = {one.key: one.values["size"] for one in resources if one.address.startswith("module.disks.")}
    assert disks == {"gpu-1": 500, "gpu-2": 500}
    assert 'module.protection.terraform_data.protected["gpu-1"]' in {one.address for one in resources}
    assert "module.network.aws_vpc.platform" in {one.address for one in resources}
    assert not any(".data." in one.address and "aws_ami" in one.address for one in resources)
    assert parse_state("") == ()
    with pytest.raises(ToolError, match="has the format 9"):
        parse_state('{"version": 9}')


def test_a_states_secrets_stay_there():
    instance = {"attributes": {"key": "secret", "id": "1"}, "sensitive_attributes": [[{"type": "get_attr", "value": "key"}]]}
    state = {"version": 4, "resources": [{"mode": "managed", "type": "t", "name": "n", "instances": [instance]}]}
    assert parse_state(json.dumps(state))[0].values == {"id": "1"}


def test_outputs_without_secrets():
    text = json.dumps({"nodes": {"value": [1], "sensitive": False}, "key": {"value": "secret", "sensitive": True}})
    assert parse_outputs(text) == {"nodes": [1]}
    with pytest.raises(ToolError, match="cannot be read"):
        parse_outputs("not json")


@pytest.mark.parametrize(("text", "version"), [("1.11.4", Version(1, 11, 4)), ("1.10.0-rc1", Version(1, 10, 0))])
def test_versions(text, version):
    assert parse_version(json.dumps({"terraform_version": text})) == version


@given(st.text(max_size=80))
def test_any_line_is_an_event_or_none(line):
    event = parse_event(line)
    assert event is None or "@level" in event


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a `terraform` that does what a script says; every call is a line of `calls`, its environment lies in `environment`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def of(script, version="1.11.4"):
        path = folder / "terraform"
        ask = f'if [ "$1" = version ]; then echo \'{{"terraform_version": "{version}"}}\'; exit; fi'
        path.write_text(f'#!/bin/sh\n{ask}\necho "$@" >> {tmp_path}/calls\nenv > {tmp_path}/environment\n{script}\n')
        path.chmod(stat.S_IRWXU)
        terraform._version.cache_clear()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    (tmp_path / "root").mkdir()
    (tmp_path / "files").mkdir()
    yield of
    terraform._version.cache_clear()


def here(tmp_path, **options):
    return Terraform(tmp_path / "root", tmp_path / "files", "aws", **options)


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def ended(run):
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize(("code", "changes"), [(0, False), (2, True)])
def test_a_plan_is_saved(program, tmp_path, code, changes):
    program(f'for word in "$@"; do case "$word" in -out=*) touch "${{word#-out=}}";; esac; done; exit {code}')
    assert ended(here(tmp_path).plan(tmp_path / "v.json", tmp_path / "plan")) is changes
    assert stat.S_IMODE((tmp_path / "plan").stat().st_mode) == 0o600
    words = calls(tmp_path)[0].split()
    assert words[0] == "plan"
    assert set(words[1:]) == {"-json", f"-var-file={tmp_path}/v.json", f"-out={tmp_path}/plan", "-detailed-exitcode", "-input=false"}


def test_a_plan_that_failed_is_no_plan(program, tmp_path):
    line = json.dumps({"@level": "error", "type": "diagnostic", "diagnostic": {"severity": "error", "summary": "No valid credential sources found"}})
    program(f'for word in "$@"; do case "$word" in -out=*) touch "${{word#-out=}}";; esac; done; echo \'{line}\'; exit 1')
    with pytest.raises(PreconditionError, match="no credentials for aws"):
        ended(here(tmp_path).plan(tmp_path / "v.json", tmp_path / "plan"))
    assert not (tmp_path / "plan").exists()


def test_a_destroy_is_a_plan_too(program, tmp_path):
    program('for word in "$@"; do case "$word" in -out=*) touch "${word#-out=}";; esac; done')
    ended(here(tmp_path).plan(tmp_path / "v", tmp_path / "p", destroy=True, targets=["module.a", "module.b"]))
    assert {"-destroy", "-target=module.a", "-target=module.b"} <= set(calls(tmp_path)[0].split())


def test_only_the_saved_plan_is_applied(program, tmp_path):
    program("")
    assert list(here(tmp_path).apply(tmp_path / "plan")) == []
    assert len(calls(tmp_path)) == 1
    assert set(calls(tmp_path)[0].split()) == {"apply", "-input=false", "-json", f"{tmp_path}/plan"}


def test_a_half_applied_plan_says_so(program, tmp_path):
    hook = {"resource": {"addr": "a.b"}, "action": "create", "elapsed_seconds": 1}
    done = json.dumps({"@level": "info", "type": "apply_complete", "hook": hook})
    error = json.dumps({"@level": "error", "type": "diagnostic", "diagnostic": {"severity": "error", "summary": "VcpuLimitExceeded: no", "address": "c.d"}})
    program(f"echo '{done}'; echo '{error}'; exit 1")
    with pytest.raises(PreconditionError, match=r"the quota of aws is too small for c\.d") as caught:
        list(here(tmp_path).apply(tmp_path / "plan"))
    assert caught.value.details[0] == "1 change was made before; the same command goes on from there"


def test_what_a_killed_apply_had_begun_is_known(program, tmp_path):
    def event(kind, address):
        return json.dumps({"@level": "info", "type": kind, "hook": {"resource": {"addr": address}, "action": "create"}})

    lines = [
        event("apply_start", "a.a"),
        event("apply_start", "b.b"),
        event("apply_start", "c.c"),
        event("apply_complete", "a.a"),
        event("apply_errored", "c.c"),
    ]
    program("\n".join(f"echo '{line}'" for line in lines) + "\nkill -9 $$")
    assert here(tmp_path).unfinished() == ()
    with pytest.raises(ToolError, match="Terraform's apply was ended by SIGKILL"):
        list(here(tmp_path).apply(tmp_path / "plan"))
    assert here(tmp_path).unfinished() == ("b.b",)


def test_secrets_go_by_the_environment_only(program, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_VAR_region", "elsewhere")
    monkeypatch.setenv("TF_CLI_ARGS", "-lock=false")
    monkeypatch.setenv("TF_LOG", "TRACE")
    monkeypatch.setenv("TF_WORKSPACE", "other")
    monkeypatch.setenv("TF_HTTP_PASSWORD", "for-the-state")
    program("")
    list(here(tmp_path, secrets={"vpn_key": Secret("hidden-key")}).apply(tmp_path / "plan"))
    environment = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text().splitlines())
    assert environment["TF_VAR_vpn_key"] == "hidden-key"
    assert environment["TF_HTTP_PASSWORD"] == "for-the-state"
    assert environment["TF_DATA_DIR"] == f"{tmp_path}/root/.terraform"
    assert environment["CHECKPOINT_DISABLE"] == "1"
    assert not {"TF_VAR_region", "TF_CLI_ARGS", "TF_LOG", "TF_WORKSPACE"} & set(environment)
    assert "hidden-key" not in "".join(calls(tmp_path))
    assert all("hidden-key" not in path.read_text() for path in (tmp_path / "files").iterdir())


def test_an_interrupted_apply_comes_to_its_end(program, tmp_path):
    start = json.dumps({"@level": "info", "type": "apply_start", "hook": {"resource": {"addr": "a.b"}, "action": "create"}})
    program(f"trap 'exit 1' INT; echo '{start}'; sleep 0.5; touch {tmp_path}/through")
    run = here(tmp_path).apply(tmp_path / "plan")
    assert next(run).step == "a.b"
    run.close()
    assert (tmp_path / "through").exists()


def test_a_first_interrupt_says_that_it_waits(program, tmp_path):
    start = json.dumps({"@level": "info", "type": "apply_start", "hook": {"resource": {"addr": "a.b"}, "action": "create"}})
    program(f"trap 'exit 1' INT; echo '{start}'; sleep 0.5; touch {tmp_path}/through")
    run = here(tmp_path).apply(tmp_path / "plan")
    assert next(run).step == "a.b"
    told = run.throw(KeyboardInterrupt())
    assert (told.step, told.status) == ("Terraform", Status.PROGRESS)
    assert "another Ctrl-C cuts it off" in told.message
    assert not (tmp_path / "through").exists()
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert (tmp_path / "through").exists()


def test_a_request_that_was_dropped_may_have_been_heard(program, tmp_path):
    text = "creating EC2 Subnet: operation error EC2: CreateSubnet, https response error StatusCode: 0, RequestID: , canceled, context canceled"
    said = {"severity": "error", "summary": text, "address": "module.network.aws_subnet.nat[0]"}
    program(f"echo '{json.dumps({'@level': 'error', 'type': 'diagnostic', 'diagnostic': said})}'; exit 1")
    with pytest.raises(ToolError, match="Terraform was interrupted"):
        list(here(tmp_path).apply(tmp_path / "plan"))
    assert here(tmp_path).unfinished() == ("module.network.aws_subnet.nat[0]",)


def test_a_terraform_that_outlived_its_kivactl_is_waited_for(program, tmp_path):
    program("")
    root = tmp_path / "root"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, terraform.RUN_VARIABLE: str(root)}, text=True) as child:
        deadline = time.monotonic() + 10
        while not terraform.marked(terraform.RUN_VARIABLE, str(root)) and time.monotonic() < deadline:
            time.sleep(0.01)
        outcomes = here(tmp_path).until_quiet()
        assert next(outcomes).status is Status.STARTED
        assert next(outcomes).status is Status.PROGRESS
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert list(outcomes)[-1].status is Status.DONE
    assert list(here(tmp_path).until_quiet()) == []


def test_an_old_terraform(program, tmp_path):
    program("", version="1.5.7")
    with pytest.raises(PreconditionError, match=r"is 1\.5\.7, and kivactl needs 1\.9 or newer"):
        _ = here(tmp_path).version


def test_without_terraform(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionError, match="neither terraform nor tofu is on PATH"):
        _ = here(tmp_path).version


def test_where_providers_come_from(tmp_path, monkeypatch):
    monkeypatch.delenv("KIVA_TERRAFORM_PROVIDERS", raising=False)
    (tmp_path / "mirror").mkdir()
    assert mirror_from(None, tmp_path) is None
    assert mirror_from("mirror", tmp_path) == str(tmp_path / "mirror")
    assert mirror_from("https://m.example.org/t", tmp_path) == "https://m.example.org/t"
    with pytest.raises(PreconditionError, match=r"`mirrors.terraform` names .*/none, which is no folder"):
        mirror_from("none", tmp_path)
    monkeypatch.setenv("KIVA_TERRAFORM_PROVIDERS", str(tmp_path / "mirror"))
    assert mirror_from(None, tmp_path) == str(tmp_path / "mirror")
    monkeypatch.setenv("KIVA_TERRAFORM_PROVIDERS", "/none")
    with pytest.raises(PreconditionError, match="KIVA_TERRAFORM_PROVIDERS names /none"):
        mirror_from(None, tmp_path)


def test_the_settings():
    assert "provider_installation" not in settings_for(None)
    assert re.search(r'filesystem_mirror \{\s+path = "/a b/\$\$\{c\}"', settings_for("/a b/${c}"))
    assert 'url = "https://m.example.org/t/"' in settings_for("https://m.example.org/t")
