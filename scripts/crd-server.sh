#!/usr/bin/env bash
# crd-server.sh: prints a folder with what judges our objects on a current cluster, made of Debian sid's Go packages:
#   apiextensions-apiserver  the part of kube-apiserver that takes CustomResourceDefinitions: schemas, CEL and its cost
#                            budget, defaults, field pruning, server-side apply
#   api-judge                evaluates ValidatingAdmissionPolicies and makes OpenAPI documents, as kube-apiserver does
#   etcd                     what the former keeps its objects in
# Built once (5 minutes on 2 cores, 1.5 GB while it is built), then taken from the cache; api-judge again when its
# source changes. Nothing of the system is touched: a private list of packages, unpacked into the cache.
# Variables: DAGWALL_KUBE_CACHE (default: ~/.cache/dagwall/kube), as kube-apiserver.sh.
set -euo pipefail
cache=${DAGWALL_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dagwall/kube}
here=$(cd "$(dirname "$0")" && pwd)
folder=$cache/current
work=$cache/current-source
say() { printf '[crd-server] %s\n' "$*" >&2; }

mkdir -p "$folder" "$work"
exec 9>"$folder/.lock"
flock 9

unpack() {
	local key=/usr/share/keyrings/debian-archive-keyring.gpg mirror names options package
	[ ! -f "$work/.unpacked" ] || return 0
	[ -f "$key" ] || "$here/apt.sh" debian-archive-keyring >&2
	mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '/\/debian\/$/ && !n++')
	rm -rf "$work/root" "$work/packages"
	mkdir -p "$work/lists/partial" "$work/apt/archives/partial" "$work/packages" "$work/root"
	printf 'deb [signed-by=%s] %s sid main\n' "$key" "${mirror:-http://deb.debian.org/debian/}" >"$work/list"
	options=(-qq -o Dir::Etc::SourceList="$work/list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists"
		-o Dir::Cache="$work/apt" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root -o APT::Install-Recommends=0)
	apt-get "${options[@]}" update >&2
	names=$(apt-get "${options[@]}" -s install golang-k8s-apiextensions-apiserver-dev golang-go |
		awk '/^Inst golang/ {print $2}')
	say "fetching $(wc -w <<<"$names") packages"
	# shellcheck disable=SC2086  names, one a word
	(cd "$work/packages" && apt-get "${options[@]}" download $names etcd-server)
	for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/root"; done
	rm -rf "$work/packages"
	touch "$work/.unpacked"
}

compile() { # OUTPUT PACKAGE
	local goroot
	goroot=$(printf '%s\n' "$work"/root/usr/lib/go-1.* | sort -V | tail -1)
	mkdir -p "$work/gopath"
	ln -sfn "$work/root/usr/share/gocode/src" "$work/gopath/src"
	say "building ${1##*/} with $("$goroot/bin/go" version | cut -d' ' -f3)"
	env -u GOBIN GOROOT="$goroot" PATH="$goroot/bin:$PATH" GOPATH="$work/gopath" GO111MODULE=off CGO_ENABLED=0 GOFLAGS= \
		GOTOOLCHAIN=local GOPROXY=off GOCACHE="$work/gocache" go build -o "$1" "$2"
}

if [ ! -x "$folder/apiextensions-apiserver" ] || [ ! -x "$folder/etcd" ]; then
	unpack
	cp "$work/root/usr/bin/etcd" "$folder/etcd"
	compile "$folder/apiextensions-apiserver" k8s.io/apiextensions-apiserver
fi
source=$here/api-judge
if [ -f "$source/main.go" ] && ! cmp -s "$source/main.go" "$folder/.api-judge.go"; then
	unpack
	package=$work/root/usr/share/gocode/src/dagwall/api-judge
	mkdir -p "$package"
	cp "$source/main.go" "$package/"
	compile "$folder/api-judge" dagwall/api-judge
	cp "$source/main.go" "$folder/.api-judge.go"
fi
echo "$folder"
