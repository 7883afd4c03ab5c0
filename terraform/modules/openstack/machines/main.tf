data "openstack_images_image_v2" "debian" {
  name        = var.image
  most_recent = true
}

# Flavours by name: a typo is found by the plan, not in the middle of the changes.
data "openstack_compute_flavor_v2" "wanted" {
  for_each = toset([for machine in var.machines : machine.flavour])
  name     = each.key
}

resource "openstack_compute_keypair_v2" "platform" {
  name       = var.name
  public_key = var.public_key
}

resource "openstack_networking_port_v2" "machine" {
  for_each           = var.machines
  name               = "${var.name}-${each.key}"
  network_id         = var.network_ids[each.value.segment]
  admin_state_up     = true
  security_group_ids = [var.security_group_ids[each.value.segment], var.security_group_ids["nodes"]]
  fixed_ip {
    subnet_id = var.subnet_ids[each.value.segment]
  }
}

resource "openstack_compute_instance_v2" "machine" {
  for_each          = var.machines
  name              = "${var.name}-${each.key}"
  flavor_id         = data.openstack_compute_flavor_v2.wanted[each.value.flavour].id
  availability_zone = each.value.zone
  key_pair          = openstack_compute_keypair_v2.platform.name
  user_data         = var.cloud_init[each.key]
  config_drive      = true
  metadata          = { platform = var.name, managed_by = "kivactl", group = each.value.group, role = each.value.role }

  block_device {
    uuid                  = data.openstack_images_image_v2.debian.id
    source_type           = "image"
    destination_type      = "volume"
    volume_size           = each.value.disk_gib
    boot_index            = 0
    delete_on_termination = true
  }

  network {
    port = openstack_networking_port_v2.machine[each.key].id
  }

  # A newer image or another key is no reason to make a machine anew; keys are Ansible's from the first login on.
  lifecycle {
    ignore_changes = [block_device, user_data, key_pair]
  }
}

resource "openstack_networking_floatingip_v2" "machine" {
  for_each    = { for name, machine in var.machines : name => machine if machine.public }
  pool        = var.external_network
  description = "${var.name}-${each.key}"
}

resource "openstack_networking_floatingip_associate_v2" "machine" {
  for_each    = openstack_networking_floatingip_v2.machine
  floating_ip = each.value.address
  port_id     = openstack_networking_port_v2.machine[each.key].id
}

resource "openstack_compute_volume_attach_v2" "data" {
  for_each    = var.attached
  instance_id = openstack_compute_instance_v2.machine[each.key].id
  volume_id   = var.disk_ids[each.key]
}
