#!/bin/bash
# docs/INSTALL.md, line by line: its commands are run as it has them, in its order, on a node that has never seen Berth.
# Kubernetes' packages, CRI-O and containerd are stand-ins: of their names, with their files and services; the runtimes
# among them are a Berth of their own, so that there are pods to move away from.
. "${0%/*}/lib.sh"

PAGE=/host/INSTALL.md
RAN=$ROOM/ran
NAME=$(hostname)
: >"$RAN"
mkdir -p /root/manual
cd /root/manual || exit 1
export DEBIAN_FRONTEND=noninteractive HOME=/root
# Somebody who says yes.
echo 'APT::Get::Assume-Yes "true";' >/etc/apt/apt.conf.d/99yes
ln -s /host/packages/* .

blocks() { # SECTION: how many blocks of commands are in it
	awk -v section="## $1" '/^## / { here = $0 == section } here && /^ *```/ { fences++ } END { print fences / 2 }' $PAGE
}

block() { # SECTION NUMBER: prints that block of commands
	awk -v section="## $1" -v number="$2" '
		/^## / { here = $0 == section }
		here && /^ *```/ { inside = !inside; number -= inside; indent = index($0, "`"); next }
		here && inside && number == 0 { print substr($0, indent) }' $PAGE
}

follow() { # SECTION NUMBER: does what it says, as somebody who pastes it
	echo "$1 $2" >>"$RAN"
	block "$1" "$2" | sed "s/\\bNODE\\b/$NAME/g" >"$ROOM/lines"
	bash -eux -o pipefail "$ROOM/lines" >"$ROOM/said" 2>&1
	is "$1, block $2, $(wc -l <"$ROOM/lines") lines" "$? $(tail -n 5 "$ROOM/said" | grep -i -e error -e failed)" '0 '
}

inline() { # WORDS: does the command that begins so, somewhere in the text; NAME and FILE are in the environment
	local line
	line=$(tr '\n' ' ' <$PAGE | grep -oE "\`$1[^\`]*\`" | head -n 1 | tr -d '`')
	[ -n "$line" ] || { fail "$1" 'it is not in the text any more' && return; }
	bash -eux -o pipefail -c "$line" >"$ROOM/said" 2>&1
	is "\`$1\`" "$? $(grep -ci error "$ROOM/said")" '0 0'
}

package() { # NAME SERVICE COMMAND: a package in the archive with a service that runs this, and files of $ROOM/NAME
	local tree=$ROOM/$1
	mkdir -p "$tree/DEBIAN" "$tree/usr/lib/systemd/system"
	printf 'Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: %s\n' "$1" \
		'a stand-in' >"$tree/DEBIAN/control"
	if [ -n "$2" ]; then
		printf '[Service]\nType=%s\nEnvironment=BERTH_NODE=/host/berth/node\nExecStart=%s\nKillMode=process\n%s\n' \
			"$([ "$2" = kubelet ] && echo simple || echo notify)" "$3" \
			'[Install]\nWantedBy=multi-user.target' >"$tree/usr/lib/systemd/system/$2.service"
		sed -i 's/\\n/\n/g' "$tree/usr/lib/systemd/system/$2.service"
	fi
	(cd "$tree" && find etc -type f 2>/dev/null | sed 's|^|/|') >"$tree/DEBIAN/conffiles"
	dpkg-deb --root-owner-group --build "$tree" /srv/archive/"$1".deb >/dev/null
	(cd /srv/archive && {
		dpkg-deb -f "$1.deb"
		printf 'Filename: ./%s.deb\nSize: %s\n' "$1" "$(stat -c %s "$1.deb")"
		printf 'SHA256: %s\n\n' "$(sha256sum "$1.deb" | cut -d' ' -f1)"
	} >>Packages)
}

runtime() { # SOCKET: the command line of a runtime that serves there, with everything of its own
	echo "/host/berth/build/bin/berth --config /dev/null --config-dir /none --listen $1 --root /var/lib/other" \
		"--runroot /run/other --crio-socket none --cni-config-dir /etc/cni/net.d"
}

archive() { # what apt knows
	local name
	mkdir -p /srv/archive "$ROOM/kubeadm/usr/bin" "$ROOM/kubectl/usr/bin" "$ROOM/cri-o/etc/crio" "$ROOM/cri-o/usr/bin"
	for name in kubeadm kubectl; do
		printf '#!/bin/sh\necho "%s $*" >>%s/asked\n' "$name" "$ROOM" >"$ROOM/$name/usr/bin/$name"
		chmod 755 "$ROOM/$name/usr/bin/$name"
		package "$name" '' ''
	done
	package kubelet kubelet '/bin/sleep infinity'
	printf '[crio.runtime]\npids_limit = 4321\n' >"$ROOM/cri-o/etc/crio/crio.conf"
	printf '#!/bin/sh\necho CRI-O\n' >"$ROOM/cri-o/usr/bin/crio"
	chmod 755 "$ROOM/cri-o/usr/bin/crio"
	package cri-o crio "$(runtime /var/run/crio/crio.sock)"
	package containerd containerd "$(runtime /run/containerd/containerd.sock)"
	rm -rf /etc/apt/sources.list /etc/apt/sources.list.d
	echo 'deb [trusted=yes] file:/srv/archive ./' >/etc/apt/sources.list
}

old_runtime() { # PACKAGE SERVICE SOCKET: a node that has it, with a kubelet and a pod
	apt-get -q install "$1" >/dev/null 2>&1
	systemctl enable -q --now "$2"
	mkdir -p /var/lib/kubelet
	printf 'cgroupDriver: systemd\ncontainerRuntimeEndpoint: unix://%s\n' "$3" >/var/lib/kubelet/config.yaml
	printf 'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix://%s --pod-infra-container-image=x"\n' "$3" \
		>/var/lib/kubelet/kubeadm-flags.env
	jq -nc '{metadata: {name: "old", uid: "old", namespace: "default", attempt: 0}, linux: {}}' >"$ROOM/old.json"
	until_ok 60 crictl --runtime-endpoint "unix://$3" runp "$ROOM/old.json"
	is "a pod of $1 runs" "$(crictl --runtime-endpoint "unix://$3" pods -q | wc -l)" 1
	: >"$ROOM/asked"
}

moved() { # FROM: what is true of a node that has moved
	is "$1 has no pod left" "$(ls /run/other/sandboxes | wc -l)" 0
	is 'the kubelet is told where to go' "$(cat /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env)" \
		"cgroupDriver: systemd
containerRuntimeEndpoint: unix:///run/berth/berth.sock
KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/berth/berth.sock --pod-infra-container-image=x\""
	has 'and the cluster' "$(cat "$ROOM/asked")" \
		"kubectl annotate node $NAME --overwrite kubeadm.alpha.kubernetes.io/cri-socket=unix:///run/berth/berth.sock"
	is 'berth serves, the kubelet runs' "$(systemctl is-active berth kubelet | paste -sd' ')" 'active active'
	berth check --node >"$ROOM/check.log" 2>&1
	is 'and the node lacks nothing that keeps pods from running' $? 0
	has 'and knows the kubelet' "$(cat "$ROOM/check.log")" 'kubelet endpoint'
}

ready() { # CONDITIONS: whether runtime and network are
	[ "$(crictl info | jq -c '[.status.conditions[0, 1].status]')" = "$1" ]
}

archive
rm -f /etc/cni/net.d/10-berth.conflist
inline 'swapoff -a'
follow 'A node from nothing' 1
serving
is 'what the package sets' "$(sysctl -n net.ipv4.ip_forward) $(grep -c overlay /proc/filesystems)" '1 1'
inline 'berth check --node'
until_ok 30 ready '[true,true]'
is 'crictl info is Ready, alone' $? 0
follow 'A node from nothing' 2
until_ok 30 ready '[true,false]'
is 'it waits for the network of the cluster' $? 0
follow 'A node from nothing' 3
follow 'A node from nothing' 4
has 'kubeadm is told of the socket' "$(cat kubeadm.yaml)" 'criSocket: unix:///run/berth/berth.sock'
# As the network of a cluster does.
sed 's/"ipMasq": true/"ipMasq": false/' /etc/cni/net.d/11-berth-ipv4-bridge.conflist.disabled \
	>/etc/cni/net.d/10-cluster.conflist
until_ok 30 ready '[true,true]'
follow 'A node from nothing' 5
has 'the network is there' "$(cat "$ROOM/said")" '"status": true'

start_berth
pod=$(pod stays)
container=$(run "$pod" stays stays)
need 'a container' "$container"
pid=$(pid_of "$container")
follow Upgrade 1
serving
has 'it is the newer one' "$(berth --version)" 0.2.0
is 'and the container goes on' "$(pid_of "$container")" "$pid"
isnt 'there are changes to read' "$(zcat /usr/share/doc/berth/changelog.gz | wc -l)" 0
follow Rollback 1
serving
has 'it is the older one' "$(berth --version)" 0.1.0
is 'without pods, with images' "$(crictl pods -q | wc -l) $(crictl images -q "$IMAGE" | wc -l)" '0 1'
follow Uninstall 1
is 'nothing of it is left' "$(ls -d /run/berth /var/lib/berth /etc/berth /usr/lib/berth 2>/dev/null)" ''
is 'nothing that it was asked failed' "$(systemctl --failed --no-legend --no-pager)" ''

old_runtime cri-o crio /var/run/crio/crio.sock
follow 'Coming from CRI-O' 1
serving
is 'CRI-O is removed, its configuration is not' \
	"$(dpkg-query -W -f '${db:Status-Status}' cri-o) $(ls /etc/crio/*.conf)" 'config-files /etc/crio/crio.conf'
has 'it is read' "$(berth config 2>/dev/null)" 'pids_limit = 4321'
is 'its service is ours' "$(systemctl is-active crio) $(systemctl show -p Id --value crio)" 'active berth.service'
is 'so are its commands' "$(crio --version) $(crio wipe | head -c 15)" "$(berth --version) nothing to wipe"
follow 'Coming from CRI-O' 2
moved CRI-O
mkdir -p /etc/crio/crio.conf.d
inline 'printf .\[crio.api\]'
serving_old() { crictl --runtime-endpoint unix:///var/run/crio/crio.sock version; }
until_ok 60 serving_old
is 'or it keeps the old socket' "$(serving_old 2>&1 | grep -c 'RuntimeName: *berth')" 1
inline 'rm -rf /var/lib/containers'
apt-get -q purge berth cri-o >/dev/null 2>&1
rm -rf /etc/crio

old_runtime containerd containerd /run/containerd/containerd.sock
printf 'runtime-endpoint: unix:///run/containerd/containerd.sock\n' >/etc/crictl.yaml
follow 'Coming from containerd' 1
follow 'Coming from CRI-O' 2
inline 'crictl config --set'
serving
moved containerd
is 'containerd is there, and off' "$(systemctl is-enabled containerd; systemctl is-active containerd)" \
	'disabled
inactive'
start_berth
is 'an image comes as a file' "$(NAME=localhost/moved:1 FILE=/host/berth/build/embedded-image bash -c \
	'berth import "$FILE" "$NAME" >/dev/null && crictl images -q "$NAME" | wc -l')" 1
systemctl stop kubelet
crictl rmp -fa >/dev/null 2>&1
apt-get -q purge berth >/dev/null 2>&1

follow 'Without dpkg' 1
serving
is 'it serves from where it was put' "$(readlink "/proc/$(systemctl show -p MainPID --value berth)/exe")" \
	/usr/local/lib/berth/bin/node
systemctl disable -q --now berth
(cd berth-0.1.0 && ./install.sh --uninstall)
is 'and is taken away again' "$(ls -d /usr/local/lib/berth /usr/local/bin/berth 2>/dev/null)" ''

grep '^## ' $PAGE | cut -c4- | while read -r section; do
	for number in $(seq "$(blocks "$section")"); do echo "$section $number"; done
done | sort >"$ROOM/all"
# The first builds the packages, which is done elsewhere.
is 'no block of commands was left out' "$(sort -u "$RAN" | comm -3 "$ROOM/all" - | paste -sd,)" 'A package 1'
