variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?$", var.name))
    error_message = "name: 1 to 63 lower-case letters, digits, dots or dashes."
  }
}

variable "region" {
  description = "The cloud's region."
  type        = string
  nullable    = false
}

variable "zones" {
  description = "Zones of the region; the order numbers the subnets, so new ones belong at the end."
  type        = list(string)
  validation {
    condition     = length(var.zones) >= 1 && length(var.zones) <= 7 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones: one to seven, each named once."
  }
}

variable "range" {
  description = "The whole network (IPv4)."
  type        = string
  validation {
    condition     = can(cidrnetmask(var.range))
    error_message = "range: an IPv4 network such as 10.20.0.0/16."
  }
}

variable "segments" {
  description = "Networks of the four segments; each is cut into eight, one for each zone."
  type        = object({ gateway = string, engines = string, storage = string, management = string })
  validation {
    condition     = alltrue([for network in values(var.segments) : can(cidrnetmask(network)) && tonumber(try(split("/", network)[1], 32)) <= 25])
    error_message = "segments: IPv4 networks of /25 or larger."
  }
}

variable "clients" {
  description = "Networks that reach the gateway's port; besides those behind the VPN, nobody when empty."
  type        = list(string)
  validation {
    condition     = alltrue([for network in var.clients : can(cidrnetmask(network))])
    error_message = "clients: IPv4 networks such as 198.51.100.0/24."
  }
}

variable "operators" {
  description = "Networks that reach SSH and Kubernetes' API."
  type        = list(string)
  validation {
    condition     = alltrue([for network in var.operators : can(cidrnetmask(network)) && network != "0.0.0.0/0"])
    error_message = "operators: IPv4 networks such as 198.51.100.0/24, and not the whole internet."
  }
}

variable "public_segments" {
  description = "Segments whose machines get public addresses: gateway, management or none; never engines or storage."
  type        = set(string)
  validation {
    condition     = length(setsubtract(var.public_segments, ["gateway", "management"])) == 0
    error_message = "public_segments: only gateway and management can be public."
  }
}

variable "internet" {
  description = "Whether machines without public addresses reach the internet, through NAT."
  type        = bool
}

variable "gateway_port" {
  description = "TCP port of the gateway."
  type        = number
  validation {
    condition     = var.gateway_port >= 1 && var.gateway_port <= 65535
    error_message = "gateway_port: 1 to 65535."
  }
}

variable "ssh_port" {
  description = "TCP port of SSH."
  type        = number
  validation {
    condition     = var.ssh_port >= 1 && var.ssh_port <= 65535
    error_message = "ssh_port: 1 to 65535."
  }
}

variable "user" {
  description = "Linux user to log in as; may become root by sudo."
  type        = string
  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]{0,31}$", var.user)) && var.user != "root"
    error_message = "user: a Linux user other than root."
  }
}

variable "public_key" {
  description = "Public half of the SSH key."
  type        = string
  validation {
    condition     = can(regex("^(ssh-|ecdsa-)\\S+ \\S+", var.public_key))
    error_message = "public_key: a line such as ssh-ed25519 AAAA..."
  }
}

variable "kubernetes" {
  description = "Distribution (k3s, rke2) and CNI (cilium, calico) of Kubernetes, whose ports are let through; null without."
  type        = object({ distribution = string, cni = string })
  validation {
    condition     = var.kubernetes == null || try(contains(["k3s", "rke2"], var.kubernetes.distribution) && contains(["cilium", "calico"], var.kubernetes.cni), false)
    error_message = "kubernetes: distribution k3s or rke2, cni cilium or calico."
  }
}

variable "groups" {
  description = "Machines that are alike, by the group's name; they are called NAME-1, NAME-2 and so on."
  type = map(object({
    role          = string
    count         = number
    flavour       = string
    gpus          = number
    gpu_type      = string
    zones         = list(string)
    disk_gib      = number
    data_disk_gib = number
    protected     = bool
  }))
  validation {
    condition     = alltrue([for group in var.groups : contains(["host", "server", "engine", "gateway", "storage"], group.role)])
    error_message = "groups: a role is host, server, engine, gateway or storage."
  }
  validation {
    condition     = alltrue([for group in var.groups : group.count >= 0 && group.count <= 500 && floor(group.count) == group.count && group.disk_gib >= 8])
    error_message = "groups: 0 to 500 machines each, with root disks of 8 GiB or more."
  }
  validation {
    condition     = alltrue([for group in var.groups : length(group.zones) > 0 && length(setsubtract(group.zones, var.zones)) == 0])
    error_message = "groups: each has at least one zone, and all are among var.zones."
  }
}

variable "kept_disks" {
  description = "Data disks whose machines are gone, by machine; they stay, and a machine of that name gets its disk back."
  type        = map(object({ zone = string, size_gib = number }))
}

variable "image" {
  description = "Machine image with Debian 12; the provider's own when null."
  type        = string
}

variable "vpn" {
  description = "Site-to-site VPN: public address of the other side, and the networks behind it; none when null."
  type        = object({ peer = string, networks = list(string) })
}

variable "vpn_key" {
  description = "Pre-shared key of the VPN, by TF_VAR_vpn_key; made by the cloud when null and it can."
  type        = string
  default     = null
  sensitive   = true
}

variable "project" {
  description = "Azure's subscription."
  type        = string
  nullable    = false
}
