#!/usr/bin/env bash
# preload.sh TREE ARCHIVE: unpacks an image into the containerd store of a tree that is no machine yet, at this machine's speed.
# An emulated one takes minutes for that.
set -euo pipefail
tree=$1 archive=$2
touch "$tree/tmp/archive"
unshare --mount --pid --fork --kill-child --propagation private bash -euc '
	mount --bind "$2" "$1/tmp/archive"
	mount -t proc proc "$1/proc"
	mount -t tmpfs run "$1/run"
	exec chroot "$1" bash -euc "
		containerd --log-level error &
		until ctr version >/dev/null 2>&1; do sleep 0.2; done
		ctr -n k8s.io images import /tmp/archive
		kill \$!
		wait \$! || true
	"' bash "$tree" "$archive" 2>&1 | { grep -v 'cni config load failed' || true; } >&2
rm "$tree/tmp/archive"
