output "router_id" {
  description = "The router."
  value       = openstack_networking_router_v2.platform.id
}

output "network_ids" {
  description = "Networks by segment."
  value       = { for key, network in openstack_networking_network_v2.segment : key => network.id }
}

output "subnet_ids" {
  description = "Subnets by segment, once the router knows them."
  value       = { for key, interface in openstack_networking_router_interface_v2.segment : key => interface.subnet_id }
}

output "security_group_ids" {
  description = "Security groups by segment, and `nodes` of every machine."
  value       = { for key, group in openstack_networking_secgroup_v2.segment : key => group.id }
}
