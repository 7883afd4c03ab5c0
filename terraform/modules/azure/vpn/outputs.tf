output "addresses" {
  description = "Public addresses of this side's tunnels."
  value       = [azurerm_public_ip.vpn.ip_address]
}
