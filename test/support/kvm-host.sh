#!/bin/bash
# One private KVM host on this machine: a system libvirtd in a mount and UTS namespace of its own, with its own state,
# configuration, hostname and host UUID. Several run side by side. /dev/kvm is hidden from it: guests run on TCG
# everywhere alike, and a present but broken /dev/kvm would make libvirt probe QEMU for a minute at every define.
#
# usage: kvm-host.sh NAME DIR    stays in the foreground; needs root
#   RPC socket  DIR/run/libvirt-sock       process id  DIR/run/libvirtd.pid       QEMU's logs  DIR/log/qemu
# Guests go on when libvirtd ends, and a libvirtd started again for the same DIR finds them. Images, sockets and scratch
# files may lie anywhere but in the five folders below; their paths are the same inside and outside.
set -eu
name=$1
dir=$(mkdir -p "$2" && cd "$2" && pwd)
mkdir -p "$dir"/{run,lib/qemu,log/qemu,cache/qemu,etc/qemu,dev/shm,dev/pts,dev/net}
# The packaged defaults without its networks: a second host would fight over their bridge and addresses.
cp -a /etc/libvirt/*.conf "$dir/etc/"
[ -d /etc/libvirt/nwfilter ] && cp -a /etc/libvirt/nwfilter "$dir/etc/"
cat > "$dir/etc/qemu.conf" <<'CONF'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
swtpm_user = "root"
swtpm_group = "root"
CONF
cat > "$dir/etc/libvirtd.conf" <<CONF
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
host_uuid = "$(printf %s "$name" | md5sum | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/')"
CONF
exec unshare --mount --uts --propagation private bash -euc '
  name=$1 dir=$2
  hostname "$name"
  for device in null zero full random urandom tty; do
    : > "$dir/dev/$device"
    mount --bind "/dev/$device" "$dir/dev/$device"
  done
  mount -t devpts devpts "$dir/dev/pts" -o ptmxmode=0666,newinstance
  ln -sfn pts/ptmx "$dir/dev/ptmx"
  ln -sfn /proc/self/fd "$dir/dev/fd"
  chmod 1777 "$dir/dev/shm"
  mount --rbind "$dir/dev" /dev
  mkdir -p /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt
  mount --bind "$dir/run" /run/libvirt
  mount --bind "$dir/lib" /var/lib/libvirt
  mount --bind "$dir/log" /var/log/libvirt
  mount --bind "$dir/cache" /var/cache/libvirt
  mount --bind "$dir/etc" /etc/libvirt
  exec libvirtd --pid-file "$dir/run/libvirtd.pid"
' kvm-host "$name" "$dir"
