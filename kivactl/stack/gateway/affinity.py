"""Prefix affinity: requests that begin alike go to the replica that knows the beginning.

An engine keeps the keys and values of prompts it has seen; one that begins like an earlier prompt is answered sooner by
the same replica. The tenant and the first characters of the prompt, behind what all requests have in common, choose it.
"""

from __future__ import annotations

from kivactl.spec.platform import Platform
from kivactl.stack.gateway.access import TENANT
from kivactl.stack.gateway.files import Json, type_url
from kivactl.stack.gateway.matching import METADATA

AFFINITY = "x-kiva-affinity"
"""Header whose hash chooses the replica."""

PREFIX_BYTES = 1024
"""How much of the prompt counts: enough to tell applications and conversations apart, little enough to cost nothing."""


def filter_for(platform: Platform) -> Json | None:
    """The filter that sets the header for models with prefix affinity; None when there are none."""
    affine = {model.name for model in platform.models if model.balance == "prefix"}
    names = [model.name for model in platform.models if model.name in affine] + [alias.name for alias in platform.aliases if affine & alias.models.keys()]
    if not names:
        return None
    table = ", ".join(f'["{name}"]=true' for name in names)
    return {
        "name": "kiva.affinity",
        "typed_config": {"@type": type_url("extensions.filters.http.lua.v3.Lua"), "default_source_code": {"inline_string": _SCRIPT.replace("@NAMES@", table)}},
    }


_SCRIPT = f"""\
local names = {{@NAMES@}}

function envoy_on_request(handle)
  local found = handle:streamInfo():dynamicMetadata():get("{METADATA}")
  if not (found and names[found["model"]]) then return end
  local body = handle:body()
  if not body then return end
  local length = body:length()
  local text = body:getBytes(0, math.min(length, 65536))
  local first = string.find(text, '"messages"', 1, true) or string.find(text, '"prompt"', 1, true) or string.find(text, '"input"', 1, true) or 1
  local headers = handle:headers()
  local prefix = string.sub(text, first, first + {PREFIX_BYTES} - 1)
  local hash = 5381
  for place = 1, #prefix do
    hash = (hash * 33 + string.byte(prefix, place)) % 4294967296
  end
  headers:replace("{AFFINITY}", (headers:get("{TENANT}") or "") .. "-" .. string.format("%08x", hash))
end
"""
