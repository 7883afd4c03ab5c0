mock_provider "aws" {
  mock_data "aws_ec2_instance_type_offerings" {
    defaults = { instance_types = ["m7i.xlarge", "g6e.4xlarge", "trn1.32xlarge"] }
  }
  mock_data "aws_ec2_instance_type" {
    defaults = { default_vcpus = 16 }
  }
  mock_data "aws_servicequotas_service_quota" {
    defaults = { quota_name = "a quota", value = 64 }
  }
  mock_data "aws_ami" {
    defaults = { id = "ami-0123456789abcdef0" }
  }
}

variables {
  name            = "kiva"
  region          = "eu-central-1"
  zones           = ["eu-central-1a", "eu-central-1b"]
  range           = "10.20.0.0/16"
  segments        = { gateway = "10.20.0.0/20", engines = "10.20.16.0/20", storage = "10.20.32.0/20", management = "10.20.48.0/20" }
  clients         = ["203.0.113.0/24"]
  operators       = ["198.51.100.0/24"]
  public_segments = ["gateway", "management"]
  internet        = true
  gateway_port    = 4000
  ssh_port        = 22
  user            = "kiva"
  public_key      = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJw6rB7cXKzcHbzP5GjJxGpX1Xt1WbZzL1mKzQx9vJ0a"
  kubernetes      = { distribution = "k3s", cni = "cilium" }
  groups = {
    control = { role = "server", count = 1, flavour = "m7i.xlarge", gpus = 0, gpu_type = null, zones = ["eu-central-1a"], disk_gib = 20, data_disk_gib = null, protected = false }
    gpu     = { role = "engine", count = 2, flavour = "g6e.4xlarge", gpus = 1, gpu_type = "L40S", zones = ["eu-central-1a", "eu-central-1b"], disk_gib = 50, data_disk_gib = null, protected = false }
  }
  kept_disks = {}
  image      = null
  vpn        = null
  ask_quotas = true
}

run "outputs_are_an_inventory" {
  assert {
    condition     = [for node in output.nodes : node.name] == ["control-1", "gpu-1", "gpu-2"]
    error_message = "three machines"
  }
  assert {
    condition     = output.nodes[0].public_address != null && output.nodes[1].public_address == null
    error_message = "only the server has a public address"
  }
  assert {
    condition     = output.data_disks == {} && output.vpn_addresses == []
    error_message = "no data disks, no VPN"
  }
}

# Planned only: what Terraform made here it could not take away afterwards.
run "data_disks_are_outputs" {
  command = plan
  variables {
    kept_disks = { gpu-9 = { zone = "eu-central-1a", size_gib = 100 } }
  }
  assert {
    condition     = keys(output.data_disks) == ["gpu-9"] && output.data_disks["gpu-9"].size_gib == 100
    error_message = "a disk without its machine"
  }
}

run "a_vpn_is_optional" {
  command = plan
  variables {
    vpn             = { peer = "192.0.2.10", networks = ["10.99.0.0/16"] }
    vpn_key         = "a_key_that_is_long_enough"
    public_segments = []
    internet        = false
  }
  assert {
    condition     = length(module.vpn) == 1 && length(output.nodes) == 3
    error_message = "one VPN"
  }
}

run "operators_are_not_everyone" {
  command = plan
  variables {
    operators = ["0.0.0.0/0"]
  }
  expect_failures = [var.operators]
}

run "engines_are_never_public" {
  command = plan
  variables {
    public_segments = ["engines"]
  }
  expect_failures = [var.public_segments]
}

run "zones_of_groups_are_among_the_zones" {
  command = plan
  variables {
    zones = ["eu-central-1a"]
  }
  expect_failures = [var.groups]
}

run "small_segments_are_refused" {
  command = plan
  variables {
    segments = { gateway = "10.20.0.0/26", engines = "10.20.16.0/20", storage = "10.20.32.0/20", management = "10.20.48.0/20" }
  }
  expect_failures = [var.segments]
}

# Two machines with 16 vCPUs each and one of another family, two public addresses: as much as the quotas are.
run "quotas_that_suffice" {
  command = plan
  override_data {
    target = module.machines.data.aws_servicequotas_service_quota.vcpus["L-DB2E81BA"]
    values = { value = 32 }
  }
  override_data {
    target = module.machines.data.aws_servicequotas_service_quota.vcpus["L-1216C47A"]
    values = { value = 16 }
  }
  override_data {
    target = module.machines.data.aws_servicequotas_service_quota.addresses
    values = { value = 2 }
  }
  assert {
    condition     = length(output.nodes) == 3
    error_message = "three machines"
  }
}

run "quotas_that_are_too_small" {
  command = plan
  module {
    source = "../modules/aws/machines"
  }
  variables {
    machines = {
      control-1 = { group = "control", role = "server", segment = "management", flavour = "m7i.xlarge", zone = "eu-central-1a", disk_gib = 20, public = true }
      gpu-1     = { group = "gpu", role = "engine", segment = "engines", flavour = "g6e.4xlarge", zone = "eu-central-1a", disk_gib = 20, public = false }
      gpu-2     = { group = "gpu", role = "engine", segment = "engines", flavour = "g6e.4xlarge", zone = "eu-central-1a", disk_gib = 20, public = false }
    }
    subnet_ids         = { "management/eu-central-1a" = "subnet-1", "engines/eu-central-1a" = "subnet-2" }
    security_group_ids = { management = "sg-1", engines = "sg-2", nodes = "sg-3" }
    disk_ids           = {}
    attached           = []
    cloud_init         = { control-1 = "", gpu-1 = "", gpu-2 = "" }
    other_addresses    = 1
  }
  override_data {
    target = data.aws_servicequotas_service_quota.vcpus["L-DB2E81BA"]
    values = { value = 31 }
  }
  override_data {
    target = data.aws_servicequotas_service_quota.addresses
    values = { value = 1 }
  }
  expect_failures = [data.aws_servicequotas_service_quota.vcpus["L-DB2E81BA"], data.aws_servicequotas_service_quota.addresses["L-0263D0A3"]]
}

run "quotas_that_may_not_be_asked" {
  command = plan
  variables {
    ask_quotas = false
  }
  override_data {
    target = module.machines.data.aws_servicequotas_service_quota.vcpus
    values = { value = 0 }
  }
  assert {
    condition     = length(output.nodes) == 3
    error_message = "three machines"
  }
}

run "families_with_quotas_of_their_own" {
  command = plan
  module {
    source = "../modules/aws/machines"
  }
  variables {
    machines = {
      box-1 = { group = "box", role = "engine", segment = "engines", flavour = "trn1.32xlarge", zone = "eu-central-1a", disk_gib = 20, public = false }
    }
    subnet_ids         = { "engines/eu-central-1a" = "subnet-1" }
    security_group_ids = { engines = "sg-1", nodes = "sg-2" }
    disk_ids           = {}
    attached           = []
    cloud_init         = { box-1 = "" }
    other_addresses    = 0
  }
  assert {
    condition     = length(data.aws_servicequotas_service_quota.vcpus) + length(data.aws_servicequotas_service_quota.addresses) + length(data.aws_ec2_instance_type.counted) == 0
    error_message = "nothing to ask"
  }
}
