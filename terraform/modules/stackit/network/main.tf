locals {
  groups = toset(["gateway", "engines", "storage", "management", "nodes"])
  labels = { platform = var.name, managed_by = "kivactl" }
}

resource "stackit_network" "segment" {
  for_each    = var.segments
  project_id  = var.project
  name        = "${var.name}-${each.key}"
  ipv4_prefix = each.value
  routed      = true
  labels      = local.labels
}

resource "stackit_security_group" "segment" {
  for_each    = local.groups
  project_id  = var.project
  name        = "${var.name}-${each.key}"
  description = each.key == "nodes" ? "Every machine of the platform" : "Machines of the segment ${each.key}"
  stateful    = true
  labels      = local.labels
}

resource "stackit_security_group_rule" "allowed" {
  for_each                 = var.rules
  project_id               = var.project
  security_group_id        = stackit_security_group.segment[each.value.to_segment].security_group_id
  remote_security_group_id = each.value.from_segment == null ? null : stackit_security_group.segment[each.value.from_segment].security_group_id
  ip_range                 = each.value.from_range
  direction                = "ingress"
  ether_type               = "IPv4"
  protocol                 = { name = each.value.protocol }
  port_range               = each.value.protocol == "icmp" ? null : { min = each.value.from_port, max = each.value.to_port }
  icmp_parameters          = each.value.protocol == "icmp" ? { type = each.value.from_port, code = each.value.to_port } : null
  description              = each.value.why
}

# Networks are routed to the internet; machines that must not reach it may only speak to their own network.
resource "stackit_security_group_rule" "out" {
  project_id        = var.project
  security_group_id = stackit_security_group.segment["nodes"].security_group_id
  ip_range          = var.internet ? "0.0.0.0/0" : var.range
  direction         = "egress"
  ether_type        = "IPv4"
}
