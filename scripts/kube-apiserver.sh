#!/usr/bin/env bash
# kube-apiserver.sh [PROGRAM...]: prints a folder with a kube-apiserver, or with the named programs of Kubernetes (etcd
# comes from Debian's etcd-server): the cache's, else the official download, else built from Debian's source package of
# Kubernetes (some minutes, once).
# Variables: DAGWALL_KUBE_CACHE (default: ~/.cache/dagwall/kube), KUBE_VERSION (of the official download; `debian`: none).
set -euo pipefail
[ $# -gt 0 ] || set -- kube-apiserver
cache=${DAGWALL_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dagwall/kube}
version=${KUBE_VERSION:-v1.33.1}
here=$(cd "$(dirname "$0")" && pwd)
say() { printf '[kube-apiserver] %s\n' "$*" >&2; }

"$here/apt.sh" etcd-server openssl curl >&2
command -v kubectl >/dev/null || "$here/apt.sh" kubernetes-client >&2
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
missing() {
	local program
	for program in "$@"; do "$cache/$program" --version >/dev/null 2>&1 || echo "$program"; done
}
fetch() { # PROGRAM
	curl -fsSL --connect-timeout 5 --max-time 300 -o "$cache/download" \
		"https://dl.k8s.io/release/$version/bin/linux/$(dpkg --print-architecture)/$1" &&
		chmod +x "$cache/download" && mv "$cache/download" "$cache/$1"
}
read -ra programs <<<"$(missing "$@" | tr '\n' ' ')"
if [ ${#programs[@]} -gt 0 ] && [ "$version" != debian ]; then
	say "trying the official ${programs[*]} $version"
	for program in "${programs[@]}"; do fetch "$program" || break; done
	read -ra programs <<<"$(missing "$@" | tr '\n' ' ')"
fi
if [ ${#programs[@]} -eq 0 ]; then
	echo "$cache"
	exit
fi
say "building Debian's ${programs[*]} (6 to 12 minutes on 2 cores)"
"$here/apt.sh" golang-1.19-go rsync dpkg-dev make xz-utils jq >&2
work=$cache/source
mkdir -p "$work"
mirror=$(apt-get indextargets --format '$(REPO_URI)' | awk '/\/debian\/$/ && !n++')
# A private list of sources: the system's own is not touched.
state=$work/apt
mkdir -p "$state/lists/partial" "$state/archives/partial"
key=/usr/share/keyrings/debian-archive-keyring.gpg
printf 'deb-src [signed-by=%s] %s bookworm main\ndeb [signed-by=%s] %s bookworm main\n' "$key" "$mirror" "$key" "$mirror" >"$state/list"
options=(-qq -o Dir::Etc::SourceList="$state/list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$state/lists"
	-o Dir::Cache="$state" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
apt-get "${options[@]}" update >&2
tree=$work/go/src/k8s.io/kubernetes
if [ ! -f "$tree/.unpacked" ]; then
	(cd "$work" && apt-get "${options[@]}" source --download-only kubernetes >&2)
	rm -rf "$tree"
	mkdir -p "$(dirname "$tree")"
	dpkg-source --no-check -x "$(find "$work" -maxdepth 1 -name 'kubernetes_*.dsc' | sort -V | tail -1)" "$tree" >&2 # apt has checked it
	# The vendored reflect2 1.0.1 panics on JSON maps when built with Go 1.18 or newer; Debian packages 1.0.2.
	(cd "$work" && apt-get "${options[@]}" download golang-github-modern-go-reflect2-dev >&2)
	rm -rf "$work/reflect2"
	dpkg-deb -x "$work"/golang-github-modern-go-reflect2-dev_*.deb "$work/reflect2"
	vendored=$tree/vendor/github.com/modern-go/reflect2
	rm -f "$vendored"/*.go "$vendored"/*.s
	cp "$work"/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2/*.[gs]* "$vendored/"
	rm -f "$vendored"/*_test.go
	touch "$tree/.unpacked"
fi
say "building"
cd "$tree"
env -u GOROOT -u GOBIN PATH="/usr/lib/go-1.19/bin:$PATH" GOPATH="$work/go" GO111MODULE=off CGO_ENABLED=0 GOFLAGS= GOPROXY=off \
	GOCACHE="$work/gocache" make WHAT="${programs[*]/#/cmd/}" GOLDFLAGS="-s -w" >"$work/build.log" 2>&1 ||
	{ tail -30 "$work/build.log" >&2; exit 1; }
for program in "${programs[@]}"; do install -m 0755 "_output/bin/$program" "$cache/$program"; done
echo "$cache"
