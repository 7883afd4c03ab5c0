output "ids" {
  description = "Machines by name."
  value       = { for name, machine in azurerm_linux_virtual_machine.machine : name => machine.id }
}

output "addresses" {
  description = "Addresses in the platform's network, by machine."
  value       = { for name, interface in azurerm_network_interface.machine : name => interface.private_ip_address }
}

output "public_addresses" {
  description = "Public addresses, by machine; others have none."
  value       = { for name, address in azurerm_public_ip.machine : name => address.ip_address }
}
