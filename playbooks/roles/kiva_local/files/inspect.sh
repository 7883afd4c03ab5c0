# Says what is as it should be, one thing a line, and changes nothing:
#   folder PATH | cache | authority | certificate | signing-key    is right
#   open PATH                                                      a key that others may read
#   note SENTENCE                                                  worth knowing
#   refuse SENTENCE<tab>NEXT STEP                                  cannot work

say() {
  printf '%s\n' "$1"
}

refuse() {
  printf 'refuse %s\t%s\n' "$1" "$2"
}

other_folder='choose another folder with `storage.state` in kiva.yaml'

# The folder itself, or the nearest one above it that exists.
nearest() {
  _folder=$1
  while [ ! -d "$_folder" ]; do
    _folder=$(dirname "$_folder")
  done
  printf '%s\n' "$_folder"
}

folders() {
  while IFS= read -r folder; do
    if [ -d "$folder" ]; then
      owner=$(stat -L -c %u "$folder")
      if [ "$owner" != "$(id -u)" ]; then
        refuse "the folder $folder belongs to the user $(stat -L -c %U "$folder")" "run as that user, or $other_folder"
      elif [ "$(stat -L -c %a "$folder")" = 700 ]; then
        say "folder $folder"
      fi
      [ -w "$folder" ] || refuse "no permission to write in $folder" "check the file system, or $other_folder"
    elif [ -e "$folder" ]; then
      refuse "$folder is in the way: it is not a folder" "remove it, or $other_folder"
    else
      above=$(nearest "$folder")
      [ -w "$above" ] || refuse "no permission to make $folder: $above is not writable" "check its owner, or $other_folder"
    fi
  done <<EOF
$KIVA_FOLDERS
EOF
}

cache() {
  if [ -d "$KIVA_CACHE" ]; then
    say cache
  else
    above=$(nearest "$KIVA_CACHE")
    [ -w "$above" ] || refuse "no permission to make $KIVA_CACHE: $above is not writable" 'choose another folder with `storage.cache` in kiva.yaml'
  fi
}

machine() {
  free_kib=$(df -Pk "$(nearest "$KIVA_STATE")" | awk 'NR == 2 { print $4 }')
  [ "$free_kib" -ge 1048576 ] || say "note only $((free_kib / 1024)) MiB are free on the disk of $KIVA_STATE: logs need up to 1 GiB"
  memory_kib=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
  [ "$memory_kib" -ge 2097152 ] || say "note only $((memory_kib / 1024)) MiB of memory are free: an engine needs 2 GiB and more"
  files=$(ulimit -H -n)
  [ "$files" = unlimited ] || [ "$files" -ge 16384 ] ||
    say "note a process may open $files files: the gateway needs two for each client; raise \`nofile\` in /etc/security/limits.conf"
  queue=$(cat /proc/sys/net/core/somaxconn 2>/dev/null || echo 4096)
  [ "$queue" -ge 1024 ] || say "note net.core.somaxconn is $queue: in a rush new clients are turned away; as root: sysctl -w net.core.somaxconn=4096"
  # Through cat: the kernel gives these files in one piece, and read asks for single bytes.
  range=$(cat /proc/sys/net/ipv4/ip_local_port_range 2>/dev/null || echo '0 0')
  first=${range%%[!0-9]*}
  last=${range##*[!0-9]}
  if [ "$KIVA_PORT" -ge "$first" ] && [ "$KIVA_PORT" -le "$last" ]; then
    say "note port $KIVA_PORT lies in the range $first-$last that outgoing connections use: one of them can hold it when the gateway starts"
  fi
  "$KIVA_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || refuse "$KIVA_PYTHON is older than Python 3.11" "install Python 3.11 or newer"
}

own_certificate() {
  authority_without_key=
  if matches "$authority" "$authority_key"; then
    say authority
  elif public_of_certificate "$authority" >/dev/null && [ ! -e "$authority_key" ]; then
    authority_without_key=yes
    say authority
  else
    [ ! -e "$authority" ] || say "note the certificate authority $authority is damaged and made anew: clients have to trust the new one"
    [ ! -e "$certificate" ] || say "note the gateway's certificate is made anew: its authority is"
    return
  fi
  if ! openssl verify -CAfile "$authority" "$authority" >/dev/null 2>&1; then
    refuse "the certificate authority $authority is not valid at this machine's time" \
      "check the clock; if it has expired remove the file, then \`kivactl provision\`: clients have to trust the new one"
    return
  fi

  because=
  if [ ! -e "$certificate" ]; then
    because='it is missing'
  elif ! matches "$certificate" "$certificate_key"; then
    because='it is damaged'
  elif ! openssl verify -purpose sslserver -CAfile "$authority" "$certificate" >/dev/null 2>&1; then
    because='it is not valid now, or not from our authority'
  elif ! openssl x509 -in "$certificate" -noout -checkend $((KIVA_RENEW_DAYS * 86400)) >/dev/null; then
    because="it expires in less than $KIVA_RENEW_DAYS days"
  elif [ "$(names_of "$certificate")" != "$(wanted_names)" ]; then
    because='the names it is for changed'
  fi
  if [ -z "$because" ]; then
    say certificate
  elif [ -n "$authority_without_key" ]; then
    refuse "the gateway's certificate has to be made anew ($because), but the authority's key $authority_key is not here" \
      "put it back, or remove $authority to get a new authority"
  elif [ -e "$certificate" ]; then
    say "note the gateway's certificate is made anew: $because"
  fi
}

# The names as this openssl prints them, asked of a certificate that is thrown away.
wanted_names() {
  certificate_config | openssl req -new -x509 -key "$certificate_key" -config /dev/stdin -extensions names 2>/dev/null | names_of /dev/stdin
}

given_certificate() {
  next="check \`gateway.tls\` in kiva.yaml"
  if [ ! -r "$KIVA_CERTIFICATE" ]; then
    refuse "the certificate $KIVA_CERTIFICATE is missing or not readable" "$next"
  elif [ ! -r "$KIVA_CERTIFICATE_KEY" ]; then
    refuse "the private key $KIVA_CERTIFICATE_KEY is missing or not readable" "$next"
  elif ! public_of_certificate "$KIVA_CERTIFICATE" >/dev/null; then
    refuse "$KIVA_CERTIFICATE holds no certificate in PEM form" "$next"
  elif ! public_of_key "$KIVA_CERTIFICATE_KEY" >/dev/null; then
    refuse "$KIVA_CERTIFICATE_KEY holds no private key that opens without a passphrase" "$next"
  elif ! matches "$KIVA_CERTIFICATE" "$KIVA_CERTIFICATE_KEY"; then
    refuse "the private key $KIVA_CERTIFICATE_KEY does not belong to the certificate $KIVA_CERTIFICATE" "$next"
  elif ! openssl x509 -in "$KIVA_CERTIFICATE" -noout -checkend 0 >/dev/null; then
    refuse "the certificate $KIVA_CERTIFICATE has expired ($(openssl x509 -in "$KIVA_CERTIFICATE" -noout -enddate))" "replace it"
  elif ! openssl x509 -in "$KIVA_CERTIFICATE" -noout -checkend $((KIVA_RENEW_DAYS * 86400)) >/dev/null; then
    say "note the certificate $KIVA_CERTIFICATE expires in less than $KIVA_RENEW_DAYS days"
  fi
}

signing_key() {
  if [ ! -s "$KIVA_SIGNING_KEY" ]; then
    return
  elif ! public_of_key "$KIVA_SIGNING_KEY" >/dev/null; then
    say "note the signing key $KIVA_SIGNING_KEY is damaged and made anew: every token has to be issued again"
  elif openssl pkey -in "$KIVA_SIGNING_KEY" -noout -text_pub | grep -q 'NIST CURVE: P-256'; then
    say signing-key
  else
    refuse "the signing key $KIVA_SIGNING_KEY is not for ES256 (ECDSA on P-256)" "remove it to get a new one; every token then has to be issued again"
  fi
}

permissions() {
  for key in "$authority_key" "$certificate_key" "$KIVA_SIGNING_KEY"; do
    [ ! -e "$key" ] || [ "$(stat -L -c %a "$key")" = 600 ] || say "open $key"
  done
}

if ! command -v openssl >/dev/null; then
  refuse "the program 'openssl' is not on PATH" "apt-get install openssl"
else
  folders
  cache
  machine
  if [ -n "$KIVA_CERTIFICATE" ]; then given_certificate; else own_certificate; fi
  signing_key
  permissions
fi
