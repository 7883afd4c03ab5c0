"""Metering: what the gateway and the engines write down of each request, joined in a ledger, priced, reported; tenants above their limits named.

The gateway attributes, the engine counts, the ledger joins. Months and days are UTC. No prompt and no answer is ever here.
"""
