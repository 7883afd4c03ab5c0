provider "stackit" {
  default_region = var.region
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
  source   = "../modules/stackit/network"
  name     = var.name
  project  = var.project
  range    = var.range
  segments = var.segments
  rules    = module.blueprint.rules
  internet = var.internet
}

module "disks" {
  source  = "../modules/stackit/disks"
  name    = var.name
  project = var.project
  disks   = module.blueprint.disks
}

module "machines" {
  source             = "../modules/stackit/machines"
  name               = var.name
  project            = var.project
  machines           = module.blueprint.machines
  network_ids        = module.network.network_ids
  security_group_ids = module.network.security_group_ids
  disk_ids           = module.disks.ids
  attached           = module.blueprint.attached
  cloud_init         = module.blueprint.cloud_init
  image              = var.image
  public_key         = var.public_key
}

module "protection" {
  source    = "../modules/protection"
  machines  = module.machines.ids
  protected = [for name, machine in module.blueprint.machines : name if machine.protected]
}

module "vpn" {
  source   = "../modules/stackit/vpn"
  count    = var.vpn == null ? 0 : 1
  name     = var.name
  project  = var.project
  region   = var.region
  zones    = var.zones
  segments = var.segments
  peer     = var.vpn.peer
  networks = var.vpn.networks
  key      = var.vpn_key
}

# These gateways make no key of their own.
check "vpn_key" {
  assert {
    condition     = var.vpn == null || var.vpn_key != null
    error_message = "the VPN needs a pre-shared key: network.vpn.key_file in kiva.yaml"
  }
}
