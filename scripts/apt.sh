#!/usr/bin/env bash
# Installs those of the named Debian or Ubuntu packages that are missing.
set -euo pipefail
exec 9>/run/lock/dagwall-apt
flock 9 # targets that run beside one another take turns
missing=()
for package in "$@"; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
