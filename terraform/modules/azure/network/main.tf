locals {
  groups  = toset(["gateway", "engines", "storage", "management", "nodes"])
  private = var.internet ? { for segment, network in var.segments : segment => network if !contains(var.public_segments, segment) } : {}
  order   = sort(keys(var.rules))
}

resource "azurerm_virtual_network" "platform" {
  name                = var.name
  resource_group_name = var.resource_group
  location            = var.location
  address_space       = [var.range]
  tags                = var.tags
}

resource "azurerm_subnet" "segment" {
  for_each                        = var.segments
  name                            = each.key
  resource_group_name             = var.resource_group
  virtual_network_name            = azurerm_virtual_network.platform.name
  address_prefixes                = [each.value]
  default_outbound_access_enabled = false
}

resource "azurerm_application_security_group" "segment" {
  for_each            = local.groups
  name                = "${var.name}-${each.key}"
  resource_group_name = var.resource_group
  location            = var.location
  tags                = var.tags
}

# All rules in one place: Azure numbers them, and single ones would get in each other's way when a number changes.
resource "azurerm_network_security_group" "platform" {
  name                = var.name
  resource_group_name = var.resource_group
  location            = var.location
  tags                = var.tags

  dynamic "security_rule" {
    for_each = local.order
    content {
      name                                       = replace(security_rule.value, "/", "_")
      description                                = var.rules[security_rule.value].why
      priority                                   = 100 + security_rule.key
      direction                                  = "Inbound"
      access                                     = "Allow"
      protocol                                   = title(var.rules[security_rule.value].protocol)
      source_port_range                          = "*"
      destination_port_range                     = var.rules[security_rule.value].protocol == "icmp" ? "*" : "${var.rules[security_rule.value].from_port}-${var.rules[security_rule.value].to_port}"
      source_address_prefix                      = var.rules[security_rule.value].from_range
      source_application_security_group_ids      = var.rules[security_rule.value].from_segment == null ? null : [azurerm_application_security_group.segment[var.rules[security_rule.value].from_segment].id]
      destination_application_security_group_ids = [azurerm_application_security_group.segment[var.rules[security_rule.value].to_segment].id]
    }
  }

  # Azure lets machines of one network reach each other unless told otherwise.
  security_rule {
    name                       = "nothing-else"
    priority                   = 4096
    direction                  = "Inbound"
    access                     = "Deny"
    protocol                   = "*"
    source_port_range          = "*"
    destination_port_range     = "*"
    source_address_prefix      = "*"
    destination_address_prefix = "*"
  }
}

resource "azurerm_subnet_network_security_group_association" "segment" {
  for_each                  = var.segments
  subnet_id                 = azurerm_subnet.segment[each.key].id
  network_security_group_id = azurerm_network_security_group.platform.id
}

resource "azurerm_public_ip" "nat" {
  count               = var.internet ? 1 : 0
  name                = "${var.name}-nat"
  resource_group_name = var.resource_group
  location            = var.location
  allocation_method   = "Static"
  sku                 = "Standard"
  tags                = var.tags
}

resource "azurerm_nat_gateway" "platform" {
  count               = var.internet ? 1 : 0
  name                = var.name
  resource_group_name = var.resource_group
  location            = var.location
  sku_name            = "Standard"
  tags                = var.tags
}

resource "azurerm_nat_gateway_public_ip_association" "platform" {
  count                = var.internet ? 1 : 0
  nat_gateway_id       = azurerm_nat_gateway.platform[0].id
  public_ip_address_id = azurerm_public_ip.nat[0].id
}

resource "azurerm_subnet_nat_gateway_association" "segment" {
  for_each       = local.private
  subnet_id      = azurerm_subnet.segment[each.key].id
  nat_gateway_id = azurerm_nat_gateway.platform[0].id
}
