output "nodes" {
  description = "The machines, as kivactl's inventory reads them."
  value = [for name, machine in module.blueprint.machines : {
    name           = name
    group          = machine.group
    role           = machine.role
    address        = module.machines.addresses[name]
    public_address = lookup(module.machines.public_addresses, name, null)
    zone           = machine.zone
    gpus           = machine.gpus
    gpu_type       = machine.gpu_type
    host_key       = null
  }]
}

output "gateway_addresses" {
  description = "Where clients reach the gateway: public addresses, or those in the network without."
  value = [for name, machine in module.blueprint.machines : lookup(module.machines.public_addresses, name, module.machines.addresses[name])
  if machine.segment == "gateway"]
}

output "segments" {
  description = "Networks of the segments."
  value       = var.segments
}

output "data_disks" {
  description = "Data disks by machine, with those whose machines are gone."
  value       = { for machine, disk in module.blueprint.disks : machine => merge(disk, { id = module.disks.ids[machine] }) }
}

output "vpn_addresses" {
  description = "Public addresses of this side of the VPN."
  value       = flatten(module.vpn[*].addresses)
}
