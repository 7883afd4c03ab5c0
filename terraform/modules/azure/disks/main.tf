# The resource group is here, with what stays: whoever takes the machines away must not take the disks' group.
resource "azurerm_resource_group" "platform" {
  name     = var.name
  location = var.location
  tags     = var.tags
}

resource "azurerm_managed_disk" "data" {
  for_each             = var.disks
  name                 = "${var.name}-${each.key}-data"
  resource_group_name  = azurerm_resource_group.platform.name
  location             = var.location
  zone                 = each.value.zone
  storage_account_type = "Premium_LRS"
  create_option        = "Empty"
  disk_size_gb         = each.value.size_gib
  tags                 = var.tags
  lifecycle {
    prevent_destroy = true
  }
}
