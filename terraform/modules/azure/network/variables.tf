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

variable "range" {
  description = "The whole network."
  type        = string
}

variable "segments" {
  description = "Networks of the four segments."
  type        = map(string)
}

variable "rules" {
  description = "What is let through."
  type = map(object({
    to_segment   = string
    from_segment = string
    from_range   = string
    protocol     = string
    from_port    = number
    to_port      = number
    why          = string
  }))
}

variable "internet" {
  description = "Whether machines without public addresses reach the internet."
  type        = bool
}

variable "public_segments" {
  description = "Segments whose machines get public addresses."
  type        = set(string)
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
}
