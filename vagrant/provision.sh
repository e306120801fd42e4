#!/usr/bin/env bash
# Makes a Debian 12 machine one that a contributor can work on, stage by stage; each can be run again.
#   provision.sh [STAGE...]      STAGES="..." in the environment is the same; none: all
#
# Without the internet, if the packages are there and wheels are in vagrant/wheels (README.md):
#   packages  what `make` wants from Debian
#   venv      dagwall and its tools in a virtual environment
#   check     make check (PYTEST_TIMEOUT: seconds a test may take, where the machine is emulated)
#   kernel    the kernel tests (KERNEL_TESTS: files or options of pytest)
#   demo      make demo
# With it:
#   docker    Docker from Debian, kind, kubectl, helm, at the versions below
#   kind      a cluster of one node, as in kind.yaml
#   image     dagwall's image, built here, on that node
#   dagwall   its definitions, DaemonSet and policy.yaml
#   airflow   Airflow's official chart with KubernetesExecutor, in a namespace that dagwall manages
#   dag       one run of dags/simple_etl.py, and what dagwall saw of it
#   e2e       tests/e2e on this cluster
set -euo pipefail
KIND=v0.29.0 KUBECTL=v1.33.1 HELM=v3.18.3 CHART=1.16.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ -f "$here/airflow.yaml" ] || here=/dagwall/vagrant # vagrant runs a copy of this file
cd "$here/.."
[ -n "${PYTEST_TIMEOUT:-}" ] || unset PYTEST_TIMEOUT # pytest takes an empty one for a mistake
export KUBECONFIG=${KUBECONFIG:-/root/.kube/config} HOME=/root LANG=C.UTF-8
[ ! -d vagrant/wheels ] || export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/vagrant/wheels"
started=$SECONDS
say() { printf '[%s %4d s] %s\n' "${stage:-provision}" "$((SECONDS - started))" "$*"; }

stage_packages() { ./scripts/apt.sh make git curl ca-certificates gcc libc6-dev iproute2 nftables python3-bpfcc python3-venv; }
stage_venv() { make setup; }
stage_check() { make check; }
stage_kernel() {
	if [ -z "${KERNEL_TESTS:-}" ]; then make kernel; else .venv/bin/python -m pytest -q $KERNEL_TESTS; fi
}
stage_demo() { make demo; }

stage_docker() {
	./scripts/apt.sh docker.io curl ca-certificates
	systemctl enable --now docker
	local arch
	arch=$(dpkg --print-architecture)
	fetch "kind version" "$KIND" kind "https://kind.sigs.k8s.io/dl/$KIND/kind-linux-$arch"
	fetch "kubectl version --client" "$KUBECTL" kubectl "https://dl.k8s.io/release/$KUBECTL/bin/linux/$arch/kubectl"
	if ! helm version 2>/dev/null | grep -q "$HELM"; then
		curl -fsSL "https://get.helm.sh/helm-$HELM-linux-$arch.tar.gz" | tar -xz -C /usr/local/bin --strip-components 1 "linux-$arch/helm"
	fi
}

fetch() { # "PROGRAM VERSION-COMMAND" VERSION NAME URL
	! $1 2>/dev/null | grep -q "$2" || return 0
	curl -fsSL -o "/usr/local/bin/$3.new" "$4"
	chmod +x "/usr/local/bin/$3.new"
	mv "/usr/local/bin/$3.new" "/usr/local/bin/$3"
}

stage_kind() {
	kind get clusters 2>/dev/null | grep -qx dagwall || kind create cluster --config vagrant/kind.yaml --wait 300s
	kind export kubeconfig --name dagwall
}

stage_image() {
	docker build -t dagwall:0.1.0 .
	kind load docker-image dagwall:0.1.0 --name dagwall
}

stage_dagwall() {
	kubectl apply -f daemonset.yaml
	kubectl -n dagwall-system rollout restart daemonset/dagwall-agent # a new image has the old name
	kubectl -n dagwall-system rollout status daemonset/dagwall-agent --timeout 300s
	kubectl create namespace airflow --dry-run=client -o yaml | kubectl apply -f -
	kubectl label --overwrite namespace airflow dagwall.io/managed=true
	kubectl apply -f vagrant/policy.yaml
}

stage_airflow() {
	kubectl -n airflow create configmap dags --from-file vagrant/dags --dry-run=client -o yaml | kubectl apply -f -
	helm repo add --force-update apache-airflow https://airflow.apache.org
	helm upgrade --install airflow apache-airflow/airflow --version "$CHART" -n airflow -f vagrant/airflow.yaml --timeout 15m
	kubectl -n airflow rollout status deployment/airflow-scheduler --timeout 600s
}

stage_dag() {
	local run=by-hand-$(date +%s) state=""
	airflow() { kubectl -n airflow exec deployment/airflow-scheduler -c scheduler -- airflow "$@"; }
	until airflow dags unpause simple_etl; do sleep 5; done
	airflow dags trigger simple_etl --run-id "$run"
	for _ in $(seq 60); do
		state=$(airflow dags list-runs -d simple_etl -o plain | awk -v run="$run" '$2 == run {print $3}')
		case $state in success | failed) break ;; esac
		sleep 5
	done
	say "run $run: ${state:-not found}"
	kubectl -n dagwall-system exec daemonset/dagwall-agent -c agent -- dagwall flows --dag simple_etl
	kubectl -n dagwall-system exec daemonset/dagwall-agent -c agent -- dagwall why --dag simple_etl
	[ "$state" = success ]
}

stage_e2e() {
	E2E_NODE_SHELL="docker exec dagwall-control-plane sh -c" .venv/bin/python -m pytest -v -rA tests/e2e
}

all=(packages venv check kernel demo docker kind image dagwall airflow dag e2e)
read -ra wanted <<<"${*:-${STAGES:-}}"
[ ${#wanted[@]} -gt 0 ] || wanted=("${all[@]}")
for stage in "${wanted[@]}"; do
	case " ${all[*]} " in *" $stage "*) ;; *) say "no stage '$stage': ${all[*]}"; exit 2 ;; esac
done
for stage in "${wanted[@]}"; do
	say "begins"
	"stage_$stage"
	say "done"
done
