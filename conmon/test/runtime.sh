#!/bin/sh
# A runtime as far as a monitor can tell: takes runc's command line, starts the bundle's `program`
# (or, for exec, the file given as process document) as the container, leaves its pid, and goes.
# RUNTIME_TRACE gets the arguments, one per line. RUNTIME_PRELUDE is run first and may misbehave.
# The container leads a session of its own, as real ones do. RUNTIME_ADOPT is the pid of a process to pass off as the
# container.
[ -n "$RUNTIME_TRACE" ] && printf '%s\n' "$@" > "$RUNTIME_TRACE"
while [ $# -gt 0 ]; do
	case $1 in
	--pid-file) pidfile=$2; shift ;;
	--bundle) program=$2/program; shift ;;
	--process) program=$2; shift ;;
	esac
	shift
done
[ -n "$RUNTIME_PRELUDE" ] && eval "$RUNTIME_PRELUDE"
if [ -n "$RUNTIME_ADOPT" ]; then printf %s "$RUNTIME_ADOPT" > "$pidfile"; exit 0; fi
# A shell turns the stdin of what it runs in the background to /dev/null, hence descriptor 9; and it
# may collect its children, hence the one more process in between, which is gone at once.
exec 9<&0
rm -f "$pidfile"
( sh -c 'printf %s $$ > "$1.new"; mv "$1.new" "$1"; exec setsid sh "$2"' - "$pidfile" "$program" <&9 9<&- & )
while [ ! -s "$pidfile" ]; do :; done
