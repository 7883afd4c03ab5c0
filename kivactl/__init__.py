"""kivactl: puts a self-hosted LLM platform into production and keeps it there.

Imports run downward only (held by import-linter, see `pyproject.toml`):

    __main__ > cli > runbooks > flows > targets | loadtest | usage > tools > stack > journal > spec | plan | root > errors
"""

__version__ = "0.1.0"
