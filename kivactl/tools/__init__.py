"""One file per external program or library that touches the world. A tool knows nothing of platforms.

A tool adapter: argv is a value, parsing is pure, the result is typed. Only `process` imports subprocess, only `kube`
kubernetes, only `http` httpx.
"""
