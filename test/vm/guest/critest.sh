#!/bin/bash
# critest whole, with images of a registry on loopback; its report goes to /host/out, where the host judges it.
. "${0%/*}/lib.sh"

docker-registry serve /host/images/registry.yml >/var/log/registry.log 2>&1 &
install -D /host/images/registries.conf /etc/containers/registries.conf
printf '[crio.runtime]\ndefault_runtime = "%s"\ncgroup_manager = "%s"\n' "${RUNTIME:-crun}" "${DRIVER:-systemd}" \
	>/etc/berth/berth.conf.d/runtime.conf
systemctl restart berth
serving
cd /tmp || exit 1
# shellcheck disable=SC2086
/host/critest -runtime-endpoint unix:///run/berth/berth.sock -image-endpoint unix:///run/berth/berth.sock \
	-test.timeout=0 $CRITEST_FLAGS >/host/out/critest.log 2>&1
