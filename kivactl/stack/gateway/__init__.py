"""The gateway: Envoy's configuration from the spec, the same for every target. Pure builders, one file for each concern.

What changes at different times lies in files of its own (`files`), which Envoy watches: tenants, limits, routes, keys and
revoked tokens change while connections and streams live on; only another address, port or TLS setting makes a new
listener, whose predecessor finishes what it has.

Source of every field: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api
"""
