#!/usr/bin/env bash
# A one-node Kubernetes for tests/e2e: a machine of Debian's packages (kernel, systemd, containerd, bridge CNI) with a kubelet, and
# a control plane beside it (control.sh), Kubernetes built from Debian's source. Both live in a network namespace of their own,
# which leads nowhere.
#   vm.sh up            makes what is missing, then boots; minutes the first time, then one or two
#   vm.sh env           what tests/e2e want: KUBECONFIG, E2E_NODE_SHELL, E2E_RECONFIGURE
#   vm.sh in COMMAND... a command in the network namespace: the only place from which KUBECONFIG works
#   vm.sh sh LINE       a shell line on the node, as root; stdin goes along
#   vm.sh down          ends all of it
# Variables: CACHE (~/.cache/dagwall), QEMU (qemu-system-x86_64), MEMORY (4096 MiB), IMAGE (an archive made before, instead of a
# build), KUBE_VERSION (debian).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dagwall}
qemu=${QEMU:-qemu-system-x86_64} memory=${MEMORY:-4096} suite=bookworm
state=$cache/e2e netns=dagwall-e2e address=10.0.2.15
export KUBE_VERSION=${KUBE_VERSION:-debian} DAGWALL_KUBE_CACHE=$cache/kube-${KUBE_VERSION:-debian}
packages="systemd-sysv dbus udev kmod openssh-server iproute2 iptables procps util-linux ca-certificates curl containerd runc
containernetworking-plugins linux-image-cloud-amd64 initramfs-tools zstd"
started=$SECONDS
say() { printf '[vm %4d s] %s\n' "$((SECONDS - started))" "$*" >&2; }
die() { say "$*"; exit 1; }
running() { [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }
inside() { ip netns exec "$netns" "$@"; }
node() {
	inside ssh -F /dev/null -i "$state/key" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR \
		-o UserKnownHostsFile=/dev/null -o ControlMaster=auto -o ControlPath="$state/ssh" -o ControlPersist=600 -o ConnectTimeout=10 \
		-o ServerAliveInterval=20 -o ServerAliveCountMax=30 "root@$address" "$@"
}

make_tree() { # the root file system as a folder, and as a disk
	local want tree=$state/tree mirror
	want=$(echo "$suite" "$packages" "$programs" | cat - "$here/guest.sh" | sha256sum | cut -c 1-16)
	[ "$(cat "$state/disk.id" 2>/dev/null)" != "$want" ] || return 0
	say "making the root file system"
	[ -f "$state/key" ] || ssh-keygen -q -t ed25519 -N '' -C e2e -f "$state/key"
	rm -rf "$tree" "$state/store.id"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '/\/debian\/$/ && !n++')
	mmdebstrap --quiet --variant=minbase --skip=check/empty --include="$(echo $packages | tr ' ' ',')" \
		--aptopt='Apt::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		"$suite" "$tree" "$mirror" >"$state/mmdebstrap.log" 2>&1 || { tail "$state/mmdebstrap.log" >&2; die "mmdebstrap failed"; }
	"$here/guest.sh" "$tree" "$state/key.pub"
	install -m 0755 "$programs/kubelet" "$tree/usr/local/bin/"
	cp "$(find "$tree/boot" -name 'vmlinuz-*')" "$state/vmlinuz"
	cp "$(find "$tree/boot" -name 'initrd.img-*')" "$state/initrd"
	disk disk.img "$tree" 4G
	echo "$want" >"$state/disk.id"
}

disk() { # FILE FOLDER SIZE
	rm -f "$state/$1"
	mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d "$2" "$state/$1" "$3" >/dev/null
}

make_store() { # ARCHIVE: a disk with the image, unpacked
	local want
	want=$(tar -xOf "$1" ./index.json | sha256sum | cut -c 1-16)
	[ "$(cat "$state/store.id" 2>/dev/null)" != "$want" ] || return 0
	say "unpacking the image"
	rm -rf "$state/store"
	"$here/preload.sh" "$state/tree" "$1" "$state/store"
	disk store.img "$state/store" 4G
	rm -rf "$state/store"
	echo "$want" >"$state/store.id"
}

accelerator() { # kvm where it really works; in a virtual machine (nested) only if MATRIX_KVM=1 says so: matrix/tools.py
	if [ -w /dev/kvm ] && { [ "${MATRIX_KVM:-}" = 1 ] || ! grep -qw hypervisor /proc/cpuinfo; } && echo quit | timeout 20 "$qemu" -M pc -accel kvm -cpu host -nodefaults -display none -monitor stdio >/dev/null 2>&1
	then echo kvm; else echo tcg; fi
}

boot() {
	local accel=(-accel "tcg,thread=single,tb-size=1024" -cpu "max,la57=off,cx16=off" -smp 1) n=0
	# Without KVM one emulated CPU: two on two threads execute stale code after the kernel patches itself, which cgroup programs do.
	# QEMU 7.2 needs cx16=off.
	[ "$(accelerator)" = tcg ] || accel=(-accel kvm -cpu host -smp 2)
	for name in disk store; do qemu-img create -q -f qcow2 -b "$state/$name.img" -F raw "$state/$name.qcow2"; done
	inside setsid "$qemu" -name dagwall-e2e -M pc "${accel[@]}" -m "$memory" -nodefaults -no-user-config -display none \
		-kernel "$state/vmlinuz" -initrd "$state/initrd" \
		-append "root=/dev/vda rw console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr tsc=unstable net.ifnames=0" \
		-drive "file=$state/disk.qcow2,if=virtio,cache=unsafe" -drive "file=$state/store.qcow2,if=virtio,cache=unsafe" \
		-netdev tap,id=n,ifname=e2e0,script=no,downscript=no -device virtio-net-pci,netdev=n,romfile= -device virtio-rng-pci \
		-serial "file:$state/console.log" -pidfile "$state/pid" </dev/null >"$state/qemu.log" 2>&1 9>&- &
	until running && node true </dev/null >/dev/null 2>&1; do
		n=$((n + 1))
		[ $n -lt 150 ] || { cat "$state/qemu.log" >&2; tail -n 20 "$state/console.log" >&2; die "the machine does not answer"; }
		sleep 1
	done
}

up() {
	running && { say "is up"; return; }
	"$here/../apt.sh" mmdebstrap e2fsprogs openssh-client qemu-utils iproute2 >&2
	command -v "$qemu" >/dev/null || "$here/../apt.sh" qemu-system-x86 >&2
	mkdir -p "$state"
	exec 9>"$state/lock"
	flock 9
	local archive=${IMAGE:-$state/image.tar} control
	programs=$("$here/../kube-apiserver.sh" kube-apiserver kube-controller-manager kube-scheduler kubelet)
	[ -n "${IMAGE:-}" ] || "$here/image.sh" "$archive"
	make_tree
	make_store "$archive"
	down
	ip netns add "$netns"
	inside ip link set lo up
	inside ip tuntap add e2e0 mode tap
	inside ip addr add 10.0.2.2/24 dev e2e0
	inside ip link set e2e0 up
	inside "$here/control.sh" start "$state" "$programs" &
	control=$!
	boot
	say "booted: $(node uname -r </dev/null)"
	wait "$control" || die "no control plane"
	say "control plane is ready"
	tar -C "$state" -c pki kubelet.kubeconfig | node 'tar -x -C /var/lib/e2e'
	node 'cat >/usr/local/sbin/e2e-node && chmod +x /usr/local/sbin/e2e-node && e2e-node up' <"$here/node.sh"
	say "up"
}

down() {
	"$here/control.sh" stop "$state"
	[ ! -S "$state/ssh" ] || node -O exit 2>/dev/null || true
	if running; then
		local pid
		pid=$(cat "$state/pid")
		kill "$pid"
		while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
	fi
	rm -f "$state/pid" "$state/ssh" "$state"/*.qcow2
	[ ! -e "/run/netns/$netns" ] || ip netns del "$netns"
}

case ${1:-} in
up) up ;;
env)
	echo "export KUBECONFIG='$state/admin.kubeconfig'"
	echo "export E2E_NODE_SHELL='$here/vm.sh sh'"
	echo "export E2E_RECONFIGURE='$here/vm.sh sh e2e-node drivers'"
	;;
in) shift; inside "$@" ;;
sh) shift; node "$@" ;;
down) down ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
