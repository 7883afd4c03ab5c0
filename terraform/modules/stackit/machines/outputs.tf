output "ids" {
  description = "Machines by name."
  value       = { for name, machine in stackit_server.machine : name => machine.server_id }
}

output "addresses" {
  description = "Addresses in the platform's network, by machine."
  value       = { for name, interface in stackit_network_interface.machine : name => interface.ipv4 }
}

output "public_addresses" {
  description = "Public addresses, by machine; others have none."
  value       = { for name, address in stackit_public_ip.machine : name => address.ip }
}
