#!/usr/bin/env bash
# promtool.sh: prints the path of promtool: this machine's, else of Debian's or Ubuntu's package, unpacked into a cache
# and not installed, because installing it starts a Prometheus.
# Variable: DAGWALL_PROMTOOL_CACHE (default: ~/.cache/dagwall/promtool).
set -euo pipefail
if command -v promtool; then exit; fi
cache=${DAGWALL_PROMTOOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dagwall/promtool}
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
tool=$cache/root/usr/bin/promtool
if ! "$tool" --version >/dev/null 2>&1; then
	echo "[promtool] unpacking the distribution's package prometheus" >&2
	cd "$cache"
	apt-get download -qq prometheus >&2 || { apt-get update -qq && apt-get download -qq prometheus; } >&2
	rm -rf root
	dpkg-deb -x prometheus_*.deb root
	rm -f prometheus_*.deb
fi
echo "$tool"
