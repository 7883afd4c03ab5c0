output "addresses" {
  description = "Public addresses of this side's tunnels; the provider does not tell them, the portal does."
  value       = []
}
