#!/usr/bin/env bash
# Types and unit tests with other versions than the locked ones: versions.sh newest|oldest
# newest: the newest of everything that pyproject.toml admits, and a line for each locked package that differs;
# oldest: the oldest that it admits of what dagwall itself imports.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
newest) resolution=highest ;;
oldest) resolution=lowest-direct ;;
*) echo "usage: $0 newest|oldest" >&2 && exit 2 ;;
esac
venv=.venv-$1
rm -rf "$venv"
/usr/bin/python3 -m venv --system-site-packages "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check uv
[ "$1" = newest ] && extra=.[dev] || extra=.
VIRTUAL_ENV=$PWD/$venv "$venv/bin/uv" pip install --quiet --resolution "$resolution" --editable "$extra"
[ "$1" = newest ] || VIRTUAL_ENV=$PWD/$venv "$venv/bin/uv" pip install --quiet pytest pytest-timeout pytest-xdist hypothesis \
	"grpcio-tools==$("$venv/bin/python" -c 'import grpc; print(grpc.__version__)')"
echo "what differs from the lock:"
"$venv/bin/uv" pip freeze --python "$venv/bin/python" --exclude-editable 2>/dev/null | tr 'A-Z_' 'a-z-' |
	grep -vE "^(pip|setuptools|uv|wheel)==" | grep -vxFf <(sed -n 's/^\([^ ]*==[^ ]*\).*/\1/p' requirements/dev.txt) || echo "  nothing"
[ "$1" = oldest ] || "$venv/bin/mypy"
"$venv/bin/python" -m pytest -q -n auto tests/unit tests/layout
