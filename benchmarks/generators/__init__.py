"""Load generators for LLMs compared on one engine whose answers come at known times.

Here belongs what starts, loads and judges generators: kivactl's and others'. What kivactl itself measures belongs in `kivactl.loadtest`.
"""
