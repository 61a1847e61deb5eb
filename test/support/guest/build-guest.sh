#!/bin/bash
# Builds the test guest: OUT/vmlinuz and OUT/initrd.img. About 20 MB, up in seconds without KVM: a Debian cloud kernel and
# an initramfs of busybox, the QEMU guest agent and the virtio modules.
#
# In the guest: every disk with an ext4 file system is mounted, the first on /data, the others on /data-<device>; the agent
# answers guest-exec with busybox's tools; /run/fsfreeze.log gets a line "freeze" or "thaw" for each call of the freeze
# hook; guest-shutdown works; the serial console ends its start with "GUEST READY".
#
# usage: build-guest.sh OUT
# apt packages: busybox-static cpio kmod gzip xz-utils qemu-utils (libraries of the agent). Kernel and agent are downloaded
# with apt-get and unpacked, not installed.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
PATH=$PATH:/usr/sbin:/sbin

for command in cpio dpkg-deb apt-get gzip ldd xz; do
  command -v "$command" >/dev/null || { echo "missing command: $command" >&2; exit 1; }
done
busybox=$(command -v busybox || true)
if [ -z "$busybox" ] || ldd "$busybox" >/dev/null 2>&1; then
  echo "busybox is missing or not static: apt-get install busybox-static" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt downloads as a user of its own
cd "$work"

kernel_package() {
  local meta
  for meta in linux-image-cloud-amd64 linux-image-virtual; do # Debian's name, Ubuntu's name
    apt-cache depends "$meta" 2>/dev/null |
      sed -n 's/^ *|\{0,1\}Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n1 || true
  done | head -n1
}
kernel=$(kernel_package)
if [ -z "$kernel" ]; then
  apt-get update -qq
  kernel=$(kernel_package)
fi
[ -n "$kernel" ] || { echo "apt knows no kernel for virtual machines" >&2; exit 1; }
packages=("$kernel" qemu-guest-agent)
# Ubuntu has the modules in a package of their own.
modules=${kernel/linux-image/linux-modules}
if apt-cache show "$modules" >/dev/null 2>&1; then packages+=("$modules"); fi
apt-get download "${packages[@]}" >/dev/null 2>apt.err ||
  { apt-get update -qq && apt-get download "${packages[@]}" >/dev/null 2>apt.err; } ||
  { cat apt.err >&2; exit 1; }
for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done

root=$work/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,data,etc/qemu,usr/bin,usr/sbin,var/run,mod,lib64}
cp "$busybox" "$root/bin/busybox"
for applet in sh mount umount insmod sleep echo cat ls mkdir dd sync md5sum sha256sum ip ps touch rm cp mv df du stat \
  head tail grep wc od seq date hostname blkid fstrim truncate true false kill awk blockdev; do
  ln -s busybox "$root/bin/$applet"
done
agent=$(find unpacked -name qemu-ga -type f | head -n1)
cp "$agent" "$root/usr/sbin/qemu-ga"
ldd "$agent" > libraries
if grep -q 'not found' libraries; then
  cat libraries >&2
  echo "a library of the guest agent is missing: apt-get install qemu-utils libglib2.0-0 liburing2 libudev1" >&2
  exit 1
fi
grep -o '/[^ ]*' libraries | sort -u | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done

# In the order in which they need each other; what the kernel has built in is not there to be found.
wanted='virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console'
for module in $wanted; do
  file=$(find unpacked -path '*/modules/*' -name "$module.ko*" | head -n1)
  case $file in
    '') ;;
    *.xz) xz -dc "$file" > "$root/mod/$module.ko" ;;
    *.zst) zstd -qdc "$file" > "$root/mod/$module.ko" ;;
    *) cp "$file" "$root/mod/$module.ko" ;;
  esac
done

cat > "$root/init" <<INIT
#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname guest
for module in $wanted; do [ -f /mod/\$module.ko ] && insmod /mod/\$module.ko; done
# There is no udev to name the agent's port, and it appears a moment after its module is loaded.
port=/dev/virtio-ports/org.qemu.guest_agent.0
mkdir -p /dev/virtio-ports
tries=0
while [ ! -e \$port ] && [ \$tries -lt 50 ]; do
  for found in /sys/class/virtio-ports/*; do
    [ -f "\$found/name" ] && ln -sf "/dev/\${found##*/}" "/dev/virtio-ports/\$(cat \$found/name)"
  done
  [ -e \$port ] || sleep 0.1
  tries=\$((tries + 1))
done
mounted=0
for disk in /dev/vd?; do
  [ -b "\$disk" ] || continue
  folder=/data
  [ \$mounted -gt 0 ] && folder=/data-\${disk##*/}
  mkdir -p "\$folder"
  if mount -t ext4 "\$disk" "\$folder" 2>/dev/null; then
    echo "mounted \$disk on \$folder"
    mounted=\$((mounted + 1))
  fi
done
echo "GUEST READY"
qemu-ga -m virtio-serial -p \$port -F/etc/qemu/fsfreeze-hook -t /run -d -f /run/qga.pid
exec /bin/busybox sh -c 'while :; do sleep 3600; done'
INIT

# /run/hang-freeze, made by a test, makes the freeze hang like a guest whose file system does not come to rest.
cat > "$root/etc/qemu/fsfreeze-hook" <<'HOOK'
#!/bin/sh
echo "$1" >> /run/fsfreeze.log
while [ "$1" = freeze ] && [ -e /run/hang-freeze ]; do sleep 0.2; done
HOOK

cat > "$root/sbin/shutdown" <<'SHUTDOWN'
#!/bin/sh
/bin/busybox sync
for folder in $(/bin/busybox awk '$2 ~ /^\/data/ {print $2}' /proc/mounts); do /bin/busybox umount "$folder"; done
case "$*" in *-r*) exec /bin/busybox reboot -f ;; esac
exec /bin/busybox poweroff -f
SHUTDOWN

chmod 755 "$root/init" "$root/etc/qemu/fsfreeze-hook" "$root/sbin/shutdown"
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -n -9) > "$out/initrd.img"
cp "$(find unpacked/boot -name 'vmlinuz-*' | head -n1)" "$out/vmlinuz"
chmod 644 "$out/vmlinuz" "$out/initrd.img"
