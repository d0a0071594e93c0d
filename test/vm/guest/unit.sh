# Part of smoke.sh: what the unit asks for the daemon, as the kernel and systemd have it, and what containers get of it.
# shellcheck shell=bash

unit_says() { systemctl show -p "$1" --value berth; }
limits() { sed -n "s/^Max $1 *\([^ ]*\) *\([^ ]*\).*/\1 \2/p" "/proc/$main/limits"; }
main=$(unit_says MainPID)
is 'the kernel kills the daemon last' "$(cat "/proc/$main/oom_score_adj")" -999
is 'open files' "$(limits 'open files')" '1048576 1048576'
is 'processes and core files have no limit' "$(limits processes) $(limits 'core file size')" \
	'unlimited unlimited unlimited unlimited'
is 'nor have tasks' "$(unit_says TasksMax) $(cat $CGROUPS/system.slice/berth.service/pids.max)" 'infinity max'
is 'cgroups below the unit are its own' "$(unit_says Delegate)" yes
is 'only the daemon is ever killed, and started again' "$(unit_says KillMode) $(unit_says Restart)" 'process on-failure'
has 'it serves before a kubelet asks' " $(unit_says Before) " ' kubelet.service '
has 'and once the network is there' " $(unit_says After) " ' network-online.target '
is 'the socket is for root and its group' "$(stat -c '%a %U %G' /run/berth/berth.sock)" '660 root root'
plain=$(run "$(pod plain)" plain plain)
need 'a container' "$plain"
is "a container's score is its own" "$(cat "/proc/$(pid_of "$plain")/oom_score_adj")" 0
is 'its open files are what the daemon has' "$(crictl exec "$plain" sh -c 'ulimit -n')" 1048576
is 'its monitor is killed last of all' \
	"$(cat "/proc/$(cat "/run/berth/containers/$plain/conmon.pid")/oom_score_adj")" -1000
