resource "openstack_blockstorage_volume_v3" "data" {
  for_each          = var.disks
  name              = "${var.name}-${each.key}-data"
  availability_zone = each.value.zone
  size              = each.value.size_gib
  lifecycle {
    prevent_destroy = true
  }
}
