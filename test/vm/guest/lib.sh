# For the suites in the virtual machine: what they say, and how they ask for pods and containers.
# A suite prints `ok TITLE`, `FAIL TITLE: why` or `skip TITLE: why`, a line each.
# shellcheck shell=bash
IMAGE=localhost/berth/busybox:latest
# Copied from, also where a package is installed, which has no image.
TREE=/host/berth/build
CGROUPS=/sys/fs/cgroup
MACHINE=${MACHINE:-uml}
# How many times longer everything takes here than on a machine.
SLOWNESS=${SLOWNESS:-1}
RUNTIME=${RUNTIME:-}
ROOM=/tmp/berth-suite
mkdir -p "$ROOM"

ok() { echo "ok $1"; }
fail() { echo "FAIL $1: $(tr '\n' ' ' <<<"$2" | cut -c1-600)"; }
skip() { echo "skip $1: $2"; }

is() { # TITLE GOT WANTED
	if [ "$2" = "$3" ]; then ok "$1"; else fail "$1" "is '$2', want '$3'"; fi
}

isnt() { # TITLE GOT UNWANTED
	if [ "$2" != "$3" ]; then ok "$1"; else fail "$1" "is '$2'"; fi
}

has() { # TITLE TEXT PART
	case $2 in
	*"$3"*) ok "$1" ;;
	*) fail "$1" "'$3' is not in '$2'" ;;
	esac
}

lacks() { # TITLE TEXT PART
	case $2 in
	*"$3"*) fail "$1" "'$3' is in '$2'" ;;
	*) ok "$1" ;;
	esac
}

need() { # WHAT ID: ends the suite if it was not made
	[ -n "$2" ] && return
	fail "$1" 'it could not be made; see above'
	exit 1
}

until_ok() { # SECONDS COMMAND…: until it succeeds; seconds of a machine
	local end=$((SECONDS + $1 * SLOWNESS))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

prints() { [ "$(eval "$2")" = "$1" ]; } # WANTED COMMAND

soon() { # TITLE COMMAND WANTED: it prints that, if not now then before long; of what somebody else has yet to do
	until_ok 30 prints "$3" "$2"
	is "$1" "$(eval "$2")" "$3"
}

serving() { until_ok 120 crictl version; }

start_berth() { # with an image
	systemctl start berth
	crictl images -q "$IMAGE" | grep -q . || berth import $TREE/embedded-image "$IMAGE" >/dev/null
}

pod() { # NAME [LINUX [MORE]]: prints its id; LINUX and MORE are JSON
	jq -nc --arg name "$1" --argjson linux "${2:-"{}"}" --argjson more "${3:-"{}"}" '{
		metadata: {name: $name, uid: ("uid-" + $name), namespace: "default", attempt: 0},
		log_directory: ("/var/log/pods/" + $name), linux: $linux} * $more' >"$ROOM/pod-$1.json"
	crictl runp --runtime="$RUNTIME" "$ROOM/pod-$1.json"
}

container() { # POD-ID POD-NAME NAME [COMMAND [MORE]]: makes it, prints its id
	local command=${4:-'["sleep","1000000"]'}
	jq -nc --arg name "$3" --argjson command "$command" --argjson more "${5:-"{}"}" --arg image "$IMAGE" '{
		metadata: {name: $name, attempt: 0}, image: {image: $image}, command: $command,
		log_path: ($name + ".log"), linux: {}} * $more' >"$ROOM/container-$3.json"
	crictl create "$1" "$ROOM/container-$3.json" "$ROOM/pod-$2.json"
}

run() { # the same, and starts it
	local id
	id=$(container "$@") && crictl start "$id" >/dev/null && echo "$id"
}

is_itself() { case $(readlink "/proc/$1/exe") in *runc* | *crun*) false ;; esac; }

pid_of() { # of a container that was started: the runtime becomes its program, with its labels, a moment later
	local pid
	pid=$(crictl inspect "$1" | jq .info.pid)
	until_ok 10 is_itself "$pid"
	echo "$pid"
}

cgroup_of() { echo "$CGROUPS$(cut -d: -f3 "/proc/$(pid_of "$1")/cgroup")"; }

scope_of() { # crun puts the processes a level below the scope
	local directory
	directory=$(cgroup_of "$1")
	echo "${directory%/container}"
}

scopes() { systemctl list-units --no-legend --no-pager 'berth-*.scope' 'crio-*.scope'; }

slices() { systemctl list-units --no-legend --no-pager '*berth*.slice'; }

state() { crictl inspect "$1" | jq -r '.status | "\(.state | sub("CONTAINER_"; "")) \(.reason) \(.exitCode)"'; }

has_ended() { case $(state "$1") in EXITED*) true ;; *) false ;; esac; }

ending() { # how it ended, once it has
	until_ok 60 has_ended "$1"
	state "$1"
}
