"""Where Terraform keeps its state: the settings of its backend. Credentials are none of them; they come from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kivactl.spec.infrastructure import TerraformState
from kivactl.spec.platform import Platform


def backend_for(platform: Platform, local: Path) -> tuple[str, dict[str, Any]]:
    """The kind of the backend and its settings.

    Args:
        platform: The spec, with an infrastructure.
        local: File of the state when it is kept on this machine.
    """
    assert platform.infrastructure is not None
    state = platform.infrastructure.terraform
    match state.kind:
        case "local":
            return "local", {"path": str(local)}
        case "s3":
            return "s3", _s3(state, platform.name)
        case "http":
            address = (state.address or "").rstrip("/")
            lock = {"lock_address": f"{address}/lock", "unlock_address": f"{address}/lock", "lock_method": "POST", "unlock_method": "DELETE"}
            return "http", {"address": address, **lock}


def _s3(state: TerraformState, name: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bucket": state.bucket,
        "key": state.key or f"{name}.tfstate",
        "region": state.region or "us-east-1",
        "encrypt": True,
        "use_lockfile": True,
    }
    if state.endpoint is not None:  # a server other than Amazon's knows neither its accounts nor its regions
        skipped = ("skip_credentials_validation", "skip_requesting_account_id", "skip_region_validation", "skip_metadata_api_check", "skip_s3_checksum")
        settings |= {"endpoints": {"s3": state.endpoint}, "use_path_style": True, **dict.fromkeys(skipped, True)}
        del settings["encrypt"]
    return settings
