locals {
  groups = toset(["gateway", "engines", "storage", "management", "nodes"])
}

data "openstack_networking_network_v2" "external" {
  name     = var.external_network
  external = true
}

resource "openstack_networking_router_v2" "platform" {
  name                = var.name
  external_network_id = data.openstack_networking_network_v2.external.id
}

resource "openstack_networking_network_v2" "segment" {
  for_each       = var.segments
  name           = "${var.name}-${each.key}"
  admin_state_up = true
}

resource "openstack_networking_subnet_v2" "segment" {
  for_each   = var.segments
  name       = "${var.name}-${each.key}"
  network_id = openstack_networking_network_v2.segment[each.key].id
  cidr       = each.value
  ip_version = 4
}

resource "openstack_networking_router_interface_v2" "segment" {
  for_each  = var.segments
  router_id = openstack_networking_router_v2.platform.id
  subnet_id = openstack_networking_subnet_v2.segment[each.key].id
}

resource "openstack_networking_secgroup_v2" "segment" {
  for_each             = local.groups
  name                 = "${var.name}-${each.key}"
  description          = each.key == "nodes" ? "Every machine of the platform" : "Machines of the segment ${each.key}"
  delete_default_rules = true
}

resource "openstack_networking_secgroup_rule_v2" "allowed" {
  for_each          = var.rules
  direction         = "ingress"
  ethertype         = "IPv4"
  security_group_id = openstack_networking_secgroup_v2.segment[each.value.to_segment].id
  remote_group_id   = each.value.from_segment == null ? null : openstack_networking_secgroup_v2.segment[each.value.from_segment].id
  remote_ip_prefix  = each.value.from_range
  protocol          = each.value.protocol
  port_range_min    = each.value.from_port
  port_range_max    = each.value.to_port
  description       = each.value.why
}

# The router translates addresses for everybody; machines that must not reach the internet may only speak to their own network.
resource "openstack_networking_secgroup_rule_v2" "out" {
  direction         = "egress"
  ethertype         = "IPv4"
  security_group_id = openstack_networking_secgroup_v2.segment["nodes"].id
  remote_ip_prefix  = var.internet ? "0.0.0.0/0" : var.range
}

# Address and user data of a machine at its first start.
resource "openstack_networking_secgroup_rule_v2" "metadata" {
  direction         = "egress"
  ethertype         = "IPv4"
  security_group_id = openstack_networking_secgroup_v2.segment["nodes"].id
  remote_ip_prefix  = "169.254.169.254/32"
  protocol          = "tcp"
  port_range_min    = 80
  port_range_max    = 80
}
