locals {
  by_id = can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.image))
}

data "stackit_image_v2" "debian" {
  count      = local.by_id ? 0 : 1
  project_id = var.project
  name       = coalesce(var.image, "Debian 12")
}

resource "stackit_key_pair" "platform" {
  name       = var.name
  public_key = var.public_key
}

resource "stackit_network_interface" "machine" {
  for_each           = var.machines
  project_id         = var.project
  name               = "${var.name}-${each.key}"
  network_id         = var.network_ids[each.value.segment]
  security_group_ids = [var.security_group_ids[each.value.segment], var.security_group_ids["nodes"]]
}

resource "stackit_server" "machine" {
  for_each           = var.machines
  project_id         = var.project
  name               = "${var.name}-${each.key}"
  machine_type       = each.value.flavour
  availability_zone  = each.value.zone
  keypair_name       = stackit_key_pair.platform.name
  user_data          = var.cloud_init[each.key]
  network_interfaces = [stackit_network_interface.machine[each.key].network_interface_id]
  labels             = { platform = var.name, managed_by = "kivactl", group = each.value.group, role = each.value.role }

  boot_volume = {
    source_type           = "image"
    source_id             = local.by_id ? var.image : data.stackit_image_v2.debian[0].image_id
    size                  = each.value.disk_gib
    delete_on_termination = true
  }

  # A newer image or another key is no reason to make a machine anew; keys are Ansible's from the first login on.
  lifecycle {
    ignore_changes = [boot_volume, user_data, keypair_name]
  }
}

resource "stackit_public_ip" "machine" {
  for_each             = { for name, machine in var.machines : name => machine if machine.public }
  project_id           = var.project
  network_interface_id = stackit_network_interface.machine[each.key].network_interface_id
  labels               = { platform = var.name, managed_by = "kivactl" }
}

resource "stackit_server_volume_attach" "data" {
  for_each   = var.attached
  project_id = var.project
  server_id  = stackit_server.machine[each.key].server_id
  volume_id  = var.disk_ids[each.key]
}
