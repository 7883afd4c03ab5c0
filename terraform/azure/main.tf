provider "azurerm" {
  subscription_id = var.project
  features {}
}

locals {
  tags = { platform = var.name, managed_by = "kivactl" }
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

module "disks" {
  source   = "../modules/azure/disks"
  name     = var.name
  location = var.region
  disks    = module.blueprint.disks
  tags     = local.tags
}

module "network" {
  source          = "../modules/azure/network"
  name            = var.name
  resource_group  = module.disks.resource_group
  location        = var.region
  range           = var.range
  segments        = var.segments
  rules           = module.blueprint.rules
  public_segments = var.public_segments
  internet        = var.internet
  tags            = local.tags
}

module "machines" {
  source             = "../modules/azure/machines"
  name               = var.name
  resource_group     = module.disks.resource_group
  location           = var.region
  machines           = module.blueprint.machines
  subnet_ids         = module.network.subnet_ids
  security_group_ids = module.network.security_group_ids
  disk_ids           = module.disks.ids
  attached           = module.blueprint.attached
  cloud_init         = module.blueprint.cloud_init
  image              = var.image
  user               = var.user
  public_key         = var.public_key
  tags               = local.tags
}

module "protection" {
  source    = "../modules/protection"
  machines  = module.machines.ids
  protected = [for name, machine in module.blueprint.machines : name if machine.protected]
}

module "vpn" {
  source          = "../modules/azure/vpn"
  count           = var.vpn == null ? 0 : 1
  name            = var.name
  resource_group  = module.disks.resource_group
  location        = var.region
  virtual_network = module.network.virtual_network
  gateway_network = cidrsubnet(var.range, 27 - tonumber(split("/", var.range)[1]), pow(2, 27 - tonumber(split("/", var.range)[1])) - 1)
  peer            = var.vpn.peer
  networks        = var.vpn.networks
  key             = var.vpn_key
  tags            = local.tags
}

# These gateways make no key of their own.
check "vpn_key" {
  assert {
    condition     = var.vpn == null || var.vpn_key != null
    error_message = "the VPN needs a pre-shared key: network.vpn.key_file in kiva.yaml"
  }
}
