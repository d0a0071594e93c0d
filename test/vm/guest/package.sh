#!/bin/bash
# The package on a node that has never seen it: install, upgrade under running pods, downgrade, remove, purge.
. "${0%/*}/lib.sh"

packages=/host/packages
apt_get() { # what it says goes to the end of the console of the suite if it fails
	apt-get -y -q "$@" >"$ROOM/apt.log" 2>&1
}
seconds_since() { awk -v began="$1" '{ printf "%.1f", $1 - began }' /proc/uptime; }
now() { cut -d' ' -f1 /proc/uptime; }
is_ready() { crictl info 2>/dev/null | jq -e '[.status.conditions[].status] | length > 0 and all'; }
pids() { for each in $(crictl ps -q | sort); do pid_of "$each"; done | sort -n | paste -sd' '; }
alive() { for each in $1; do [ -e "/proc/$each/exe" ] && echo "$each"; done | paste -sd' '; }

began=$(now)
apt_get install $packages/berth_0.1.0_amd64.deb
is 'it installs' "$? $(tail -n 3 "$ROOM/apt.log" | grep -i error)" '0 '
installed=$(seconds_since "$began")
until_ok 60 is_ready
whole=$(seconds_since "$began")
echo "package: apt took $installed s, Ready after $whole s"
is 'crictl info is Ready' "$(is_ready)" true
is 'in under ten seconds after apt is done' "$(awk -v a="$installed" -v b="$whole" 'BEGIN { print (b - a < 10) }')" 1
is 'the service is enabled, and is crio.service, too' \
	"$(systemctl is-enabled berth) $(systemctl show -p Id --value crio.service)" 'enabled berth.service'
is 'what is installed is what the package has' "$(dpkg --verify berth)" ''
is 'its own Node runs it' "$(readlink "/proc/$(systemctl show -p MainPID --value berth)/exe")" /usr/lib/berth/bin/node
has 'its version' "$(berth --version)" 0.1.0
berth check >"$ROOM/check.log" 2>&1
lacks 'berth check finds no fault' "$(cat "$ROOM/check.log")" FAULT

start_berth
for number in $(seq 20); do
	pod=$(pod "p$number")
	[ -n "$(run "$pod" "p$number" "c$number")" ] || fail 'a container' "$number"
done
before=$(pids)
is 'twenty containers run' "$(wc -w <<<"$before")" 20
daemon=$(systemctl show -p MainPID --value berth)
apt_get install $packages/berth_0.2.0_amd64.deb
is 'it is upgraded' $? 0
serving
isnt 'another daemon serves' "$(systemctl show -p MainPID --value berth)" "$daemon"
has 'of the newer version' "$(berth --version)" 0.2.0
is 'every process lives on' "$(alive "$before")" "$before"
is 'and the daemon knows them' "$(pids)" "$before"
is 'exec after that' "$(crictl exec "$(crictl ps -q | head -n 1)" echo hello)" hello
is 'the upgrade left no process over' "$(journalctl -b -u berth --no-pager | grep -c left-over)" 0

apt_get install --allow-downgrades $packages/berth_0.1.0_amd64.deb
isnt 'a downgrade is refused' $? 0
has 'with the remedy' "$(cat "$ROOM/apt.log")" 'crictl rmp'
is 'and the newer one serves' \
	"$(crictl version | grep -c RuntimeVersion) $(dpkg-query -W -f '${Version}' berth)" '1 0.2.0'

echo '# mine' >>/etc/berth/berth.conf
apt_get remove berth
is 'it is removed' $? 0
is 'no daemon runs' "$(systemctl is-active berth)" inactive
is 'containers live on without it' "$(alive "$before")" "$before"
is 'the configuration is kept' "$(tail -n 1 /etc/berth/berth.conf)" '# mine'
apt_get install $packages/berth_0.2.0_amd64.deb
serving
is 'installed again, it has its containers back' "$(pids)" "$before"

apt_get purge berth
is 'it is purged' $? 0
until_ok 30 eval '[ -z "$(alive "$before")" ]'
is 'containers are gone' "$(alive "$before")" ''
is 'so are its directories' "$(ls -d /run/berth /var/lib/berth /var/cache/berth /etc/berth 2>/dev/null)" ''
is 'its mounts' "$(grep -c /berth/ /proc/self/mountinfo)" 0
soon 'its scopes' 'scopes | wc -l' 0
soon 'its slices' 'slices | wc -l' 0
is 'nothing failed in the manager' "$(systemctl --failed --no-legend --no-pager)" ''
