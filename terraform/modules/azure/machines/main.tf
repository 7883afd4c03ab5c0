locals {
  image = coalesce(var.image, "Debian:debian-12:12-gen2:latest")
  parts = split(":", local.image)
}

resource "azurerm_network_interface" "machine" {
  for_each            = var.machines
  name                = "${var.name}-${each.key}"
  resource_group_name = var.resource_group
  location            = var.location
  tags                = var.tags
  ip_configuration {
    name                          = "machine"
    subnet_id                     = var.subnet_ids[each.value.segment]
    private_ip_address_allocation = "Dynamic"
    public_ip_address_id          = each.value.public ? azurerm_public_ip.machine[each.key].id : null
  }
}

resource "azurerm_public_ip" "machine" {
  for_each            = { for name, machine in var.machines : name => machine if machine.public }
  name                = "${var.name}-${each.key}"
  resource_group_name = var.resource_group
  location            = var.location
  zones               = [each.value.zone]
  allocation_method   = "Static"
  sku                 = "Standard"
  tags                = var.tags
}

resource "azurerm_network_interface_application_security_group_association" "segment" {
  for_each                      = var.machines
  network_interface_id          = azurerm_network_interface.machine[each.key].id
  application_security_group_id = var.security_group_ids[each.value.segment]
}

resource "azurerm_network_interface_application_security_group_association" "nodes" {
  for_each                      = var.machines
  network_interface_id          = azurerm_network_interface.machine[each.key].id
  application_security_group_id = var.security_group_ids["nodes"]
}

resource "azurerm_linux_virtual_machine" "machine" {
  for_each                        = var.machines
  name                            = replace("${var.name}-${each.key}", ".", "-")
  resource_group_name             = var.resource_group
  location                        = var.location
  zone                            = each.value.zone
  size                            = each.value.flavour
  admin_username                  = var.user
  disable_password_authentication = true
  custom_data                     = base64encode(var.cloud_init[each.key])
  network_interface_ids           = [azurerm_network_interface.machine[each.key].id]
  source_image_id                 = startswith(local.image, "/") ? local.image : null
  tags                            = merge(var.tags, { group = each.value.group, role = each.value.role })

  admin_ssh_key {
    username   = var.user
    public_key = var.public_key
  }

  os_disk {
    caching              = "ReadWrite"
    storage_account_type = "Premium_LRS"
    disk_size_gb         = each.value.disk_gib
  }

  dynamic "source_image_reference" {
    for_each = startswith(local.image, "/") ? [] : [local.parts]
    content {
      publisher = source_image_reference.value[0]
      offer     = source_image_reference.value[1]
      sku       = source_image_reference.value[2]
      version   = source_image_reference.value[3]
    }
  }

  # A newer image or another key is no reason to make a machine anew; keys are Ansible's from the first login on.
  lifecycle {
    ignore_changes = [source_image_id, source_image_reference, custom_data, admin_ssh_key]
  }
}

resource "azurerm_virtual_machine_data_disk_attachment" "data" {
  for_each           = var.attached
  virtual_machine_id = azurerm_linux_virtual_machine.machine[each.key].id
  managed_disk_id    = var.disk_ids[each.key]
  lun                = 0
  caching            = "None"
}
