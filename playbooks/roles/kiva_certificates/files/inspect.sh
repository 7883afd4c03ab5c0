# Says `key` and `certificate` where they are as they should be; changes nothing and prints no key.
folder=/etc/kiva/tls

[ -x /usr/bin/openssl ] || exit 0
of_key=$(openssl pkey -in "$folder/node.key" -passin pass: -pubout 2>/dev/null) || exit 0
echo key
of_certificate=$(openssl x509 -in "$folder/node.pem" -noout -pubkey 2>/dev/null) || exit 0
[ "$of_key" = "$of_certificate" ] || exit 0
printf '%s\n' "$KIVA_AUTHORITY" | openssl verify -CAfile /dev/stdin "$folder/node.pem" >/dev/null 2>&1 || exit 0
openssl x509 -in "$folder/node.pem" -noout -checkend $((KIVA_RENEW_DAYS * 86400)) >/dev/null || exit 0
names=$(openssl x509 -in "$folder/node.pem" -noout -ext subjectAltName | tail -n +2 | tr -d ' \n')
[ "$names" = "$(printf %s "$KIVA_NAMES" | sed 's/IP:/IPAddress:/g')" ] || exit 0
echo certificate
