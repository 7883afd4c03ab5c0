locals {
  by_id = startswith(coalesce(var.image, "debian-12-amd64-*"), "ami-")

  # The quotas on vCPUs that run, by the letters with which flavours begin. Others (trn, inf, dl, x, u, hpc, ...) have quotas of their own,
  # which are not asked: the plan is no worse for it than without any question.
  families = {
    "L-1216C47A" = ["a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"]
    "L-DB2E81BA" = ["g", "gr", "vt"]
    "L-417A185B" = ["p"]
  }
  flavours = distinct([for machine in var.machines : machine.flavour])
  quota_of = { for flavour in local.flavours : flavour => one([for code, letters in local.families : code if contains(letters, try(regex("^[a-z]+", flavour), ""))]) }
  counted  = var.ask_quotas ? [for flavour in local.flavours : flavour if local.quota_of[flavour] != null] : []
  vcpus = { for code in distinct([for flavour in local.counted : local.quota_of[flavour]]) :
    code => sum([for machine in var.machines : data.aws_ec2_instance_type.counted[machine.flavour].default_vcpus if local.quota_of[machine.flavour] == code])
  }
  addresses = length([for machine in var.machines : machine if machine.public]) + var.other_addresses
}

data "aws_ami" "debian" {
  count       = local.by_id ? 0 : 1
  most_recent = true
  owners      = ["136693071363"] # Debian: https://wiki.debian.org/Cloud/AmazonEC2Image
  filter {
    name   = "name"
    values = [coalesce(var.image, "debian-12-amd64-*")]
  }
  filter {
    name   = "virtualization-type"
    values = ["hvm"]
  }
}

# Which flavours each zone has: a typo is found by the plan, not in the middle of the changes.
data "aws_ec2_instance_type_offerings" "zone" {
  for_each      = toset([for machine in var.machines : machine.zone])
  location_type = "availability-zone"
  filter {
    name   = "location"
    values = [each.key]
  }
  filter {
    name   = "instance-type"
    values = distinct([for machine in var.machines : machine.flavour])
  }
}

data "aws_ec2_instance_type" "counted" {
  for_each      = toset(local.counted)
  instance_type = each.key
}

# Nothing here may refer to a resource: Terraform would ask only after the resource is made. What else runs in the account takes of a quota
# too, and is not known here: a platform that is larger than the quota by itself can never be made.
data "aws_servicequotas_service_quota" "vcpus" {
  for_each     = toset([for flavour in local.counted : local.quota_of[flavour]])
  service_code = "ec2"
  quota_code   = each.key
  lifecycle {
    postcondition {
      condition     = self.value >= local.vcpus[each.key]
      error_message = "the quota of aws for '${self.quota_name}' in ${var.region} is ${self.value} vCPUs, and this platform alone needs ${local.vcpus[each.key]} (${each.key})"
    }
  }
}

data "aws_servicequotas_service_quota" "addresses" {
  for_each     = toset(var.ask_quotas && local.addresses > 0 ? ["L-0263D0A3"] : [])
  service_code = "ec2"
  quota_code   = each.key
  lifecycle {
    postcondition {
      condition     = self.value >= local.addresses
      error_message = "the quota of aws for '${self.quota_name}' in ${var.region} is ${self.value}, and this platform alone needs ${local.addresses} (${each.key})"
    }
  }
}

resource "aws_key_pair" "platform" {
  key_name   = var.name
  public_key = var.public_key
}

resource "aws_instance" "machine" {
  for_each               = var.machines
  ami                    = local.by_id ? var.image : data.aws_ami.debian[0].id
  instance_type          = each.value.flavour
  availability_zone      = each.value.zone
  subnet_id              = var.subnet_ids["${each.value.segment}/${each.value.zone}"]
  vpc_security_group_ids = [var.security_group_ids[each.value.segment], var.security_group_ids["nodes"]]
  key_name               = aws_key_pair.platform.key_name
  user_data              = var.cloud_init[each.key]
  ebs_optimized          = true

  # One hop: a pod without the node's network does not reach the credentials of its node.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_size           = each.value.disk_gib
    volume_type           = "gp3"
    encrypted             = true
    delete_on_termination = true
    tags                  = { Name = "${var.name}-${each.key}-root" }
  }

  tags = { Name = "${var.name}-${each.key}", Group = each.value.group, Role = each.value.role }

  # A newer image or another key is no reason to make a machine anew; keys are Ansible's from the first login on.
  lifecycle {
    ignore_changes = [ami, user_data]
    precondition {
      condition     = contains(data.aws_ec2_instance_type_offerings.zone[each.value.zone].instance_types, each.value.flavour)
      error_message = "the flavour ${each.value.flavour} is not offered in the zone ${each.value.zone} (machine ${each.key})"
    }
  }
}

resource "aws_eip" "machine" {
  for_each = { for name, machine in var.machines : name => machine if machine.public }
  domain   = "vpc"
  tags     = { Name = "${var.name}-${each.key}" }
}

resource "aws_eip_association" "machine" {
  for_each      = aws_eip.machine
  allocation_id = each.value.id
  instance_id   = aws_instance.machine[each.key].id
}

# A mounted disk cannot be detached: the machine stops first.
resource "aws_volume_attachment" "data" {
  for_each                       = var.attached
  device_name                    = "/dev/sdf"
  volume_id                      = var.disk_ids[each.key]
  instance_id                    = aws_instance.machine[each.key].id
  stop_instance_before_detaching = true
}
