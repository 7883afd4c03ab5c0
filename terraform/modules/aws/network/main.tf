locals {
  groups = toset(["gateway", "engines", "storage", "management", "nodes"])
  online = var.internet || length(var.public_segments) > 0
}

resource "aws_vpc" "platform" {
  cidr_block           = var.range
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# Without a rule: whatever is started here by hand reaches nothing and is not reached.
resource "aws_default_security_group" "platform" {
  vpc_id = aws_vpc.platform.id
  tags   = { Name = "${var.name}-closed" }
}

resource "aws_subnet" "segment" {
  for_each          = var.subnets
  vpc_id            = aws_vpc.platform.id
  cidr_block        = each.value.network
  availability_zone = each.value.zone
  tags              = { Name = "${var.name}-${each.value.segment}-${each.value.zone}", Segment = each.value.segment }
}

resource "aws_internet_gateway" "platform" {
  count  = local.online ? 1 : 0
  vpc_id = aws_vpc.platform.id
  tags   = { Name = var.name }
}

resource "aws_route_table" "public" {
  count  = local.online ? 1 : 0
  vpc_id = aws_vpc.platform.id
  tags   = { Name = "${var.name}-public" }
}

resource "aws_route" "public" {
  count                  = local.online ? 1 : 0
  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.platform[0].id
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.platform.id
  tags   = { Name = "${var.name}-private" }
}

resource "aws_route_table_association" "segment" {
  for_each       = var.subnets
  subnet_id      = aws_subnet.segment[each.key].id
  route_table_id = contains(var.public_segments, each.value.segment) ? aws_route_table.public[0].id : aws_route_table.private.id
}

resource "aws_subnet" "nat" {
  count             = var.internet ? 1 : 0
  vpc_id            = aws_vpc.platform.id
  cidr_block        = var.nat_network
  availability_zone = var.nat_zone
  tags              = { Name = "${var.name}-nat" }
}

resource "aws_route_table_association" "nat" {
  count          = var.internet ? 1 : 0
  subnet_id      = aws_subnet.nat[0].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_eip" "nat" {
  count  = var.internet ? 1 : 0
  domain = "vpc"
  tags   = { Name = "${var.name}-nat" }
}

resource "aws_nat_gateway" "platform" {
  count         = var.internet ? 1 : 0
  allocation_id = aws_eip.nat[0].id
  subnet_id     = aws_subnet.nat[0].id
  tags          = { Name = var.name }
  depends_on    = [aws_route.public]
}

resource "aws_route" "private" {
  count                  = var.internet ? 1 : 0
  route_table_id         = aws_route_table.private.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.platform[0].id
}

resource "aws_security_group" "segment" {
  for_each    = local.groups
  name        = "${var.name}-${each.key}"
  description = each.key == "nodes" ? "Every machine of the platform" : "Machines of the segment ${each.key}"
  vpc_id      = aws_vpc.platform.id
  tags        = { Name = "${var.name}-${each.key}" }
}

resource "aws_vpc_security_group_ingress_rule" "allowed" {
  for_each                     = var.rules
  security_group_id            = aws_security_group.segment[each.value.to_segment].id
  referenced_security_group_id = each.value.from_segment == null ? null : aws_security_group.segment[each.value.from_segment].id
  cidr_ipv4                    = each.value.from_range
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.from_port
  to_port                      = each.value.to_port
  tags                         = { Name = each.key, Purpose = each.value.why }
}

resource "aws_vpc_security_group_egress_rule" "out" {
  security_group_id = aws_security_group.segment["nodes"].id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
  tags              = { Name = "out", Purpose = "whatever the machines ask for" }
}
