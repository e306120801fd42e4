#!/usr/bin/env bash
# guest.sh TREE KEY.pub: settles a fresh Debian tree as the machine of vm.sh: address, ssh, no timers that wake it.
set -euo pipefail
tree=$1 key=$2
echo node >"$tree/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n10.0.2.15 node\n' >"$tree/etc/hosts"
echo 'nameserver 10.0.2.2' >"$tree/etc/resolv.conf" # nobody answers there
printf '/dev/vda / ext4 rw,noatime 0 0\n/dev/vdb /var/lib/containerd ext4 rw,noatime 0 0\n' >"$tree/etc/fstab"
install -d -m 0700 "$tree/root/.ssh"
install -m 0600 "$key" "$tree/root/.ssh/authorized_keys"
printf 'UseDNS no\nPermitRootLogin prohibit-password\nMaxSessions 100\n' >"$tree/etc/ssh/sshd_config.d/e2e.conf"
printf '[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nIPv6AcceptRA=no\n' >"$tree/etc/systemd/network/10-eth0.network"
printf 'overlay\nbr_netfilter\n' >"$tree/etc/modules-load.d/e2e.conf"
printf 'net.ipv4.ip_forward=1\nnet.bridge.bridge-nf-call-iptables=1\nvm.overcommit_memory=1\n' >"$tree/etc/sysctl.d/90-e2e.conf"
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer fstrim.timer \
	getty@tty1.service serial-getty@ttyS0.service systemd-networkd-wait-online.service etcd.service; do
	ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
chroot "$tree" systemctl --quiet enable systemd-networkd ssh
mkdir -p "$tree/var/lib/containerd" "$tree/var/lib/e2e"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
