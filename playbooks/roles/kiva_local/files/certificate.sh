# The gateway's certificate. A sound key is kept: a running gateway then never meets a certificate beside a strange key.
key=$certificate_key
if ! public_of_key "$certificate_key" >/dev/null; then
  new_key "$certificate_key"
  key=$certificate_key.new
fi
request=$KIVA_TLS/gateway.csr.new
certificate_config | openssl req -new -key "$key" -config /dev/stdin | cat >"$request"
certificate_config |
  openssl x509 -req -sha256 -in "$request" -days "$KIVA_CERTIFICATE_DAYS" -set_serial "0x$(openssl rand -hex 16)" \
    -CA "$authority" -CAkey "$authority_key" -extfile /dev/stdin -extensions gateway |
  write_new "$certificate"
rm -f "$request"
openssl verify -CAfile "$authority" "$certificate.new" >/dev/null
matches "$certificate.new" "$key"
[ "$key" = "$certificate_key" ] || install_new "$certificate_key"
install_new "$certificate"
