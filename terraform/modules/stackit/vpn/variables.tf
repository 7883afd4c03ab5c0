variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
}

variable "project" {
  description = "StackIT's project."
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

variable "region" {
  description = "Region."
  type        = string
}

variable "zones" {
  description = "Zones."
  type        = list(string)
}

variable "segments" {
  description = "Networks of the four segments."
  type        = map(string)
}
