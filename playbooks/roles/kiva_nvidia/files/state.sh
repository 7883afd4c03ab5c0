# Says what stands in the way of the driver, one thing a line: `absent` (no GPU), `restart WHY`, `load`, `busy`; changes nothing.
found=
for device in "$KIVA_DEVICES"/*; do
  [ -r "$device/vendor" ] && [ -r "$device/class" ] || continue
  case "$(cat "$device/vendor"):$(cat "$device/class")" in
    0x10de:0x0300*|0x10de:0x0302*) found=1 ;;
  esac
done
[ -n "$found" ] || echo absent

if grep -q '^nouveau ' /proc/modules; then
  echo "restart nouveau is loaded"
fi
there=$(modinfo -F version nvidia 2>/dev/null || true)
runs=$(cat /sys/module/nvidia/version 2>/dev/null || true)
if [ -n "$runs" ]; then
  if [ -n "$there" ] && [ "$runs" != "$there" ]; then
    echo "restart driver $runs runs and $there is there"
  fi
elif [ -n "$there" ]; then
  echo load
fi

for unit in k3s k3s-agent rke2-server rke2-agent; do
  systemctl -q is-active "$unit.service" 2>/dev/null && { echo busy; break; }
done
if command -v nvidia-smi >/dev/null 2>&1 && [ -n "$(nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>/dev/null | grep '^[0-9]' || true)" ]; then
  echo busy
fi
exit 0
