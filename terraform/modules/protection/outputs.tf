output "protected" {
  description = "Names of the machines that are never taken away."
  value       = keys(terraform_data.protected)
}
