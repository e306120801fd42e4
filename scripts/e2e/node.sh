#!/usr/bin/env bash
# Runs in the machine of vm.sh, as e2e-node: containerd and a kubelet, for the control plane of control.sh.
#   e2e-node up                                 with systemd's cgroup driver; certificates are in /var/lib/e2e
#   e2e-node drivers KUBELET CONTAINERD [ROOT]  all pods go, then both run with these cgroup drivers (systemd or cgroupfs) and
#                                               this cgroupRoot
set -euo pipefail
state=/var/lib/e2e pki=/var/lib/e2e/pki server=10.0.2.2 address=10.0.2.15 name=node
started=$SECONDS
say() { printf '[node %4d s] %s\n' "$((SECONDS - started))" "$*" >&2; }
minor=$(kubelet --version | sed 's/.*v1\.//; s/\..*//')

unit() { # NAME COMMAND: a service that comes back
	cat >"/etc/systemd/system/$1.service" <<-END
		[Service]
		ExecStart=$2
		Restart=always
		RestartSec=2
		KillMode=process
		CPUAccounting=true
		MemoryAccounting=true
	END
	systemctl daemon-reload
	systemctl restart "$1"
}

runtime() { # DRIVER
	mkdir -p /etc/containerd /etc/cni/net.d
	cat >/etc/containerd/config.toml <<-END
		version = 2
		[plugins."io.containerd.grpc.v1.cri"]
		sandbox_image = "localhost/pause:1"
		[plugins."io.containerd.grpc.v1.cri".cni]
		bin_dir = "/usr/lib/cni"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		SystemdCgroup = $([ "$1" = systemd ] && echo true || echo false)
	END
	cat >/etc/cni/net.d/10-e2e.conflist <<-END
		{"cniVersion": "0.4.0", "name": "e2e", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
		"hairpinMode": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]],
		"routes": [{"dst": "0.0.0.0/0"}]}}]}
	END
	systemctl restart containerd
	until ctr version >/dev/null 2>&1; do sleep 0.3; done
}

kubelet_unit() { # DRIVER ROOT
	local flags="--config=$state/kubelet.json --kubeconfig=$state/kubelet.kubeconfig --hostname-override=$name --node-ip=$address --v=1"
	flags="$flags --housekeeping-interval=60s" # of cadvisor, which keeps an emulated CPU busy
	local endpoint=unix:///run/containerd/containerd.sock setting=""
	if [ "$minor" -lt 27 ]; then
		flags="$flags --container-runtime=remote --container-runtime-endpoint=$endpoint"
	else
		setting="\"containerRuntimeEndpoint\": \"$endpoint\","
	fi
	cat >"$state/kubelet.json" <<-END
		{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", $setting
		"cgroupDriver": "$1", "cgroupRoot": "$2", "staticPodPath": "/etc/kubernetes/manifests", "failSwapOn": false,
		"authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": "$pki/ca.crt"}},
		"authorization": {"mode": "Webhook"}, "clusterDomain": "cluster.local", "resolvConf": "/etc/resolv.conf",
		"evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99, "runtimeRequestTimeout": "15m",
		"tlsCertFile": "$pki/kubelet-server.crt", "tlsPrivateKeyFile": "$pki/kubelet-server.key"}
	END
	mkdir -p /etc/kubernetes/manifests
	kubelet_root "$1" "$2"
	unit kubelet "/usr/local/bin/kubelet $flags"
}

kubelet_root() { # DRIVER ROOT: the kubelet wants its root to exist
	case $2:$1 in
	:*) ;;
	*:systemd)
		printf '[Slice]\nCPUAccounting=yes\nMemoryAccounting=yes\nTasksAccounting=yes\n' >"/etc/systemd/system/${2#/}.slice"
		systemctl daemon-reload
		systemctl start "${2#/}.slice"
		;;
	*)
		mkdir -p "/sys/fs/cgroup$2"
		for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
			echo "+$controller" >"/sys/fs/cgroup$2/cgroup.subtree_control" || true
		done
		;;
	esac
}

wait_ready() { # WHAT
	local n=0 path="https://$server:6443/api/v1/nodes/$name"
	until curl -fsS --max-time 30 --cacert "$pki/ca.crt" --cert "$pki/kubelet.crt" --key "$pki/kubelet.key" "$path" 2>/dev/null |
		tr -d ' \n' | grep -q '"type":"Ready","status":"True"'; do
		n=$((n + 1))
		[ $n -lt 300 ] || { journalctl -u kubelet -n 30 --no-pager >&2; exit 1; }
		sleep 1
	done
	say "node ready: $(kubelet --version), drivers $*"
}

up() {
	runtime systemd
	# No kube-proxy: one rule is all that pods need to reach the API server at its service's address.
	for chain in PREROUTING OUTPUT; do
		iptables -t nat -A $chain -d 10.96.0.1/32 -p tcp --dport 443 -j DNAT --to-destination $server:6443
	done
	kubelet_unit systemd ""
	wait_ready systemd systemd
}

wipe() { # every pod and what is left of it
	systemctl stop kubelet
	for task in $(ctr -n k8s.io tasks ls -q); do ctr -n k8s.io tasks kill -s KILL -a "$task" >/dev/null 2>&1 || true; done
	sleep 1
	for task in $(ctr -n k8s.io tasks ls -q); do ctr -n k8s.io tasks rm -f "$task" >/dev/null 2>&1 || true; done
	for container in $(ctr -n k8s.io containers ls -q); do ctr -n k8s.io containers rm "$container" >/dev/null 2>&1 || true; done
	systemctl stop containerd
	sleep 1
	awk '/\/var\/lib\/kubelet\/pods|\/run\/containerd\/io.containerd|\/run\/netns\/cni/ {print $2}' /proc/mounts |
		sort -r | xargs -r umount -l 2>/dev/null || true
	ip -o link | awk -F'[ :@]+' '/veth/ {print $2}' | xargs -r -n1 ip link del 2>/dev/null || true
	rm -rf /var/lib/kubelet/pods/* /var/lib/kubelet/*_state /var/lib/cni/networks/e2e /run/containerd/io.containerd.grpc.v1.cri \
		/var/lib/containerd/io.containerd.grpc.v1.cri /var/log/pods/* /etc/kubernetes/manifests/*
	systemctl stop 'kubepods*.slice' 'kubelet*.slice' 2>/dev/null || true
	find /sys/fs/cgroup/kubepods* /sys/fs/cgroup/kubelet* -depth -type d -exec rmdir {} \; 2>/dev/null || true
}

case ${1:-} in
up) up ;;
drivers)
	wipe
	runtime "$3"
	kubelet_unit "$2" "${4:-}"
	sleep 3
	wait_ready "$2" "$3" "${4:-}"
	;;
*) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
