variable "name" {
  description = "Name of the platform; begins every name."
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

variable "subnet_ids" {
  description = "Subnets by SEGMENT/ZONE."
  type        = map(string)
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
  description = "AMI by id, or the name of one of Debian's; the newest Debian 12 when null."
  type        = string
}

variable "public_key" {
  description = "Public half of the SSH key."
  type        = string
}

variable "ask_quotas" {
  description = "Whether the account's quotas are asked; a plan that is too large for one fails."
  type        = bool
}

variable "region" {
  description = "The region, which has quotas of its own."
  type        = string
}

variable "other_addresses" {
  description = "How many public addresses the platform has besides those of its machines."
  type        = number
}
