variable "machines" {
  description = "Ids of all machines, by name."
  type        = map(string)
}

variable "protected" {
  description = "Names of the machines that are never taken away."
  type        = set(string)
}
