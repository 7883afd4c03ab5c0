resource "stackit_volume" "data" {
  for_each          = var.disks
  project_id        = var.project
  name              = "${var.name}-${each.key}-data"
  availability_zone = each.value.zone
  size              = each.value.size_gib
  labels            = { platform = var.name, managed_by = "kivactl" }
  lifecycle {
    prevent_destroy = true
  }
}
