# Fails on what cannot work, with `refuse SENTENCE<tab>NEXT STEP` as its last line, and changes nothing.
again="then: kivactl provision"

refuse() {
  printf 'refuse %s\t%s\n' "$1" "$2" >&2
  exit 1
}

. /etc/os-release
case "$ID:${ID_LIKE:-}" in
  debian:* | ubuntu:* | *:*debian*) ;;
  *) refuse "it runs ${PRETTY_NAME:-$ID}, which is neither Debian nor Ubuntu" "install Debian 12, $again" ;;
esac

now=$(date +%s)
skew=$((now - KIVA_NOW))
[ "$skew" -ge 0 ] || skew=$((-skew))
[ "$skew" -le "$KIVA_SKEW_S" ] ||
  refuse "its clock differs from this machine's by $skew s" "set it there (date -u -s @EPOCH, or start its time service), $again"

for folder in / /var /tmp; do
  free_kib=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
  if [ "$free_kib" -lt $((KIVA_FREE_MIB * 1024)) ]; then
    refuse "its disk is full: $((free_kib / 1024)) MiB are free on that of $folder, $KIVA_FREE_MIB are needed" "free some space there, $again"
  fi
done

[ -d /run/systemd/system ] || refuse "systemd does not run on it" "boot it with systemd, $again"
