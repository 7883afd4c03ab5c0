output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.platform.id
}

output "subnet_ids" {
  description = "Subnets by SEGMENT/ZONE."
  value       = { for key, subnet in aws_subnet.segment : key => subnet.id }
}

output "security_group_ids" {
  description = "Security groups by segment, and `nodes` of every machine."
  value       = { for key, group in aws_security_group.segment : key => group.id }
}

output "route_table_ids" {
  description = "Route tables in use."
  value       = concat(aws_route_table.public[*].id, [aws_route_table.private.id])
}

output "online" {
  description = "Known once machines can reach the internet."
  value       = concat(aws_route.public[*].id, aws_route.private[*].id)
}
