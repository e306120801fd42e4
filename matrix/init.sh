#!/bin/busybox sh
# First process of a guest, twice: in the initramfs it stacks a tmpfs over the shared root file system, which nothing in
# the guest can write to; there, as `root`, it mounts what a node has and runs /run/matrix/command, whose output is ttyS1.
# ttyS0 is the kernel's console, ttyS2 takes the records.
#
# /shares: TAG PATH, a line for each further folder of the host, read-only. matrix.share=virtiofs|9p on the command line.

fail() {
	echo "matrix: init: $*" >/dev/console
	poweroff -f
	sleep 60
}

share() { # TAG TARGET
	case $kind in
	9p) options=ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose ;;
	*) options=ro ;;
	esac
	mkdir -p "$2"
	mount -t "$kind" -o "$options" "$1" "$2" || fail "this kernel cannot mount $1 by $kind"
}

initramfs() {
	export PATH=/bin
	/bin/busybox --install -s /bin
	mount -t devtmpfs dev /dev
	mount -t proc proc /proc
	while read -r module; do
		insmod "/modules/$module" || echo "matrix: init: module $module did not load" >/dev/console
	done </modules/order
	kind=$(sed -n 's/.*matrix\.share=\([a-z0-9]*\).*/\1/p' /proc/cmdline)
	share root /lower
	mount -t tmpfs -o size=60% upper /upper
	mkdir /upper/files /upper/work
	mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root || fail "no overlay"
	while read -r tag path; do share "$tag" "/root$path"; done </shares
	umount /proc
	for folder in dev proc sys run tmp; do mkdir -p "/root/$folder"; done
	mount -o move /dev /root/dev
	mount -t tmpfs -o mode=755 run /root/run
	mkdir /root/run/matrix
	cp /init /command /bin/busybox /root/run/matrix/
	exec switch_root /root /run/matrix/busybox sh /run/matrix/init root
}

root() {
	b=/run/matrix/busybox
	export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
	$b mount -t proc proc /proc
	$b mount -t sysfs sys /sys
	$b mkdir -p /dev/shm /dev/pts /run/lock
	$b mount -t tmpfs shm /dev/shm
	$b mount -t devpts -o ptmxmode=666 devpts /dev/pts
	$b ln -s /proc/self/fd /dev/fd
	$b mount -t cgroup2 cgroup2 /sys/fs/cgroup || fail "no cgroup v2"
	$b mount -t bpf bpf /sys/fs/bpf || fail "no bpffs"
	$b ip link set lo up
	$b hostname matrix
	for tty in ttyS1 ttyS2; do $b stty -F /dev/$tty raw -echo; done
	$b setsid $b sh /run/matrix/command </dev/null >/dev/ttyS1 2>&1
	echo "{\"kind\": \"exit\", \"code\": $?}" >/dev/ttyS2
	$b sleep 0.3 # until the serial lines are empty
	$b poweroff -f
	$b sleep 60
}

if [ "$1" = root ]; then root; else initramfs; fi
