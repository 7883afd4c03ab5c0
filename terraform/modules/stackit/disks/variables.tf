variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
}

variable "project" {
  description = "StackIT's project."
  type        = string
}

variable "disks" {
  description = "Data disks, by machine."
  type        = map(object({ zone = string, size_gib = number }))
}
