#!/bin/bash
# COUNT containers that run out of memory, half of them beside four busy loops: each is OOMKilled. MONITOR: conmon
. "${0%/*}/lib.sh"

COUNT=${COUNT:-200}
if [ -n "${MONITOR:-}" ]; then
	printf '[crio.runtime]\nconmon = "%s"\n' "$MONITOR" >/etc/berth/berth.conf.d/monitor.conf
	systemctl restart berth
fi
start_berth

killed() { # NAME COUNT: in one pod, as many at once; prints how each ended
	local pod ids=() id
	pod=$(pod "$1" "{\"cgroup_parent\": \"kubepods-pod$1.slice\"}")
	for number in $(seq "$2"); do
		id=$(run "$pod" "$1" "c$number" '["sh", "-c", "tail /dev/zero"]' \
			'{"linux": {"resources": {"memory_limit_in_bytes": 15728640}}}')
		[ -n "$id" ] && ids+=("$id")
	done
	for id in "${ids[@]}"; do ending "$id"; done
	crictl rmp -f "$pod" >/dev/null
}

rounds() { # NAME COUNT: in pods of 20
	local left=$2 number=0
	while [ "$left" -gt 0 ]; do
		killed "$1$number" $((left < 20 ? left : 20))
		left=$((left - 20)) number=$((number + 1))
	done | sort | uniq -c | sed 's/^ *//' | paste -sd';'
}

half=$((COUNT / 2))
is "$half on a quiet node" "$(rounds quiet $half)" "$half EXITED OOMKilled 137"
loops=()
for number in 1 2 3 4; do
	(while :; do :; done) &
	loops+=($!)
done
is "$half beside four busy loops" "$(rounds busy $half)" "$half EXITED OOMKilled 137"
kill "${loops[@]}"
# A container that ends by itself in the same place was not killed for memory.
pod=$(pod plain '{"cgroup_parent": "kubepods-podplain.slice"}')
is 'a plain 137 stays an error' "$(ending "$(run "$pod" plain plain '["sh", "-c", "exit 137"]' \
	'{"linux": {"resources": {"memory_limit_in_bytes": 15728640}}}')")" 'EXITED Error 137'
crictl rmp -fa >/dev/null 2>&1
