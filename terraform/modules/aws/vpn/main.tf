resource "aws_vpn_gateway" "platform" {
  vpc_id = var.vpc_id
  tags   = { Name = var.name }
}

resource "aws_customer_gateway" "peer" {
  ip_address = var.peer
  bgp_asn    = 65000
  type       = "ipsec.1"
  tags       = { Name = "${var.name}-peer" }
}

resource "aws_vpn_connection" "platform" {
  vpn_gateway_id                       = aws_vpn_gateway.platform.id
  customer_gateway_id                  = aws_customer_gateway.peer.id
  type                                 = "ipsec.1"
  static_routes_only                   = true
  tunnel1_ike_versions                 = ["ikev2"]
  tunnel2_ike_versions                 = ["ikev2"]
  tunnel1_preshared_key                = var.key
  tunnel2_preshared_key                = var.key
  tunnel1_phase1_encryption_algorithms = ["AES256-GCM-16"]
  tunnel2_phase1_encryption_algorithms = ["AES256-GCM-16"]
  tunnel1_phase2_encryption_algorithms = ["AES256-GCM-16"]
  tunnel2_phase2_encryption_algorithms = ["AES256-GCM-16"]
  tunnel1_phase1_dh_group_numbers      = [19, 20, 21]
  tunnel2_phase1_dh_group_numbers      = [19, 20, 21]
  tunnel1_phase2_dh_group_numbers      = [19, 20, 21]
  tunnel2_phase2_dh_group_numbers      = [19, 20, 21]
  tags                                 = { Name = var.name }
}

resource "aws_vpn_connection_route" "peer" {
  for_each               = var.networks
  destination_cidr_block = each.key
  vpn_connection_id      = aws_vpn_connection.platform.id
}

resource "aws_vpn_gateway_route_propagation" "platform" {
  count          = length(var.route_table_ids)
  vpn_gateway_id = aws_vpn_gateway.platform.id
  route_table_id = var.route_table_ids[count.index]
}
