variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "route_table_ids" {
  description = "Route tables that learn the way to the other side."
  type        = list(string)
}

variable "peer" {
  description = "Public address of the other side."
  type        = string
}

variable "networks" {
  description = "Networks of the other side."
  type        = set(string)
}

variable "key" {
  description = "Pre-shared key; made by AWS when null."
  type        = string
  sensitive   = true
}
