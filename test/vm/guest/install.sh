#!/bin/bash
# Brings Berth into the machine: `tree`, the build in /host/berth where a package has it; `package`, the package itself;
# `nothing`, only what a suite needs beside it.
set -euo pipefail

from=/host/berth
install -d /etc/cni/net.d /opt/cni/bin
install -m 755 /host/crictl /usr/local/bin/crictl
# user-mode-linux has no NAT.
masquerade=$([ "${MACHINE:-uml}" = uml ] && echo false || echo true)
jq -n --argjson masquerade "$masquerade" '{cniVersion: "1.0.0", name: "berth", plugins: [
	{type: "bridge", bridge: "cni0", isGateway: true, ipMasq: $masquerade, ipam: {
		type: "host-local", ranges: [[{subnet: "10.88.0.0/16"}]], routes: [{dst: "0.0.0.0/0"}]}},
	{type: "portmap", capabilities: {portMappings: true}}]}' >/etc/cni/net.d/10-berth.conflist
slowness=${SLOWNESS:-1}
# Emulated in software, a daemon takes longer to answer itself than it would on any node.
if [ "$slowness" != 1 ]; then
	install -d /run/systemd/system/berth.service.d
	printf '[Service]\nWatchdogSec=%smin\nTimeoutStartSec=%smin\n' "$slowness" $((5 * slowness)) \
		>/run/systemd/system/berth.service.d/00-emulated.conf
fi
[ "$1" = nothing ] && exit
jq -n --argjson timeout $((120 * slowness)) '{"runtime-endpoint": "unix:///run/berth/berth.sock",
	"image-endpoint": "unix:///run/berth/berth.sock", timeout: $timeout}' >/etc/crictl.yaml
if [ "$1" = package ]; then
	apt-get install -y -q /host/packages/berth_0.1.0_amd64.deb
	exit
fi
to=/usr/lib/berth
install -d $to/build/bin /etc/berth/berth.conf.d
cp -a $from/build/. $to/build/
install -m 755 $from/node $to/build/bin/node
ln -sfn $to/build/bin/berth /usr/bin/berth
install -m 644 $from/contrib/systemd/berth.service /etc/systemd/system/berth.service
install -m 644 $from/contrib/systemd/berth.conf /etc/berth/berth.conf
systemctl daemon-reload
