resource "openstack_vpnaas_service_v2" "platform" {
  name           = var.name
  router_id      = var.router_id
  admin_state_up = true
}

resource "openstack_vpnaas_ike_policy_v2" "platform" {
  name                 = var.name
  ike_version          = "v2"
  encryption_algorithm = "aes-256"
  auth_algorithm       = "sha256"
  pfs                  = "group14"
}

resource "openstack_vpnaas_ipsec_policy_v2" "platform" {
  name                 = var.name
  encryption_algorithm = "aes-256"
  auth_algorithm       = "sha256"
  pfs                  = "group14"
}

resource "openstack_vpnaas_endpoint_group_v2" "ours" {
  name      = "${var.name}-ours"
  type      = "subnet"
  endpoints = values(var.subnet_ids)
}

resource "openstack_vpnaas_endpoint_group_v2" "theirs" {
  name      = "${var.name}-theirs"
  type      = "cidr"
  endpoints = var.networks
}

resource "openstack_vpnaas_site_connection_v2" "platform" {
  name              = var.name
  vpnservice_id     = openstack_vpnaas_service_v2.platform.id
  ikepolicy_id      = openstack_vpnaas_ike_policy_v2.platform.id
  ipsecpolicy_id    = openstack_vpnaas_ipsec_policy_v2.platform.id
  local_ep_group_id = openstack_vpnaas_endpoint_group_v2.ours.id
  peer_ep_group_id  = openstack_vpnaas_endpoint_group_v2.theirs.id
  peer_address      = var.peer
  peer_id           = var.peer
  psk               = var.key
}
