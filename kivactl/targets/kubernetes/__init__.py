"""The target `kubernetes`: one Helm release per model, one for the gateway, one for monitoring, in one namespace of one cluster.

What can be decided is decided by pure modules (`feasibility`, `difference`, `troubles`); the others read the cluster and change it.
"""
