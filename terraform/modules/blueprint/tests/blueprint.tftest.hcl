variables {
  zones           = ["a", "b"]
  segments        = { gateway = "10.20.0.0/20", engines = "10.20.16.0/20", storage = "10.20.32.0/20", management = "10.20.48.0/20" }
  clients         = ["203.0.113.0/24"]
  operators       = ["198.51.100.0/24"]
  vpn_networks    = []
  public_segments = ["gateway", "management"]
  gateway_port    = 4000
  ssh_port        = 22
  kubernetes      = { distribution = "k3s", cni = "cilium" }
  groups = {
    control = { role = "server", count = 1, flavour = "s", gpus = 0, gpu_type = null, zones = ["a"], disk_gib = 20, data_disk_gib = null, protected = false }
    gpu     = { role = "engine", count = 3, flavour = "g", gpus = 1, gpu_type = "L40S", zones = ["a", "b"], disk_gib = 50, data_disk_gib = 100, protected = true }
  }
  kept_disks = { gpu-1 = { zone = "a", size_gib = 200 }, gpu-9 = { zone = "b", size_gib = 50 } }
  user       = "kiva"
  public_key = "ssh-ed25519 AAAA"
}

run "machines_take_zones_in_turn" {
  command = plan
  assert {
    condition     = [for name in ["gpu-1", "gpu-2", "gpu-3"] : output.machines[name].zone] == ["a", "b", "a"]
    error_message = "zones in turn"
  }
  assert {
    condition     = output.machines["gpu-1"].segment == "engines" && !output.machines["gpu-1"].public && output.machines["control-1"].public
    error_message = "engines are never public"
  }
}

run "disks_never_shrink_and_never_go" {
  command = plan
  assert {
    condition     = output.disks["gpu-1"].size_gib == 200 && output.disks["gpu-2"].size_gib == 100
    error_message = "the larger of what is wanted and what is there"
  }
  assert {
    condition     = output.disks["gpu-9"].size_gib == 50 && !contains(output.attached, "gpu-9")
    error_message = "a disk without its machine stays, unattached"
  }
}

run "clients_reach_the_gateway_alone" {
  command = plan
  assert {
    condition     = [for rule in values(output.rules) : "${rule.to_segment}:${rule.to_port}" if rule.from_range == "203.0.113.0/24"] == ["gateway:4000"]
    error_message = "one rule for clients"
  }
  assert {
    condition     = alltrue([for rule in values(output.rules) : rule.from_range != "0.0.0.0/0"])
    error_message = "nothing is open to everyone"
  }
  assert {
    condition     = alltrue([for rule in values(output.rules) : contains([22, 6443], rule.to_port) if rule.from_range == "198.51.100.0/24"])
    error_message = "operators reach SSH and Kubernetes' API"
  }
}

run "without_kubernetes_nothing_is_open_between_machines" {
  command = plan
  variables {
    kubernetes      = null
    public_segments = []
    vpn_networks    = ["10.99.0.0/16"]
  }
  assert {
    condition     = length([for rule in values(output.rules) : rule if rule.from_segment != null]) == 0
    error_message = "no rule between machines"
  }
  assert {
    condition     = contains([for rule in values(output.rules) : rule.from_range], "10.99.0.0/16")
    error_message = "who comes through the VPN is a client and an operator"
  }
}

run "rke2_and_calico_have_their_ports" {
  command = plan
  variables {
    kubernetes = { distribution = "rke2", cni = "calico" }
  }
  assert {
    condition = alltrue([for key in ["management-from-nodes-tcp-9345", "nodes-from-nodes-udp-4789", "nodes-from-nodes-tcp-179", "nodes-from-nodes-tcp-5473"] :
    contains(keys(output.rules), key)])
    error_message = "registration, VXLAN, BGP, Typha"
  }
  assert {
    condition     = !contains(keys(output.rules), "nodes-from-nodes-udp-8472")
    error_message = "nothing of Cilium's"
  }
}

run "subnets_are_apart_and_keep_their_numbers" {
  command = plan
  variables {
    zones = ["a", "b", "c"]
  }
  assert {
    condition     = length(output.subnets) == 12 && output.subnets["engines/b"].network == "10.20.18.0/23"
    error_message = "a further zone moves no subnet"
  }
}
