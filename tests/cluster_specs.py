"""Specs with `target: kubernetes`, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from kivactl.spec.platform import Platform

DIGEST = "@sha256:" + "0123456789abcdef" * 4
ENGINE, GATEWAY, TOOLS = (f"registry.example.org/kiva/{name}{DIGEST}" for name in ("engine", "gateway", "tools"))
REVISION = "989aa7980e4cf806f80c7fef2b1adb7bc71aa306"


def cluster(**values: Any) -> dict[str, Any]:
    """The spec's part on a cluster, with the least that it needs."""
    return {"context": "prod", "images": {"engine": ENGINE, "gateway": GATEWAY}, "storage": {"size": "20GiB"}, **values}


def model(name: str = "qwen", **values: Any) -> dict[str, Any]:
    """A model from the hub, on one GPU."""
    return {"name": name, "source": "Qwen/Qwen2.5-7B-Instruct", "revision": REVISION, **values}


def platform_on_cluster(*models: dict[str, Any], cluster_values: dict[str, Any] | None = None, **values: Any) -> Platform:
    """A platform on a cluster; one model when none is given."""
    here = cluster(**(cluster_values or {}))
    return Platform.model_validate({"name": "kiva", "target": "kubernetes", "kubernetes": here, "models": list(models) or [model()], **values})
