"""What people write: the spec of a platform (`kiva.yaml` and its overlays).

Belongs here: frozen pydantic models that forbid unknown keys, the quantities they use, and reading YAML so that every
fault is reported at once with file:line. Nothing here looks at the machine, the network or a running platform.
"""
