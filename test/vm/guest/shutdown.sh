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
for name in one two three; do
	if [ $name = three ]; then set -- "$lone" alone; else set -- "$shared" bye; fi
	run "$@" "$name" \
		'["sh", "-c", "trap \"echo TERM; sleep 2; echo bye; exit 0\" TERM; echo up; while :; do sleep 0.1; done"]' \
		'{"annotations": {"io.kubernetes.pod.terminationGracePeriod": "20"}}' >/dev/null
done
is 'containers are up' "$(crictl ps -q | wc -l)" 3
# What systemd says goes to the host as it comes: the journal of the machine ends with it.
systemd-run -q --unit=lastwords -p DefaultDependencies=no -p SendSIGKILL=no \
	sh -c 'trap "" TERM; exec journalctl -b -f -n all -o short-monotonic >/host/out/shutdown/journal.log'
until_ok 30 grep -q serving /host/out/shutdown/journal.log
