#!/bin/bash
# What CRI-O's keys and annotations do that takes systemd or cgroup v2 to be seen.
. "${0%/*}/lib.sh"

HANDLER=${RUNTIME:-crun}
configure() { # TOML: what is in force from here on
	mkdir -p /etc/berth/berth.conf.d
	echo "$1" >/etc/berth/berth.conf.d/50-crio.conf
	systemctl restart berth
	serving
}
monitor_cgroup() { cut -d: -f3 "/proc/$(cat "/run/berth/containers/$1/conmon.pid")/cgroup"; }
entries() { journalctl -b --no-pager -o json "CONTAINER_ID_FULL=$1"; }
has_entry() { entries "$1" | grep -q "$2"; }

start_berth

configure "[crio.runtime]
log_to_journald = true
[crio.runtime.runtimes.$HANDLER]
monitor_cgroup = \"crioone.slice\"
allowed_annotations = [\"unified-cgroup.crio.io\", \"org.systemd.property.\"]"
pod=$(pod keys '{}' '{"annotations": {
	"unified-cgroup.crio.io/keys": "memory.high=NjcxMDg4NjQ=;pids.max=123",
	"org.systemd.property.CollectMode": "'"'inactive-or-failed'"'"}}')
container=$(run "$pod" keys keys '["sh", "-c", "echo told to the journal; exec sleep 1000000"]')
need 'a container' "$container"
has 'monitor_cgroup, the monitor is in that slice' "$(monitor_cgroup "$container")" /crioone.slice/berth-conmon-
until_ok 20 has_entry "$container" 'told to the journal'
said='select(.MESSAGE == "told to the journal") | .CONTAINER_ID == .CONTAINER_ID_FULL[:12]'
is 'log_to_journald, the journal has what the container says' "$(entries "$container" | jq -r "$said")" true
soon 'log_to_journald, and so has its log' 'crictl logs "$container"' 'told to the journal'
own=$(cgroup_of "$container")
is 'unified-cgroup, files of its cgroup are what the annotation says, in base64 or as it is' \
	"$(cat "$own/memory.high" "$own/pids.max" | paste -sd' ')" '67108864 123'
scope=$(scope_of "$container")
is 'org.systemd.property, its scope has the property' \
	"$(systemctl show -p CollectMode --value "${scope##*/}")" inactive-or-failed

configure '[crio.runtime]
conmon_cgroup = "criotwo.slice"'
other=$(run "$pod" keys other)
has 'conmon_cgroup, the monitor is in that slice, whatever its handler says' \
	"$(monitor_cgroup "$other")" /criotwo.slice/berth-conmon-
is 'the one from before stays where it is' "$(cut -d/ -f2 <<<"$(monitor_cgroup "$container")")" crioone.slice
is 'no journal where nobody asked for it' "$(entries "$other" | wc -l)" 0

configure '[crio.runtime]
conmon_cgroup = "pod"'
third=$(run "$pod" keys third)
lacks 'conmon_cgroup = "pod", the monitor is outside the pod, which it has to outlive' \
	"$(monitor_cgroup "$third")" kubepods

rm /etc/berth/berth.conf.d/50-crio.conf
crictl rmp -fa >/dev/null 2>&1
