"""One user verb from end to end, one file each: `plan_*()` reads, `apply_*()` acts and yields Outcomes.

Nothing here prints, asks or parses a command line.
"""
