#!/usr/bin/env bash
# Packages of the distribution, then a virtual environment that sees them: bcc comes from there. What comes from PyPI is
# what requirements/dev.txt says, to the byte.
# setup.sh VENV PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
shift
./scripts/apt.sh "$@"
echo "setting up $venv" >&2
[ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages "$venv"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" 2> >(grep -v '^WARNING: Location' >&2); }
install --require-hashes --requirement requirements/dev.txt
install --no-deps --no-build-isolation --editable .
"$venv/bin/python" -c 'import bcc' || { echo "bcc is not importable by $venv/bin/python" >&2; exit 1; }
