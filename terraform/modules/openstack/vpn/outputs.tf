output "addresses" {
  description = "Public addresses of this side's tunnels."
  value       = [openstack_vpnaas_service_v2.platform.external_v4_ip]
}
