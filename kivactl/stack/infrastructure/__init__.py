"""What the machines of a platform are: spec in; variables of Terraform, inventories and variables of Ansible out.

Belongs here: pure builders, and what is known of clouds and GPUs. Does not: anything that runs a program or asks a cloud.
"""
