"""Metering: what the gateway and the engines write down of each request, joined in a ledger, priced, reported; tenants above their limits named."""
