resource "aws_ebs_volume" "data" {
  for_each          = var.disks
  availability_zone = each.value.zone
  size              = each.value.size_gib
  type              = "gp3"
  encrypted         = true
  tags              = { Name = "${var.name}-${each.key}-data" }
  lifecycle {
    prevent_destroy = true
  }
}
