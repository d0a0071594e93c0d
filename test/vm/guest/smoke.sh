#!/bin/bash
# Berth as a service on a node with systemd and cgroup v2: what an operator would look at.
. "${0%/*}/lib.sh"

took() { # milliseconds from the daemon's first instruction until it was ready
	echo $((($(systemctl show -p ActiveEnterTimestampMonotonic --value berth) - \
		$(systemctl show -p ExecMainStartTimestampMonotonic --value berth)) / 1000))
}

is_starting() {
	[ "$(systemctl show -p ActiveState --value berth)" = activating ] &&
		systemctl show -p StatusText --value berth | grep -q '^starting: '
}

slow_start() { # a start that takes longer than systemd waits asks for more time, and says what it does meanwhile
	local program limit slow
	program=$(command -v "${RUNTIME:-crun}")
	limit=$(($(took) + 3000))
	printf '#!/bin/sh\ncase " $* " in *" delete "*) sleep %s ;; esac\nexec %s "$@"\n' $((limit / 1000 + 4)) "$program" \
		>"$ROOM/slow"
	chmod 755 "$ROOM/slow"
	printf '[Service]\nEnvironment="BERTH_OPTIONS=--runtimes slow:%s" BERTH_FAILPOINTS=%s\nTimeoutStartSec=%sms\n' \
		"$ROOM/slow" container.removing.after=kill "$limit" >/run/systemd/system/berth.service.d/99-slow.conf
	systemctl daemon-reload
	systemctl restart berth
	slow=$(RUNTIME=slow pod slow)
	# The daemon dies while it removes this one, and the next has that to do before it serves.
	crictl rm "$(container "$slow" slow slow)" >/dev/null 2>&1
	until_ok 30 is_starting
	is 'status of a start' $? 0
	serving
	is 'a start that goes on may take longer than its time' "$(($(took) > limit))" 1
	is 'it was not begun twice' "$(systemctl show -p NRestarts --value berth)" 1
	is 'and has done what was to do' "$(crictl ps -aq --pod "$slow")" ''
	crictl rmp -f "$slow" >/dev/null
	rm /run/systemd/system/berth.service.d/99-slow.conf
	systemctl daemon-reload
	systemctl restart berth
}

start_berth
is 'unit is active' "$(systemctl is-active berth)" active
is 'cgroup driver' "$(crictl runtime-config 2>/dev/null | grep -oi systemd | head -n 1 | tr A-Z a-z)" systemd
is 'process is called berth' "$(cat "/proc/$(systemctl show -p MainPID --value berth)/comm")" berth
has 'status line' "$(systemctl show -p StatusText --value berth)" serving
is 'no warning for a variable of the unit' "$(journalctl -b -u berth -p warning --no-pager | grep -c BERTH_OPTIONS)" 0

. "${0%/*}/unit.sh"

slice=kubepods-burstable-pod11112222_3333_4444_5555_666677778888.slice
pod=$(pod limits "{\"cgroup_parent\": \"/kubepods.slice/kubepods-burstable.slice/$slice\"}")
container=$(run "$pod" limits limits \
	'["sh", "-c", "trap \"exit 7\" TERM; while :; do sleep 0.1; done"]' \
	'{"linux": {"resources": {"cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512,
		"memory_limit_in_bytes": 67108864, "unified": {"memory.high": "50331648"}}}}')
need 'a container' "$container"
cgroup=$(cgroup_of "$container")
scope=$(scope_of "$container")
unit=${scope##*/}

is "scope in the pod's slice" "$scope" "$CGROUPS/kubepods.slice/kubepods-burstable.slice/$slice/crio-$container.scope"
is 'scope is delegated' "$(systemctl show -p Delegate --value "$unit")" yes
is 'cpu.max' "$(cat "$scope/cpu.max")" '50000 100000'
is 'memory.max' "$(cat "$scope/memory.max")" 67108864
is 'memory.high' "$(cat "$cgroup/memory.high")" 50331648
is 'memory.swap.max' "$(cat "$cgroup/memory.swap.max")" 0
is "no limit of tasks beyond the kubelet's" "$(cat "$scope/pids.max")" max
monitor_cgroup=$(cut -d: -f3 "/proc/$(cat "/run/berth/containers/$container/conmon.pid")/cgroup")
has 'monitor is in a scope of its own' "$monitor_cgroup" /system.slice/berth-conmon-
# And for a moment what it asks a runtime.
soon 'the unit holds the daemon only' 'wc -l <"$CGROUPS/system.slice/berth.service/cgroup.procs"' 1
has 'scope ends before the daemon at shutdown' "$(systemctl show -p After --value "$unit")" berth.service

crictl update --cpu-quota 20000 --cpu-period 100000 --memory 134217728 "$container" >/dev/null
is 'cpu.max after an update' "$(cat "$scope/cpu.max")" '20000 100000'
is 'memory.max after an update' "$(cat "$scope/memory.max")" 134217728
crictl update --cpu-quota 80000 --cpu-period 100000 "$container" >/dev/null
is 'cpu.max after a resize up' "$(sort -u "$scope/cpu.max" "$cgroup/cpu.max")" '80000 100000'
crictl update --cpu-quota 30000 --cpu-period 100000 "$container" >/dev/null
is 'cpu.max after a resize down' "$(sort -u "$scope/cpu.max" "$cgroup/cpu.max")" '30000 100000'
crictl update --cpu-quota -1 "$container" >/dev/null
is 'cpu.max after the limit is taken away' "$(cut -d' ' -f1 "$scope/cpu.max" "$cgroup/cpu.max" | sort -u)" max
systemctl daemon-reload
is 'cpu.max after a daemon-reload' "$(cut -d' ' -f1 "$scope/cpu.max")" max
is 'memory.max after a daemon-reload' "$(cat "$scope/memory.max")" 134217728
statistics=$(crictl stats -o json --id "$container")
is 'swap that is available' "$(jq -r '.stats[0].swap.swapAvailableBytes.value' <<<"$statistics")" 0
off=$(($(jq -r '.stats[0].memory.usageBytes.value' <<<"$statistics") - $(cat "$scope/memory.current")))
is 'memory in statistics' "$((${off#-} < 1048576))" 1

systemctl restart berth
is 'runs after a restart' "$(state "$container")" 'RUNNING  0'
systemctl kill --signal=KILL berth
until_ok 60 eval '! systemctl is-active -q berth || [ "$(systemctl show -p NRestarts --value berth)" != 0 ]'
serving
is 'runs after every process of the unit was killed' "$(state "$container")" 'RUNNING  0'
is 'exec after that' "$(crictl exec "$container" echo hello)" hello
is 'journal has no left-over processes' "$(journalctl -b -u berth --no-pager | grep -c left-over)" 0

echo 1 >"$cgroup/cgroup.freeze"
until_ok 30 grep -q 'frozen 1' "$cgroup/cgroup.events"
has 'exec in a paused container' "$(crictl exec -s --timeout 5 "$container" true 2>&1)" paused
echo 0 >"$cgroup/cgroup.freeze"
crictl stop -t $((10 * SLOWNESS)) "$container" >/dev/null
is 'exit code of a program that heeds SIGTERM' "$(state "$container")" 'EXITED Error 7'
soon 'scope is gone' 'systemctl is-active "$unit"' inactive

endings=
for number in 1 2 3 4 5; do
	killed=$(run "$pod" limits "oom$number" '["sh", "-c", "tail /dev/zero"]' \
		'{"linux": {"resources": {"memory_limit_in_bytes": 15728640}}}')
	endings+="$(ending "$killed");"
done
is 'OOMKilled five times' "$endings" "$(printf 'EXITED OOMKilled 137;%.0s' 1 2 3 4 5)"

device=$(run "$pod" limits device '["sleep", "1000"]' \
	'{"linux": {"security_context": {"capabilities": {"add_capabilities": ["MKNOD"]}}}}')
has 'device that is not allowed' \
	"$(crictl exec "$device" sh -c 'mknod /tmp/m c 1 11; head -c1 /tmp/m' 2>&1)" 'not permitted'
has 'device that is allowed' "$(crictl exec "$device" sh -c 'echo x >/dev/null && echo fine' 2>&1)" fine

mapping='[{"host_id": 200000, "container_id": 0, "length": 65536}]'
userns="{\"namespace_options\": {\"userns_options\": {\"mode\": 0, \"uids\": $mapping, \"gids\": $mapping}}}"
if crictl info | jq -e --arg name "$RUNTIME" \
	'.runtimeHandlers[] | select((.name // "") == $name) | .features.user_namespaces' >/dev/null; then
	mapped=$(pod mapped "{\"cgroup_parent\": \"kubepods-podmapped.slice\", \"security_context\": $userns}")
	inside=$(run "$mapped" mapped inside '["sleep", "1000"]' "{\"linux\": {\"security_context\": $userns}}")
	has 'user namespace' "$(crictl exec "$inside" cat /proc/self/uid_map)" 200000
else
	skip 'user namespace' "$RUNTIME here has no idmapped mounts"
fi

# The unit's memory is the daemon's, and a daemon that hangs is started anew while its containers go on.
sleeper=$(run "$pod" limits sleeper)
main=$(systemctl show -p MainPID --value berth)
mkdir -p /run/systemd/system/berth.service.d
patience=$((5 * SLOWNESS))
printf '[Service]\nWatchdogSec=%s\n' "$patience" >/run/systemd/system/berth.service.d/soon.conf
systemctl daemon-reload
systemctl restart berth
main=$(systemctl show -p MainPID --value berth)
sleep $((patience * 3 / 2))
soon 'the status counts' 'systemctl show -p StatusText --value berth' \
	"serving $(crictl pods -q | wc -l) pods, $(crictl ps -aq | wc -l) containers"
is 'watchdog leaves a daemon in health alone' "$(systemctl show -p MainPID --value berth)" "$main"
kill -STOP "$main"
until_ok 180 eval '[ "$(systemctl show -p NRestarts --value berth)" -gt 0 ] && [ ! -e "/proc/$main" ]'
serving
isnt 'watchdog starts a daemon anew that hangs' "$(systemctl show -p MainPID --value berth)" "$main"
is 'its containers run' "$(state "$sleeper")" 'RUNNING  0'
# A running daemon keeps the watchdog that it was started with.
rm /run/systemd/system/berth.service.d/soon.conf
systemctl daemon-reload
systemctl restart berth
kill -STOP "$(systemctl show -p MainPID --value berth)"
(sleep 4; kill -CONT "$(systemctl show -p MainPID --value berth)") &
berth --timeout $((60 * SLOWNESS)) import $TREE/embedded-image localhost/waited:1 >/dev/null 2>&1
is 'a command waits as long as it is told to' "$(crictl images -q localhost/waited:1 | wc -l)" 1
wait
start=$SECONDS
kill -STOP "$(systemctl show -p MainPID --value berth)"
berth --timeout 1 version >/dev/null 2>&1
is 'and no longer' "$((SECONDS - start < 8 * SLOWNESS))" 1
kill -CONT "$(systemctl show -p MainPID --value berth)"

own=$(pod own '{"resources": {"cpu_period": 100000, "cpu_quota": 150000, "memory_limit_in_bytes": 268435456},
	"overhead": {"memory_limit_in_bytes": 1048576}}')
lone=$(run "$own" own lone)
has 'a pod without a parent has a slice of ours' "$(scope_of "$lone")" \
	"/system.slice/system-berth_pod$own.slice/crio-$lone.scope"
is 'and what its config says of it' "$(cat "$(dirname "$(scope_of "$lone")")"/{cpu,memory}.max | paste -sd' ')" \
	'150000 100000 269484032'
slow_start
[ "$MACHINE" = uml ] || . "${0%/*}/whole.sh"
main=$(systemctl show -p MainPID --value berth)
berth --timeout $((60 * SLOWNESS)) status heap --file "$ROOM/heap" >/dev/null 2>&1
is "a snapshot of the heap, for its owner's eyes" "$? $(stat -c %a "$ROOM/heap")" '0 600'
has 'it is one' "$(head -c 100 "$ROOM/heap")" '{"snapshot":{"meta":'
is 'it is whole' "$(tail -c 2 "$ROOM/heap" | tr -d '\n' | tail -c 1)" '}'
is 'and the daemon serves on' \
	"$(crictl version | grep -c RuntimeVersion) $(systemctl show -p MainPID --value berth)" "1 $main"
pods=$(crictl pods -q | wc -l)
isnt 'there are pods to wipe' "$pods" 0
said=$(berth --timeout $((300 * SLOWNESS)) wipe -f 2>&1)
is 'berth wipe -f succeeds' $? 0
is 'and names each pod' "$(grep -c '^removed pod default/' <<<"$said")" "$pods"
has 'and each image' "$said" "$IMAGE"
is 'nothing is there after it' "$(crictl pods -q)$(crictl ps -aq)$(crictl images -q)" ''
is 'no property of a slice is left' \
	"$(find /run/systemd/transient /run/systemd/system.control -name '*berth_pod*' 2>/dev/null | wc -l)" 0
soon 'no scope is left' 'scopes | wc -l' 0
soon 'no slice of ours is left' 'slices | wc -l' 0
is 'no mount is left' "$(grep -c /berth/ /proc/self/mountinfo)" 0
is 'nothing failed in the manager' "$(systemctl --failed --no-legend --no-pager | wc -l)" 0
systemctl stop berth
is 'the stop is clean' "$(systemctl show -p Result --value berth)" success
