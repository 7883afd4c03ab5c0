# A certificate authority of our own: key first, so that a certificate without its key is never our doing.
new_key "$authority_key"
certificate_config |
  openssl req -new -x509 -sha256 -days "$KIVA_AUTHORITY_DAYS" -key "$authority_key.new" -config /dev/stdin -extensions authority |
  write_new "$authority"
matches "$authority.new" "$authority_key.new"
install_new "$authority_key"
install_new "$authority"
