variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
}

variable "resource_group" {
  description = "Resource group."
  type        = string
}

variable "location" {
  description = "Region."
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

variable "virtual_network" {
  description = "Name of the virtual network."
  type        = string
}

variable "gateway_network" {
  description = "Network of the VPN gateway; in no other subnet."
  type        = string
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
}
