"""The command line: a command parses, makes one call, and hands the result to the one output sink.

Heavy imports stay inside the commands' functions: `--help` and `status` must answer in under 0.25 s.
"""
