#!/bin/bash
# Containers that take their time to say goodbye; the host then shuts the machine down, and looks at what they said.
. "${0%/*}/lib.sh"

start_berth
rm -rf /host/out/shutdown
mkdir -p /host/out/shutdown
# One pod shares a PID namespace, which ends with its infra container, and one does not.
shared=$(pod bye '{"cgroup_parent": "kubepods-podbye.slice"}' '{"log_directory": "/host/out/shutdown"}')
lone=$(pod alone '{"cgroup_parent": "kubepods-podalone.slice",
	"security_context": {"namespace_options": {"pid": 1}}}' '{"log_directory": "/host/out/shutdown"}')
# With both streams in one its lines have one order. The shell of busybox says how what it waits for was killed: from
# the first TERM on nothing is, since systemd looks for new processes until it finds none, and TERM may come to them,
# too.
program='exec 2>&1
	trap "trap \"\" TERM; echo TERM; sleep 2; echo bye; exit 0" TERM
	echo up
	while :; do sleep 0.1; done'
for name in one two three; do
	if [ $name = three ]; then set -- "$lone" alone; else set -- "$shared" bye; fi
	run "$@" "$name" "$(jq -nc --arg program "$program" '["sh", "-c", $program]')" \
		'{"annotations": {"io.kubernetes.pod.terminationGracePeriod": "20"}}' >/dev/null
done
# Who has not said so heeds no signal yet.
all_up() { [ "$(cat /host/out/shutdown/{one,two,three}.log | grep -c ' up$')" = 3 ]; }
until_ok 30 all_up
is 'containers are up' "$? $(crictl ps -q | wc -l)" '0 3'
# What systemd says goes to the host as it comes: the journal of the machine ends with it.
systemd-run -q --unit=lastwords -p DefaultDependencies=no -p SendSIGKILL=no \
	sh -c 'trap "" TERM; exec journalctl -b -f -n all -o short-monotonic >/host/out/shutdown/journal.log'
until_ok 30 grep -q serving /host/out/shutdown/journal.log
