# What the scripts of this role ask of PEM files. Private keys are never printed.
set -eu
umask 077

authority=$KIVA_TLS/ca.pem
authority_key=$KIVA_TLS/ca.key
certificate=$KIVA_TLS/gateway.pem
certificate_key=$KIVA_TLS/gateway.key

public_of_key() {
  openssl pkey -in "$1" -passin pass: -pubout 2>/dev/null
}

public_of_certificate() {
  openssl x509 -in "$1" -noout -pubkey 2>/dev/null
}

# Whether a certificate ($1) and a private key ($2) are both whole and belong together.
matches() {
  _of_certificate=$(public_of_certificate "$1") || return 1
  _of_key=$(public_of_key "$2") || return 1
  [ -n "$_of_certificate" ] && [ "$_of_certificate" = "$_of_key" ]
}

# The names in a certificate ($1), as openssl prints them.
names_of() {
  openssl x509 -in "$1" -noout -ext subjectAltName 2>/dev/null
}

# Write standard input beside a file ($1). Through cat, for openssl itself exits with 0 on a full disk.
write_new() {
  cat >"$1.new"
  sync "$1.new"
}

# Put what was written in place; renaming leaves the old file or the new one, never a half of either.
install_new() {
  mv -f "$1.new" "$1"
}

new_key() {
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | write_new "$1"
  public_of_key "$1.new" >/dev/null || {
    echo "openssl made no usable key for $1" >&2
    exit 1
  }
}

# An openssl configuration of our own: the machine's may add extensions, or be absent.
certificate_config() {
  cat <<EOF
[req]
distinguished_name = subject
prompt = no
[subject]
O = kivactl
CN = $KIVA_PLATFORM
[names]
subjectAltName = $KIVA_NAMES
[gateway]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $KIVA_NAMES
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
EOF
}
