# Part of smoke.sh, where the kernel has all of it: two CPUs, cpuset, hugetlb, PSI and NAT.
# shellcheck shell=bash

is 'two CPUs' "$(nproc)" 2
limited=$(pod whole '{"cgroup_parent": "kubepods-podwhole.slice"}')
id=$(run "$limited" whole whole '["sleep", "1000000"]' '{"linux": {"resources": {"cpuset_cpus": "1", "cpuset_mems": "0",
	"hugepage_limits": [{"page_size": "2MB", "limit": 4194304}]}}}')
need 'a container with cpuset and hugetlb' "$id"
cgroup=$(cgroup_of "$id")
is 'cpuset.cpus.effective' "$(cat "$cgroup/cpuset.cpus.effective")" 1
process=$(crictl inspect "$id" | jq .info.pid)
is 'and the process knows' "$(grep Cpus_allowed_list "/proc/$process/status" | cut -f2)" 1
crictl update --cpuset-cpus 0 "$id" >/dev/null
is 'cpuset.cpus.effective after an update' "$(cat "$cgroup/cpuset.cpus.effective")" 0
is 'and the process moves' "$(grep Cpus_allowed_list "/proc/$process/status" | cut -f2)" 0
is 'hugetlb.2MB.max' "$(cat "$(scope_of "$id")/hugetlb.2MB.max")" 4194304
pressure=$(crictl stats -o json --id "$id" | jq -c '.stats[0] | [.cpu, .memory, .io | .psi != null]')
is 'pressure of CPU, memory and I/O' "$pressure" '[true,true,true]'

# Somebody beyond the node, who knows no way to pods.
ip netns add beyond
ip link add node type veth peer name far netns beyond
ip address add 192.0.2.1/24 dev node
ip link set node up
ip -n beyond address add 192.0.2.2/24 dev far
ip -n beyond link set far up
server=$(pod server '{"cgroup_parent": "kubepods-podserver.slice"}' \
	'{"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": 8080}]}')
id=$(run "$server" server server '["sh", "-c", "while :; do echo hello | nc -l -p 80; done"]')
need 'a container with a host port' "$id"
greeting() { busybox nc "$1" 8080 </dev/null; }
for address in 127.0.0.1 192.0.2.1; do
	until_ok 30 eval "greeting $address | grep -q hello"
	is "the host port answers on $address" $? 0
done
until_ok 30 eval 'ip netns exec beyond busybox nc 192.0.2.1 8080 </dev/null | grep -q hello'
is 'and beyond the node' $? 0
ip netns exec beyond busybox nc -ll -p 9000 -e echo far &
listener=$!
until_ok 30 eval 'crictl exec "$id" sh -c "nc 192.0.2.2 9000 </dev/null" | grep -q far'
is 'a pod is translated on its way out, or there would be no way back' $? 0
kill $listener
crictl rmp -f "$server" >/dev/null 2>&1
is 'nothing of it is left in the packet filter' "$(nft list ruleset | grep -c -e "$server" -e 'dport 8080')" 0
ip link del node
ip netns del beyond
