variable "name" {
  description = "Name of the platform; begins every name."
  type        = string
}

variable "range" {
  description = "The whole network."
  type        = string
}

variable "nat_zone" {
  description = "Zone of the NAT gateway."
  type        = string
}

variable "nat_network" {
  description = "Network of the NAT gateway; in no other subnet."
  type        = string
}

variable "subnets" {
  description = "Subnets by SEGMENT/ZONE."
  type        = map(object({ segment = string, zone = string, network = string }))
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

variable "public_segments" {
  description = "Segments whose machines get public addresses."
  type        = set(string)
}

variable "internet" {
  description = "Whether machines without public addresses reach the internet."
  type        = bool
}
