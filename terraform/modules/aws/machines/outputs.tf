output "ids" {
  description = "Machines by name."
  value       = { for name, machine in aws_instance.machine : name => machine.id }
}

output "addresses" {
  description = "Addresses in the platform's network, by machine."
  value       = { for name, machine in aws_instance.machine : name => machine.private_ip }
}

output "public_addresses" {
  description = "Public addresses, by machine; others have none."
  value       = { for name, address in aws_eip.machine : name => address.public_ip }
}
