output "addresses" {
  description = "Public addresses of this side's tunnels."
  value       = [aws_vpn_connection.platform.tunnel1_address, aws_vpn_connection.platform.tunnel2_address]
}
