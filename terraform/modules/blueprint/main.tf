locals {
  segment_of = { host = "gateway", gateway = "gateway", engine = "engines", storage = "storage", server = "management" }

  machines = merge([
    for name, group in var.groups : {
      for index in range(group.count) : "${name}-${index + 1}" => {
        group         = name
        role          = group.role
        segment       = local.segment_of[group.role]
        flavour       = group.flavour
        gpus          = group.gpus
        gpu_type      = group.gpu_type
        zone          = group.zones[index % length(group.zones)]
        disk_gib      = group.disk_gib
        data_disk_gib = group.data_disk_gib
        protected     = group.protected
        public        = contains(var.public_segments, local.segment_of[group.role])
      }
    }
  ]...)

  # A disk grows with its group and never shrinks; one whose machine is gone stays as it was.
  wanted_disks = { for name, machine in local.machines : name => {
    zone     = machine.zone
    size_gib = max(machine.data_disk_gib, try(var.kept_disks[name].size_gib, 0))
  } if machine.data_disk_gib != null }

  clients   = distinct(concat(var.clients, var.vpn_networks))
  operators = distinct(concat(var.operators, var.vpn_networks))

  # Ports that the nodes of a cluster open for each other: kubelet, the CNI, figures.
  node_ports = var.kubernetes == null ? [] : concat(
    [
      { protocol = "tcp", from = 10250, to = 10250, why = "kubelet" },
      { protocol = "tcp", from = 9100, to = 9100, why = "node exporter" },
      { protocol = "tcp", from = 9400, to = 9400, why = "GPU exporter" },
      { protocol = "icmp", from = 8, to = 0, why = "echo" },
    ],
    var.kubernetes.cni == "calico" ? [
      { protocol = "tcp", from = 179, to = 179, why = "BGP" },
      { protocol = "tcp", from = 5473, to = 5473, why = "Typha" },
      { protocol = "udp", from = 4789, to = 4789, why = "pods (VXLAN)" },
      ] : [
      { protocol = "tcp", from = 4240, to = 4240, why = "health of Cilium" },
      { protocol = "udp", from = 8472, to = 8472, why = "pods (VXLAN)" },
    ],
  )

  between = concat(
    [for port in local.node_ports : merge(port, { to_segment = "nodes", from_segment = "nodes" })],
    contains(var.public_segments, "management") ? [
      { to_segment = "nodes", from_segment = "management", protocol = "tcp", from = var.ssh_port, to = var.ssh_port, why = "SSH through a server" },
    ] : [],
    var.kubernetes == null ? [] : [
      { to_segment = "management", from_segment = "nodes", protocol = "tcp", from = 6443, to = 6443, why = "Kubernetes API" },
      { to_segment = "management", from_segment = "management", protocol = "tcp", from = 2379, to = 2380, why = "etcd" },
      { to_segment = "engines", from_segment = "gateway", protocol = "tcp", from = 8000, to = 8000, why = "engines" },
      { to_segment = "storage", from_segment = "engines", protocol = "tcp", from = 2049, to = 2049, why = "NFS" },
    ],
    try(var.kubernetes.distribution, "") != "rke2" ? [] : [
      { to_segment = "management", from_segment = "nodes", protocol = "tcp", from = 9345, to = 9345, why = "RKE2 registration" },
    ],
  )

  outside = concat(
    [for range in local.clients : { to_segment = "gateway", range = range, port = var.gateway_port, why = "clients" }],
    [for range in local.operators : { to_segment = "nodes", range = range, port = var.ssh_port, why = "SSH of operators" }],
    var.kubernetes == null ? [] :
    [for range in local.operators : { to_segment = "management", range = range, port = 6443, why = "Kubernetes API for operators" }],
  )

  rules = merge(
    { for rule in local.between : "${rule.to_segment}-from-${rule.from_segment}-${rule.protocol}-${rule.from}" => {
      to_segment = rule.to_segment, from_segment = rule.from_segment, from_range = null,
      protocol   = rule.protocol, from_port = rule.from, to_port = rule.to, why = rule.why
    } },
    { for rule in local.outside : "${rule.to_segment}-from-${rule.range}-tcp-${rule.port}" => {
      to_segment = rule.to_segment, from_segment = null, from_range = rule.range,
      protocol   = "tcp", from_port = rule.port, to_port = rule.port, why = rule.why
    } },
  )

  # cloud-init; JSON is YAML. The port is set before the first login, so that no rule for another is needed.
  cloud_init = { for name, machine in local.machines : name => format("#cloud-config\n%s\n", jsonencode({
    hostname     = name
    ssh_pwauth   = false
    disable_root = true
    users = [{
      name                = var.user
      groups              = ["sudo"]
      shell               = "/bin/bash"
      sudo                = "ALL=(ALL) NOPASSWD:ALL"
      lock_passwd         = true
      ssh_authorized_keys = [var.public_key]
    }]
    write_files = [{ path = "/etc/ssh/sshd_config.d/10-port.conf", content = "Port ${var.ssh_port}\n" }]
    runcmd      = ["systemctl restart ssh"]
  })) }
}
