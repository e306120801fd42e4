#!/usr/bin/env bash
# image.sh OUT.tar: builds dagwall's image from the Dockerfile with buildah, and the sandbox (pause) image that the machine's
# containerd wants, into one archive for `ctr images import`. Nothing is pulled: the base is made from Debian's packages.
# Variables: CACHE (default: ~/.cache/dagwall), TAG (dagwall:0.1.0).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dagwall}
tag=${TAG:-dagwall:0.1.0}
out=$1
say() { printf '[image] %s\n' "$*" >&2; }

"$here/../apt.sh" buildah mmdebstrap busybox-static >&2
store=$cache/buildah
mkdir -p "$store"
exec 9>"$store/.lock"
flock 9
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/graph"\nrunroot = "%s/run"\n' "$store" "$store" >"$store/storage.conf"
printf '{"default": [{"type": "insecureAcceptAnything"}]}\n' >"$store/policy.json"
printf 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n' >"$store/registries.conf"
export CONTAINERS_STORAGE_CONF=$store/storage.conf CONTAINERS_REGISTRIES_CONF=$store/registries.conf BUILDAH_ISOLATION=chroot

from_tree() { # NAME TREE-OR-TAR [CONFIG...]: an image of one layer
	local name=$1 content=$2 made
	shift 2
	buildah inspect --type image "$name" >/dev/null 2>&1 && return
	made=$(buildah from scratch)
	buildah add -q "$made" "$content" / >/dev/null
	buildah config "$@" "$made"
	buildah commit -q --signature-policy "$store/policy.json" "$made" "$name" >/dev/null
	buildah rm "$made" >/dev/null
}

base=$(sed -n 's/^FROM \([^ ]*\).*/\1/p' "$root/Dockerfile" | head -n 1) # debian:SUITE-slim
suite=${base#debian:}
suite=${suite%-slim}
if [ ! -f "$cache/base-$suite.tar" ]; then
	say "making $base from packages"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '/\/debian\/$/ && !n++')
	mmdebstrap --quiet --variant=minbase --skip=check/empty --dpkgopt='path-exclude=/usr/share/doc/*' \
		--customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' "$suite" "$cache/base-$suite.new.tar" "$mirror" >&2
	mv "$cache/base-$suite.new.tar" "$cache/base-$suite.tar"
fi
from_tree "docker.io/library/$base" "$cache/base-$suite.tar" --cmd bash \
	--env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$store/pause"
cp "$(command -v busybox)" "$store/pause/sleep"
from_tree localhost/pause:1 "$store/pause" --entrypoint '["/sleep", "2147483647"]' --cmd ''

# The machine's own way to packages: its certificates, and pip's settings if it has any.
{ grep -v '^ *cert *=' /etc/pip.conf 2>/dev/null || echo '[global]'; echo 'cert = /mnt/ca.crt'; } >"$store/pip.conf"
mounts=(-v /etc/ssl/certs/ca-certificates.crt:/mnt/ca.crt:ro -v "$store/pip.conf:/etc/pip.conf:ro")
say "building $tag"
buildah bud --isolation chroot --pull-never --signature-policy "$store/policy.json" --layers \
	"${mounts[@]}" -t "docker.io/library/$tag" "$root" >"$store/build.log" 2>&1 || {
	tail -n 30 "$store/build.log" >&2
	exit 1
}
built=$(tail -n 1 "$store/build.log")
[ "$(cat "$out.id" 2>/dev/null)" != "$built" ] || exit 0
rm -f "$out" "$out.id"
# One archive of both: an OCI layout keeps blobs once.
rm -rf "$store/layout"
buildah push -q --signature-policy "$store/policy.json" "docker.io/library/$tag" "oci:$store/layout:docker.io/library/$tag"
buildah push -q --signature-policy "$store/policy.json" localhost/pause:1 "oci:$store/layout:localhost/pause:1"
tar -C "$store/layout" -cf "$out" .
echo "$built" >"$out.id"
say "$tag $(du -h "$out" | cut -f1)"
