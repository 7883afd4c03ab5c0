output "ids" {
  description = "Disks by machine."
  value       = { for machine, disk in azurerm_managed_disk.data : machine => disk.id }
}

output "resource_group" {
  description = "Resource group of the platform."
  value       = azurerm_resource_group.platform.name
}
