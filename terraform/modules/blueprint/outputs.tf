output "machines" {
  description = "Every machine by its name: group, role, segment, zone, sizes."
  value       = local.machines
}

output "disks" {
  description = "Every data disk by the machine it belongs to: those in use, and those whose machines are gone."
  value       = merge(var.kept_disks, local.wanted_disks)
}

output "attached" {
  description = "Names of the machines that have their data disk."
  value       = toset(keys(local.wanted_disks))
}

output "subnets" {
  description = "A subnet for each segment and zone, by SEGMENT/ZONE; an eighth of the segment each."
  value = merge([for segment, network in var.segments : {
    for index, zone in var.zones : "${segment}/${zone}" => { segment = segment, zone = zone, network = cidrsubnet(network, 3, index) }
  }]...)
}

output "rules" {
  description = "What is let through: to a segment (`nodes` is every machine), from a segment or a network. All else is not."
  value       = local.rules
}

output "cloud_init" {
  description = "What each machine does at its first start, by machine."
  value       = local.cloud_init
}
