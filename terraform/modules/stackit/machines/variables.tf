variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
}

variable "project" {
  description = "StackIT's project."
  type        = string
}

variable "machines" {
  description = "Machines by name."
  type = map(object({
    group    = string
    role     = string
    segment  = string
    flavour  = string
    zone     = string
    disk_gib = number
    public   = bool
  }))
}

variable "security_group_ids" {
  description = "Security groups by segment, and `nodes` of every machine."
  type        = map(string)
}

variable "disk_ids" {
  description = "Data disks by machine."
  type        = map(string)
}

variable "attached" {
  description = "Machines that have their data disk."
  type        = set(string)
}

variable "cloud_init" {
  description = "What each machine does at its first start."
  type        = map(string)
}

variable "image" {
  description = "Machine image with Debian 12."
  type        = string
}

variable "public_key" {
  description = "Public half of the SSH key."
  type        = string
}

variable "network_ids" {
  description = "Networks by segment."
  type        = map(string)
}
