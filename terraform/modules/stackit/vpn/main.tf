resource "stackit_vpn_gateway" "platform" {
  project_id   = var.project
  region       = var.region
  display_name = var.name
  plan_id      = "p500"
  routing_type = "ROUTE_BASED"
  availability_zones = {
    tunnel1 = var.zones[0]
    tunnel2 = var.zones[min(1, length(var.zones) - 1)]
  }
}

locals {
  phase = {
    dh_groups             = ["ecp384"]
    encryption_algorithms = ["aes256gcm16"]
    integrity_algorithms  = ["sha2_384"]
  }
  tunnel = { remote_address = var.peer, pre_shared_key = var.key, phase1 = local.phase, phase2 = local.phase }
}

resource "stackit_vpn_connection" "platform" {
  project_id     = var.project
  region         = var.region
  gateway_id     = stackit_vpn_gateway.platform.gateway_id
  display_name   = var.name
  local_subnets  = values(var.segments)
  remote_subnets = var.networks
  static_routes  = var.networks
  tunnel1        = local.tunnel
  tunnel2        = local.tunnel
}
