#!/bin/bash
# Profiles of AppArmor: the default one, those of the node by both of their spellings, and those that are not there.
. "${0%/*}/lib.sh"

profiles=/sys/kernel/security/apparmor/profiles
start_berth
has 'default profile is loaded' "$(cat $profiles)" 'berth-default (enforce)'
pod=$(pod aa '{"cgroup_parent": "kubepods-podaa.slice"}')

profiled() { # NAME CONTEXT: a container with this security context
	run "$pod" aa "$1" '["sleep", "1000"]' "{\"linux\": {\"security_context\": $2}}" 2>&1
}
profile_of() { cat "/proc/$(pid_of "$1")/attr/current" 2>/dev/null; }

is 'default profile' "$(profile_of "$(profiled plain '{}')")" 'berth-default (enforce)'
echo 'profile suite flags=(attach_disconnected, mediate_deleted) {
	file, capability, network, signal, deny /etc/passwd r,
}' | apparmor_parser -r
for reference in suite localhost/suite; do
	name=${reference/\//-}
	is "new field, $reference" \
		"$(profile_of "$(profiled "new-$name" "{\"apparmor\": {\"profile_type\": 2, \"localhost_ref\": \"$reference\"}}")")" \
		'suite (enforce)'
	is "old field, localhost/$reference" \
		"$(profile_of "$(profiled "old-$name" "{\"apparmor_profile\": \"localhost/$reference\"}")")" 'suite (enforce)'
done
is 'unconfined' "$(profile_of "$(profiled free '{"apparmor": {"profile_type": 1}}')")" unconfined

refused=$(profiled absent '{"apparmor": {"profile_type": 2, "localhost_ref": "not-loaded"}}')
has 'profile that is not loaded is named' "$(tr -d '\\"' <<<"$refused")" \
	'AppArmor profile not-loaded is not loaded on this node'
has 'and the remedy' "$refused" apparmor_parser
echo -n berth-default >/sys/kernel/security/apparmor/.remove
lacks 'default profile is unloaded' "$(cat $profiles)" berth-default
is 'default profile is loaded again' "$(profile_of "$(profiled again '{}')")" 'berth-default (enforce)'
crictl rmp -fa >/dev/null 2>&1
