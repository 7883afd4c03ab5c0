provider "aws" {
  region = var.region
  default_tags {
    tags = { Platform = var.name, ManagedBy = "kivactl" }
  }
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
  source          = "../modules/aws/network"
  name            = var.name
  range           = var.range
  nat_zone        = var.zones[0]
  nat_network     = cidrsubnet(var.segments.gateway, 3, 7)
  subnets         = module.blueprint.subnets
  rules           = module.blueprint.rules
  public_segments = var.public_segments
  internet        = var.internet
}

module "disks" {
  source = "../modules/aws/disks"
  name   = var.name
  disks  = module.blueprint.disks
}

module "machines" {
  source             = "../modules/aws/machines"
  name               = var.name
  machines           = module.blueprint.machines
  subnet_ids         = module.network.subnet_ids
  security_group_ids = module.network.security_group_ids
  disk_ids           = module.disks.ids
  attached           = module.blueprint.attached
  cloud_init         = module.blueprint.cloud_init
  image              = var.image
  public_key         = var.public_key
  ask_quotas         = var.ask_quotas
  region             = var.region
  other_addresses    = var.internet ? 1 : 0 # NAT's
}

module "protection" {
  source    = "../modules/protection"
  machines  = module.machines.ids
  protected = [for name, machine in module.blueprint.machines : name if machine.protected]
}

module "vpn" {
  source          = "../modules/aws/vpn"
  count           = var.vpn == null ? 0 : 1
  name            = var.name
  vpc_id          = module.network.vpc_id
  route_table_ids = module.network.route_table_ids
  peer            = var.vpn.peer
  networks        = var.vpn.networks
  key             = var.vpn_key
}
