"""A platform as Helm releases: names, and the values of each chart, computed from the spec alone.

Charts only lay out what is decided here. Nothing here reads a cluster: what depends on one (which strategy fits the free GPUs,
how large a model is) comes in as an argument, so that the same spec and arguments give the same values anywhere.
"""
