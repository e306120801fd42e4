#!/usr/bin/env bash
# preload.sh TREE ARCHIVE STORE: unpacks an image by the containerd of a tree that is no machine yet, at this machine's speed,
# into a folder that becomes the machine's /var/lib/containerd. An emulated machine takes minutes for that.
set -euo pipefail
tree=$1 archive=$2 store=$3
mkdir -p "$store"
touch "$tree/mnt/archive"
unshare --mount --pid --fork --kill-child --propagation private bash -euc '
	mount --bind "$2" "$1/mnt/archive"
	mount --bind "$3" "$1/var/lib/containerd"
	mount -t proc proc "$1/proc"
	mount -t tmpfs run "$1/run"
	exec chroot "$1" bash -euc "
		containerd --log-level fatal &
		until ctr version >/dev/null 2>&1; do sleep 0.2; done
		ctr -n k8s.io images import /mnt/archive
		kill \$!
		wait \$! || true
	"' bash "$tree" "$archive" "$store" >&2
rm "$tree/mnt/archive"
