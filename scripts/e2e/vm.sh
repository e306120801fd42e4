#!/usr/bin/env bash
# A machine with a one-node Kubernetes for tests/e2e, of Debian's packages: kernel, systemd, containerd, bridge CNI, etcd, and
# Kubernetes built from Debian's source. Nothing in it reaches out; its ports listen on loopback.
#   vm.sh up          makes what is missing, boots, waits for the node, loads dagwall's image; again: goes on from what was saved
#   vm.sh env         what tests/e2e want: KUBECONFIG, E2E_NODE_SHELL, E2E_RECONFIGURE
#   vm.sh sh LINE     a shell line on the node, as root; stdin goes along
#   vm.sh down        ends it; the disk goes, what was saved stays
# Variables: CACHE (~/.cache/dagwall), QEMU (qemu-system-x86_64; 8 or newer where there is no KVM), MEMORY (5120 MiB), FRESH=1 (do
# not go on from what was saved), IMAGE (an archive made before, instead of a build), KUBE_VERSION (debian).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dagwall}
qemu=${QEMU:-qemu-system-x86_64} memory=${MEMORY:-5120} suite=bookworm
state=$cache/e2e
export KUBE_VERSION=${KUBE_VERSION:-debian} DAGWALL_KUBE_CACHE=$cache/kube-${KUBE_VERSION:-debian}
packages="systemd-sysv dbus udev kmod openssh-server iproute2 iptables procps util-linux ca-certificates openssl curl etcd-server containerd
runc containernetworking-plugins linux-image-cloud-amd64 initramfs-tools zstd"
started=$SECONDS
say() { printf '[vm %4d s] %s\n' "$((SECONDS - started))" "$*" >&2; }
die() { say "$*"; exit 1; }
running() { [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }
node() {
	ssh -F /dev/null -i "$state/key" -p "$(cat "$state/port")" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR \
		-o UserKnownHostsFile=/dev/null -o ControlMaster=auto -o ControlPath="$state/ssh" -o ControlPersist=600 \
		-o ServerAliveInterval=20 -o ServerAliveCountMax=30 root@127.0.0.1 "$@"
}
monitor() { printf '%s\n' "$@" | socat -t 600 - "UNIX-CONNECT:$state/monitor" >"$state/monitor.log"; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

accelerator() { # kvm where it really works; a device alone says little inside of another machine
	if [ -w /dev/kvm ] && echo quit | timeout 20 "$qemu" -M pc -accel kvm -cpu host -nodefaults -display none -monitor stdio >/dev/null 2>&1
	then echo kvm; else echo tcg; fi
}

make_disk() { # ARCHIVE: the root file system, with Kubernetes and the image in it
	local want tree=$state/tree mirror programs
	programs=$("$here/../kube-apiserver.sh" kube-apiserver kube-controller-manager kube-scheduler kubelet)
	want=$(echo "$suite" "$packages" | cat - "$here/guest.sh" "$here/preload.sh" | sha256sum | cut -c 1-16)
	[ "$(cat "$state/disk.id" 2>/dev/null)" != "$want" ] || return 0
	say "making the root file system"
	[ -f "$state/key" ] || ssh-keygen -q -t ed25519 -N '' -C e2e -f "$state/key"
	rm -rf "$tree" "$state/saved.id"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '/\/debian\/$/ && !n++')
	mmdebstrap --quiet --variant=minbase --skip=check/empty --include="$(echo $packages | tr ' ' ',')" \
		--aptopt='Apt::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		"$suite" "$tree" "$mirror" >"$state/mmdebstrap.log" 2>&1 || { tail "$state/mmdebstrap.log" >&2; die "mmdebstrap failed"; }
	"$here/guest.sh" "$tree" "$state/key.pub"
	install -m 0755 "$programs"/kube* "$tree/usr/local/bin/"
	"$here/preload.sh" "$tree" "$1"
	mkdir -p "$tree/var/lib/e2e"
	image_id "$1" >"$tree/var/lib/e2e/image"
	cp "$(find "$tree/boot" -name 'vmlinuz-*')" "$state/vmlinuz"
	cp "$(find "$tree/boot" -name 'initrd.img-*')" "$state/initrd"
	rm -f "$state/disk.img"
	mke2fs -q -t ext4 -E lazy_itable_init=1 -d "$tree" "$state/disk.img" 8G
	rm -rf "$tree"
	echo "$want" >"$state/disk.id"
}

boot() { # [LOADVM]
	local accel=(-accel "tcg,thread=single,tb-size=1024" -cpu "max,la57=off,cx16=off" -smp 1) load=()
	# Without KVM one emulated CPU: two on two threads execute stale code after the kernel patches itself, which cgroup programs do.
	# QEMU 7.2 needs cx16=off, 5.10 needs la57=off.
	[ "$(accelerator)" = tcg ] || accel=(-accel kvm -cpu host -smp 2)
	[ -z "${1:-}" ] || load=(-loadvm "$1")
	rm -f "$state/monitor" "$state/ssh"
	free_port >"$state/port"
	free_port >"$state/api"
	setsid "$qemu" -name dagwall-e2e -M pc "${accel[@]}" -m "$memory" -nodefaults -no-user-config -display none \
		-kernel "$state/vmlinuz" -initrd "$state/initrd" \
		-append "root=/dev/vda rw console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr tsc=unstable net.ifnames=0" \
		-drive "file=$state/run.qcow2,if=virtio,cache=unsafe,discard=unmap" -device virtio-rng-pci \
		-netdev "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:$(cat "$state/port")-:22,hostfwd=tcp:127.0.0.1:$(cat "$state/api")-:6443" \
		-device virtio-net-pci,netdev=n,romfile= -monitor "unix:$state/monitor,server=on,wait=off" \
		-serial "file:$state/console.log" -pidfile "$state/pid" "${load[@]}" </dev/null >"$state/qemu.log" 2>&1 9>&- &
	local n=0
	until running && timeout 20 ssh -F /dev/null -i "$state/key" -p "$(cat "$state/port")" -o StrictHostKeyChecking=no -o ConnectTimeout=15 \
		-o LogLevel=ERROR -o UserKnownHostsFile=/dev/null root@127.0.0.1 true 2>/dev/null </dev/null; do
		n=$((n + 1))
		[ $n -lt 200 ] || { cat "$state/qemu.log" >&2; tail -n 20 "$state/console.log" >&2; die "the machine does not answer"; }
		sleep 1
	done
	node "date -s @$(date +%s)" >/dev/null </dev/null # it stood still while it was saved
}

up() {
	running && { say "is up"; return; }
	"$here/../apt.sh" mmdebstrap e2fsprogs openssh-client qemu-utils socat >&2
	command -v "$qemu" >/dev/null || "$here/../apt.sh" qemu-system-x86 >&2
	mkdir -p "$state"
	exec 9>"$state/lock"
	flock 9
	local id archive=${IMAGE:-$state/image.tar}
	[ -n "${IMAGE:-}" ] || "$here/image.sh" "$archive"
	make_disk "$archive"
	id=$("$qemu" --version | head -n 1 | cat - "$state/disk.id" "$here/node.sh" | sha256sum | cut -c 1-16)-$memory-$(accelerator)
	if [ "${FRESH:-0}" != 1 ] && [ "$(cat "$state/saved.id" 2>/dev/null)" = "$id" ] && cp --sparse=always "$state/saved.qcow2" "$state/run.qcow2"; then
		say "going on from the saved machine"
		boot ready
	else
		first_boot
		say "saving"
		monitor 'savevm ready'
		cp --sparse=always "$state/run.qcow2" "$state/saved.qcow2"
		echo "$id" >"$state/saved.id"
	fi
	load_image "$archive"
	sed "s#https://[^ \"]*#https://127.0.0.1:$(cat "$state/api")#" "$state/admin.kubeconfig" >"$state/kubeconfig"
	say "up: $(node uname -r </dev/null)"
}

first_boot() {
	rm -f "$state/run.qcow2" "$state/saved.qcow2"
	qemu-img create -q -f qcow2 -b "$state/disk.img" -F raw "$state/run.qcow2"
	boot
	say "booted, starting Kubernetes"
	node 'cat >/usr/local/sbin/e2e-node && chmod +x /usr/local/sbin/e2e-node && e2e-node up' <"$here/node.sh"
	node cat /var/lib/e2e/admin.kubeconfig </dev/null >"$state/admin.kubeconfig"
}

image_id() { tar -xOf "$1" ./index.json | sha256sum | cut -c 1-16; } # ARCHIVE

load_image() { # ARCHIVE: those layers that the node does not have
	local id there
	id=$(image_id "$1")
	[ "$(node 'cat /var/lib/e2e/image' </dev/null)" != "$id" ] || return 0
	there=$(node 'cd /var/lib/containerd/io.containerd.content.v1.content/blobs/sha256 && ls' </dev/null | sed 's#^#./blobs/sha256/#')
	rm -rf "$state/layout"
	mkdir "$state/layout"
	tar -C "$state/layout" -X <(echo "$there") -xf "$1"
	say "loading $(du -hs "$state/layout" | cut -f1) of image"
	tar -C "$state/layout" -c . | node "ctr -n k8s.io images import - >/dev/null && echo $id >/var/lib/e2e/image && sync"
}

down() {
	[ ! -S "$state/ssh" ] || node -O exit 2>/dev/null || true
	if running; then
		local pid
		pid=$(cat "$state/pid")
		kill "$pid"
		while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
	fi
	rm -f "$state/pid" "$state/ssh" "$state/monitor" "$state/run.qcow2"
}

case ${1:-} in
up) up ;;
env)
	echo "export KUBECONFIG='$state/kubeconfig'"
	echo "export E2E_NODE_SHELL='$here/vm.sh sh'"
	echo "export E2E_RECONFIGURE='$here/vm.sh sh e2e-node drivers'"
	;;
sh) shift; node "$@" ;;
down) down ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
