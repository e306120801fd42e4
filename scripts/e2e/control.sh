#!/usr/bin/env bash
# control.sh start|stop STATE PROGRAMS: etcd, API server, controllers and scheduler for the node of vm.sh, as processes of this
# machine (an emulated one is busy enough with its kubelet). They listen on 10.0.2.2 of the network namespace they run in.
set -euo pipefail
action=$1 state=$2 programs=${3:-}
pki=$state/pki address=10.0.2.2 node=10.0.2.15 name=node

certificate() { # FILE SUBJECT [NAMES]
	openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1.key"
	openssl req -new -key "$pki/$1.key" -subj "$2" -out "$pki/$1.csr"
	printf 'extendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}" >"$pki/extension"
	openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 3650 \
		-extfile "$pki/extension" -out "$pki/$1.crt" 2>/dev/null
}

kubeconfig() { # FILE: of the certificate with that name
	cat >"$state/$1.kubeconfig" <<-END
		{"apiVersion": "v1", "kind": "Config", "current-context": "e2e",
		"clusters": [{"name": "e2e", "cluster": {"server": "https://$address:6443",
		"certificate-authority-data": "$(base64 -w0 "$pki/ca.crt")"}}],
		"users": [{"name": "e2e", "user": {"client-certificate-data": "$(base64 -w0 "$pki/$1.crt")",
		"client-key-data": "$(base64 -w0 "$pki/$1.key")"}}],
		"contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}]}
	END
}

certificates() {
	mkdir -p "$pki"
	openssl ecparam -name prime256v1 -genkey -noout -out "$pki/ca.key"
	openssl req -x509 -new -key "$pki/ca.key" -subj /CN=e2e -days 3650 -out "$pki/ca.crt"
	openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
	openssl rsa -in "$pki/sa.key" -pubout -out "$pki/sa.pub" 2>/dev/null
	certificate server /CN=kube-apiserver \
		"IP:$address,IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
	certificate kubelet-server "/CN=$name" "IP:$node,DNS:$name"
	certificate admin /O=system:masters/CN=admin
	certificate controllers /CN=system:kube-controller-manager
	certificate scheduler /CN=system:kube-scheduler
	certificate kubelet "/O=system:nodes/CN=system:node:$name"
	for client in admin controllers scheduler kubelet; do kubeconfig $client; done
}

run() { # NAME COMMAND...
	local program=$1
	shift
	setsid "$@" </dev/null >"$state/$program.log" 2>&1 9>&- &
	echo $! >"$state/$program.pid"
}

wait_for() { # PATH
	for _ in $(seq 600); do
		! curl -fsS --max-time 5 --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" \
			"https://$address:6443$1" >/dev/null 2>&1 || return 0
		sleep 0.3
	done
	tail -n 20 "$state/kube-apiserver.log" "$state/etcd.log" >&2
	exit 1
}

start() {
	stop
	rm -rf "$state/etcd" "$pki"
	certificates
	local gate=()
	# Tokens as from 1.21 on: bound to the pod, projected.
	[ "$("$programs/kube-apiserver" --version | sed 's/.*v1\.//; s/\..*//')" -ge 21 ] || gate=(--feature-gates=BoundServiceAccountTokenVolume=true)
	run etcd etcd --data-dir "$state/etcd" --log-level warn --unsafe-no-fsync
	run kube-apiserver "$programs/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 \
		--advertise-address=$address --secure-port=6443 --service-cluster-ip-range=10.96.0.0/16 \
		--authorization-mode=Node,RBAC --allow-privileged=true --client-ca-file="$pki/ca.crt" \
		--tls-cert-file="$pki/server.crt" --tls-private-key-file="$pki/server.key" \
		--kubelet-certificate-authority="$pki/ca.crt" --kubelet-client-certificate="$pki/admin.crt" \
		--kubelet-client-key="$pki/admin.key" --kubelet-preferred-address-types=InternalIP \
		--service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/sa.pub" \
		--service-account-signing-key-file="$pki/sa.key" --cert-dir="$state/certs" \
		--enable-admission-plugins=NodeRestriction --profiling=false "${gate[@]}"
	wait_for /readyz
	run controllers "$programs/kube-controller-manager" --kubeconfig="$state/controllers.kubeconfig" --leader-elect=false \
		--service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
		--use-service-account-credentials=true --node-monitor-grace-period=5m --cert-dir="$state/certs" "${gate[@]}"
	run scheduler "$programs/kube-scheduler" --kubeconfig="$state/scheduler.kubeconfig" --leader-elect=false
	wait_for /api/v1/namespaces/default/serviceaccounts/default
}

stop() {
	local pid program
	for program in scheduler controllers kube-apiserver etcd; do
		[ -f "$state/$program.pid" ] || continue
		pid=$(cat "$state/$program.pid")
		kill "$pid" 2>/dev/null || true
		for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null && sleep 0.1 || break; done
		kill -9 "$pid" 2>/dev/null || true
		rm "$state/$program.pid"
	done
}

"$action"
