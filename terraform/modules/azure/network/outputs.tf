output "virtual_network" {
  description = "Name of the virtual network."
  value       = azurerm_virtual_network.platform.name
}

output "subnet_ids" {
  description = "Subnets by segment, once their rules hold."
  value       = { for key, association in azurerm_subnet_network_security_group_association.segment : key => association.subnet_id }
}

output "security_group_ids" {
  description = "Application security groups by segment, and `nodes` of every machine."
  value       = { for key, group in azurerm_application_security_group.segment : key => group.id }
}
