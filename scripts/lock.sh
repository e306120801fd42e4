#!/usr/bin/env bash
# Writes requirements/*.txt: every package that pyproject.toml leads to, with its version and hashes, for all Pythons
# that dagwall supports. The one place where versions are chosen.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
/usr/bin/python3 -m venv "$tool"
"$tool/bin/pip" install --quiet --disable-pip-version-check uv
lock() { # FILE OPTION...
	local file=$1
	shift
	"$tool/bin/uv" pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --python-version "$(sed -n 's/^requires-python = ">=\(.*\)"$/\1/p' pyproject.toml)" \
		"$@" pyproject.toml --output-file "requirements/$file"
	echo "requirements/$file: $(grep -c '==' "requirements/$file") packages" >&2
}
mkdir -p requirements
lock run.txt
lock dev.txt --extra dev
