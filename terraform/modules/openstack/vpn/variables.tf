variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
}

variable "peer" {
  description = "Public address of the other side."
  type        = string
}

variable "networks" {
  description = "Networks of the other side."
  type        = list(string)
}

variable "key" {
  description = "Pre-shared key; needed here."
  type        = string
  sensitive   = true
}

variable "router_id" {
  description = "Router of the platform."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets by segment."
  type        = map(string)
}
