provider "openstack" {
  region = var.region
}

module "blueprint" {
  source          = "../modules/blueprint"
  zones           = var.zones
  segments        = var.segments
  clients         = var.clients
  operators       = var.operators
  vpn_networks    = try(var.vpn.networks, [])
  public_segments = var.public_segments
  gateway_port    = var.gateway_port
  ssh_port        = var.ssh_port
  kubernetes      = var.kubernetes
  groups          = var.groups
  kept_disks      = var.kept_disks
  user            = var.user
  public_key      = var.public_key
}

module "network" {
  source           = "../modules/openstack/network"
  name             = var.name
  external_network = var.external_network
  range            = var.range
  segments         = var.segments
  rules            = module.blueprint.rules
  internet         = var.internet
}

module "disks" {
  source = "../modules/openstack/disks"
  name   = var.name
  disks  = module.blueprint.disks
}

module "machines" {
  source             = "../modules/openstack/machines"
  name               = var.name
  machines           = module.blueprint.machines
  network_ids        = module.network.network_ids
  subnet_ids         = module.network.subnet_ids
  security_group_ids = module.network.security_group_ids
  disk_ids           = module.disks.ids
  attached           = module.blueprint.attached
  cloud_init         = module.blueprint.cloud_init
  image              = var.image
  external_network   = var.external_network
  public_key         = var.public_key
}

module "protection" {
  source    = "../modules/protection"
  machines  = module.machines.ids
  protected = [for name, machine in module.blueprint.machines : name if machine.protected]
}

module "vpn" {
  source     = "../modules/openstack/vpn"
  count      = var.vpn == null ? 0 : 1
  name       = var.name
  router_id  = module.network.router_id
  subnet_ids = module.network.subnet_ids
  peer       = var.vpn.peer
  networks   = var.vpn.networks
  key        = var.vpn_key
}

# These gateways make no key of their own.
check "vpn_key" {
  assert {
    condition     = var.vpn == null || var.vpn_key != null
    error_message = "the VPN needs a pre-shared key: network.vpn.key_file in kiva.yaml"
  }
}
