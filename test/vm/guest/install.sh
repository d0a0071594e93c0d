#!/bin/bash
# Installs the tree in /host/berth as a package does.
set -euo pipefail
from=/host/berth
to=/usr/lib/berth
install -d $to/build/bin /etc/berth/berth.conf.d /etc/cni/net.d /opt/cni/bin
cp -a $from/build/. $to/build/
install -m 755 $from/node $to/build/bin/node
install -m 755 /host/crictl /usr/local/bin/crictl
ln -sfn $to/build/bin/berth /usr/bin/berth
install -m 644 $from/contrib/systemd/berth.service /etc/systemd/system/berth.service
install -m 644 $from/contrib/systemd/berth.conf /etc/berth/berth.conf
# user-mode-linux has no NAT.
masquerade=$([ "${MACHINE:-uml}" = uml ] && echo false || echo true)
jq -n --argjson masquerade "$masquerade" '{cniVersion: "1.0.0", name: "berth", plugins: [
	{type: "bridge", bridge: "cni0", isGateway: true, ipMasq: $masquerade, ipam: {
		type: "host-local", ranges: [[{subnet: "10.88.0.0/16"}]], routes: [{dst: "0.0.0.0/0"}]}},
	{type: "portmap", capabilities: {portMappings: true}}]}' >/etc/cni/net.d/10-berth.conflist
jq -n '{"runtime-endpoint": "unix:///run/berth/berth.sock", "image-endpoint": "unix:///run/berth/berth.sock",
	timeout: 600}' >/etc/crictl.yaml
systemctl daemon-reload
