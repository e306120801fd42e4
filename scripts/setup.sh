#!/usr/bin/env bash
# Packages of the distribution, then a virtual environment that sees them: bcc comes from there.
# setup.sh VENV PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
shift
./scripts/apt.sh "$@"
echo "setting up $venv" >&2
[ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]' 2> >(grep -v '^WARNING: Location' >&2)
"$venv/bin/python" -c 'import bcc' || { echo "bcc is not importable by $venv/bin/python" >&2; exit 1; }
