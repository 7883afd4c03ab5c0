output "network_ids" {
  description = "Networks by segment."
  value       = { for key, network in stackit_network.segment : key => network.network_id }
}

output "security_group_ids" {
  description = "Security groups by segment, and `nodes` of every machine."
  value       = { for key, group in stackit_security_group.segment : key => group.security_group_id }
}
