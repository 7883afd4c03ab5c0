variable "zones" {
  description = "Zones of the region; the order numbers the subnets, so new ones belong at the end."
  type        = list(string)
  validation {
    condition     = length(var.zones) >= 1 && length(var.zones) <= 7 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones: one to seven, each named once."
  }
}

variable "segments" {
  description = "Networks of the four segments."
  type        = object({ gateway = string, engines = string, storage = string, management = string })
}

variable "clients" {
  description = "Networks that reach the gateway's port."
  type        = list(string)
}

variable "operators" {
  description = "Networks that reach SSH and Kubernetes' API."
  type        = list(string)
}

variable "vpn_networks" {
  description = "Networks behind the VPN; they count as clients and operators."
  type        = list(string)
}

variable "public_segments" {
  description = "Segments whose machines get public addresses."
  type        = set(string)
}

variable "gateway_port" {
  description = "TCP port of the gateway."
  type        = number
}

variable "ssh_port" {
  description = "TCP port of SSH."
  type        = number
}

variable "kubernetes" {
  description = "Distribution and CNI of Kubernetes; null without Kubernetes."
  type        = object({ distribution = string, cni = string })
}

variable "groups" {
  description = "Machines that are alike, by the group's name."
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
}

variable "kept_disks" {
  description = "Data disks whose machines are gone, by machine."
  type        = map(object({ zone = string, size_gib = number }))
}

variable "user" {
  description = "Linux user to log in as."
  type        = string
}

variable "public_key" {
  description = "Public half of the SSH key."
  type        = string
}
