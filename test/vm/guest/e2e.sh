#!/bin/bash
# One suite of test/e2e, with daemons of its own on private ground, as `npm run e2e` gives it to them.
set -uo pipefail
export BERTH_BUILD=/host/berth/build/ BERTH_NODE=/host/berth/node PATH=/host/berth/bin:$PATH
export MACHINE=${MACHINE:-uml} BERTH_BUSY_MAX_MS=3000
install -d /host/berth/bin
ln -sfn ../node /host/berth/bin/node
cd /host/sources || exit 1
exec unshare --mount --net --propagation private sh -c 'ip link set lo up && exec "$@"' sh \
	node node_modules/mocha/bin/mocha.js --exit --timeout 180000 --retries 1 \
	--reporter scripts/reporter.cjs --reporter-option "file=/host/out/e2e-$1.json" "test/e2e/$1.e2e.ts"
