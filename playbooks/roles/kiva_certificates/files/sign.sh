# Signs a request (standard input) with the platform's authority; what the certificate is for is said here, not by the request.
umask 077
request=$(cat)
printf '%s\n' "$request" | openssl req -verify -noout 2>/dev/null
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/extensions" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $KIVA_NAMES
END
printf '%s\n' "$request" >"$folder/request"
openssl x509 -req -sha256 -in "$folder/request" -days "$KIVA_DAYS" -set_serial "0x$(openssl rand -hex 16)" \
  -CA "$KIVA_AUTHORITY_FILE" -CAkey "$KIVA_AUTHORITY_KEY" -extfile "$folder/extensions" 2>/dev/null
