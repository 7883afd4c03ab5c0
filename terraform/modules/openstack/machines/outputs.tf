output "ids" {
  description = "Machines by name."
  value       = { for name, machine in openstack_compute_instance_v2.machine : name => machine.id }
}

output "addresses" {
  description = "Addresses in the platform's network, by machine."
  value       = { for name, port in openstack_networking_port_v2.machine : name => port.all_fixed_ips[0] }
}

output "public_addresses" {
  description = "Public addresses, by machine; others have none."
  value       = { for name, address in openstack_networking_floatingip_v2.machine : name => address.address }
}
