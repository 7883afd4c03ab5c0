# Says `key` and `certificate` where the gateway's are as they should be; changes nothing and prints no key.
[ -x /usr/bin/openssl ] || exit 0
of_key=$(openssl pkey -in "$KIVA_FOLDER/gateway.key" -passin pass: -pubout 2>/dev/null) || exit 0
echo key
of_certificate=$(openssl x509 -in "$KIVA_FOLDER/gateway.pem" -noout -pubkey 2>/dev/null) || exit 0
[ "$of_key" = "$of_certificate" ] || exit 0
printf '%s\n' "$KIVA_AUTHORITY" | openssl verify -CAfile /dev/stdin "$KIVA_FOLDER/gateway.pem" >/dev/null 2>&1 || exit 0
openssl x509 -in "$KIVA_FOLDER/gateway.pem" -noout -checkend $((KIVA_RENEW_DAYS * 86400)) >/dev/null || exit 0
names=$(openssl x509 -in "$KIVA_FOLDER/gateway.pem" -noout -ext subjectAltName | tail -n +2 | tr -d ' \n')
[ "$names" = "$(printf %s "$KIVA_NAMES" | sed 's/IP:/IPAddress:/g')" ] || exit 0
echo certificate
