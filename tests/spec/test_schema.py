from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kivactl.spec.document import parse
from kivactl.spec.schema import schema
from kivactl.spec.template import template


def complaints(text: str) -> list[str]:
    node, _ = parse(text, Path("kiva.yaml"))
    assert node is not None
    return [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(node.plain)]


def test_it_is_a_valid_schema_of_its_dialect():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_it_accepts_the_template():
    assert complaints(template()) == []


def test_it_accepts_every_key_of_the_template():
    assert complaints(re.sub(r"(?m)^(\s*)#(?=(- )?[a-z_]+:)", r"\1", template())) == []


@pytest.mark.parametrize("text", ["replica: 2", "replicas: -2", "kv_cache: 16", "drain_within: soon", "engine: {dtype: [a]}"])
def test_it_refuses_what_load_refuses(text: str):
    assert complaints(f"name: a\nmodels:\n  - name: m\n    source: a/b\n    {text}\n")


CLUSTER = "kubernetes: {context: a, images: {engine: e, gateway: g}, "


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {certificate: owned}",
        "gateway: {class: nginx}",
        "gateway: {resources: {cpu: 0}}",
        "storage: {path: srv}",
        "nodes: {gpu: {tolerate: ['a b']}}",
        "images: {engine: E}",
        "secrets: vault",
    ],
)
def test_it_refuses_what_no_cluster_has(text: str):
    model = "name: a\nmodels: [{name: m, source: a/b}]\n"
    assert complaints(f"{model}{CLUSTER}}}") == []
    assert complaints(f"{model}{CLUSTER}{text}}}" if not text.startswith("images") else f"{model}kubernetes: {{context: a, {text}}}")


def test_no_mapping_takes_unknown_keys():
    for definition in (schema(), *schema()["$defs"].values()):
        assert definition["additionalProperties"] is False


def test_its_defaults_are_valid():
    def check(part: Any, whole: dict[str, Any]) -> None:
        if isinstance(part, dict):
            if "default" in part:
                jsonschema.Draft202012Validator({**part, "$defs": whole["$defs"]}).validate(part["default"])
            for child in part.values():
                check(child, whole)

    check({key: value for key, value in schema().items() if key != "$schema"}, schema())


def test_it_is_json():
    assert json.loads(json.dumps(schema())) == schema()
