# `prevent_destroy` takes no variables. So each machine has a stand-in, in one of two resources; taking a machine away or replacing it
# does the same to its stand-in, and Terraform refuses that for the protected ones while it plans. A machine comes into the other
# resource by a move (`moved` or `terraform state mv`), never by a change of variables alone.
resource "terraform_data" "protected" {
  for_each         = { for name in var.protected : name => var.machines[name] }
  triggers_replace = each.value
  lifecycle {
    prevent_destroy = true
  }
}

resource "terraform_data" "free" {
  for_each         = { for name, id in var.machines : name => id if !contains(var.protected, name) }
  triggers_replace = each.value
}
