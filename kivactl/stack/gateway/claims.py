"""The tenant in the claims of identity providers.

Claims may be nested, may be lists, and their values may be other names than the tenants': more than Envoy's own mapping
of claims to headers can do. The platform's own tokens need none of this.
"""

from __future__ import annotations

from collections.abc import Iterable

from kivactl.spec.gateway import Issuer
from kivactl.stack.gateway.access import CLAIMS, JWT_METADATA, TENANT, TOKEN_ID
from kivactl.stack.gateway.files import Json, type_url


def filter_for(issuers: Iterable[Issuer]) -> Json | None:
    """The filter that sets the tenant's header for tokens of these providers; None when there are none."""
    rules = [_rule(issuer) for issuer in issuers]
    if not rules:
        return None
    script = _SCRIPT.replace("@RULES@", ",\n".join(rules))
    return {
        "name": "kiva.claims",
        "typed_config": {"@type": type_url("extensions.filters.http.lua.v3.Lua"), "default_source_code": {"inline_string": script}},
    }


def _rule(issuer: Issuer) -> str:
    path = ", ".join(_quoted(key) for key in issuer.claim.split("."))
    tenants = ", ".join(f"[{_quoted(value)}] = {_quoted(tenant)}" for value, tenant in issuer.tenants.items())
    mapped = "true" if issuer.tenants else "false"
    return f"  [{_quoted(issuer.issuer)}] = {{claim = {{{path}}}, mapped = {mapped}, tenants = {{{tenants}}}}}"


def _quoted(text: str) -> str:
    """A Lua string of exactly these bytes; every byte is escaped that could mean something."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:._-"
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03d}" for byte in text.encode()) + '"'


_SCRIPT = f"""\
local rules = {{
@RULES@
}}

local function tenant_in(rule, value)
  if type(value) == "table" then
    for _, entry in ipairs(value) do
      local tenant = tenant_in(rule, entry)
      if tenant then return tenant end
    end
  elseif type(value) == "string" then
    if rule.mapped then return rule.tenants[value] end
    return value
  end
end

function envoy_on_request(handle)
  local found = handle:streamInfo():dynamicMetadata():get("{JWT_METADATA}")
  local claims = found and found["{CLAIMS}"]
  local rule = claims and rules[claims["iss"]]
  if not rule then return end
  local headers = handle:headers()
  local value = claims
  for _, key in ipairs(rule.claim) do
    value = type(value) == "table" and value[key] or nil
  end
  local tenant = tenant_in(rule, value)
  if tenant then
    headers:replace("{TENANT}", tenant)
    handle:clearRouteCache()
  end
  if type(claims["jti"]) == "string" then headers:replace("{TOKEN_ID}", claims["jti"]) end
end
"""
