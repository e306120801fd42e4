#!/usr/bin/env bash
# run.sh [PYTEST OPTION...]: brings the machine of vm.sh up, runs tests/e2e against it, and ends it (KEEP=1: leaves it).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
[ "${KEEP:-0}" = 1 ] || trap '"$here/vm.sh" down' EXIT
"$here/vm.sh" up
eval "$("$here/vm.sh" env)"
"$here/vm.sh" in .venv/bin/python -m pytest -v -rA --durations=0 tests/e2e "$@"
