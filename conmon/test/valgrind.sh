#!/bin/sh
# A monitor under valgrind, for CONMON: what it finds is in $VALGRIND_LOGS, one file per process.
exec valgrind -q --leak-check=full --show-leak-kinds=definite,indirect,possible \
	--errors-for-leak-kinds=definite,indirect,possible \
	--trace-children=no --child-silent-after-fork=no --log-file="${VALGRIND_LOGS:-/tmp/conmon-valgrind}/%p" \
	"$(dirname "$0")/../../build/bin/conmon-dynamic" "$@"
