"""Says what users see under load, and whether the measurement can be believed.

`user` runs inside Locust's child process and nobody imports it: `import locust` monkey-patches its process.
"""
