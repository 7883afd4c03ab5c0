resource "azurerm_subnet" "vpn" {
  name                 = "GatewaySubnet" # Azure knows it by this name only
  resource_group_name  = var.resource_group
  virtual_network_name = var.virtual_network
  address_prefixes     = [var.gateway_network]
}

resource "azurerm_public_ip" "vpn" {
  name                = "${var.name}-vpn"
  resource_group_name = var.resource_group
  location            = var.location
  allocation_method   = "Static"
  sku                 = "Standard"
  zones               = ["1", "2", "3"]
  tags                = var.tags
}

resource "azurerm_virtual_network_gateway" "platform" {
  name                = var.name
  resource_group_name = var.resource_group
  location            = var.location
  type                = "Vpn"
  vpn_type            = "RouteBased"
  sku                 = "VpnGw1AZ"
  tags                = var.tags
  ip_configuration {
    subnet_id            = azurerm_subnet.vpn.id
    public_ip_address_id = azurerm_public_ip.vpn.id
  }
}

resource "azurerm_local_network_gateway" "peer" {
  name                = "${var.name}-peer"
  resource_group_name = var.resource_group
  location            = var.location
  gateway_address     = var.peer
  address_space       = var.networks
  tags                = var.tags
}

resource "azurerm_virtual_network_gateway_connection" "platform" {
  name                       = var.name
  resource_group_name        = var.resource_group
  location                   = var.location
  type                       = "IPsec"
  connection_protocol        = "IKEv2"
  virtual_network_gateway_id = azurerm_virtual_network_gateway.platform.id
  local_network_gateway_id   = azurerm_local_network_gateway.peer.id
  shared_key                 = var.key
  tags                       = var.tags
  ipsec_policy {
    dh_group         = "ECP384"
    ike_encryption   = "GCMAES256"
    ike_integrity    = "SHA384"
    ipsec_encryption = "GCMAES256"
    ipsec_integrity  = "GCMAES256"
    pfs_group        = "ECP384"
  }
}
