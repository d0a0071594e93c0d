#!/bin/bash
# kubeadm itself, with the configuration that docs/INSTALL.md gives it: what it asks of the runtime, and what it writes
# for the kubelet. There is no cluster, and no kubelet but one that sleeps.
. "${0%/*}/lib.sh"

install -m 755 /host/kubeadm /usr/local/bin/kubeadm
printf '#!/bin/sh\n[ "$1" = --version ] && echo Kubernetes v1.36.3 || exec sleep infinity\n' >/usr/local/bin/kubelet
chmod 755 /usr/local/bin/kubelet
printf '[Service]\nExecStart=/usr/local/bin/kubelet\n[Install]\nWantedBy=multi-user.target\n' \
	>/etc/systemd/system/kubelet.service
systemctl daemon-reload
systemctl enable -q kubelet
serving
config=$ROOM/kubeadm.yaml
awk '/<<.END.$/ { here = 1; indent = index($0, "c"); next } /^ *END$/ { here = 0 } here { print substr($0, indent) }' \
	/host/INSTALL.md >"$config"
# There is nobody to ask for the newest release, nor to pull it from.
sed -i 's/^kind: ClusterConfiguration$/&\nkubernetesVersion: v1.36.3/; s/^  criSocket:.*/&\n  imagePullPolicy: Never/' \
	"$config"
# A machine without an address has no place for an API server.
ip link add node type dummy
ip address add 192.0.2.1/24 dev node
ip link set node up
ip route add default dev node

kubeadm config validate --config "$config" >"$ROOM/said" 2>&1
is 'kubeadm takes the configuration of the manual' "$? $(grep -i -e error -e unknown "$ROOM/said")" '0 '
# What it means by itself is no business of the runtime's: one CPU, a kernel without a list of its options,
# programs that Kubernetes' packages bring.
ignored=NumCPU,SystemVerification,FileExisting-conntrack
kubeadm init phase preflight --config "$config" --ignore-preflight-errors="$ignored" -v 1 >"$ROOM/said" 2>&1
is 'its preflight finds nothing to say of the node' "$? $(grep -o '\[ERROR [^]]*\]' "$ROOM/said" | sort -u)" '0 '
lacks 'nor of the runtime' "$(grep -i warning "$ROOM/said")" container
kubeadm init phase kubelet-start --config "$config" >"$ROOM/said" 2>&1
is 'it configures the kubelet' $? 0
has 'for our socket' "$(cat /var/lib/kubelet/*.yaml /var/lib/kubelet/*.env)" unix:///run/berth/berth.sock
is "with systemd's driver, by default or because we say so" \
	"$(sed -n 's/^cgroupDriver: //p' /var/lib/kubelet/config.yaml | sort -u)" systemd
berth check --node >"$ROOM/said" 2>&1
is 'berth check agrees with it' $? 0
has 'on the endpoint' "$(grep 'kubelet endpoint' "$ROOM/said")" ok
systemctl stop kubelet
is 'kubeadm reset asks us for its pods' "$(kubeadm reset -f --cri-socket unix:///run/berth/berth.sock >"$ROOM/said" 2>&1
	echo $?) $(grep -ci error "$ROOM/said")" '0 0'
