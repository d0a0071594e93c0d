#!/bin/sh
# The first process of a node, in namespaces of its own: gives it its own view of the kernel's file systems, then
# becomes the program that reaps. Killing it is a power cut.
#
#   node-init.sh NAME DIRECTORY PROGRAM [TYPE HIERARCHY OPTIONS]...
set -eu
name=$1 directory=$2 program=$3
shift 3
hostname "$name"
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
while [ $# -gt 0 ]; do
	mkdir "/sys/fs/cgroup/$2"
	mount -t "$1" ${3:+-o "$3"} none "/sys/fs/cgroup/$2"
	shift 3
done
# What the kubelet puts links to logs into is not to be told otherwise.
mount --bind "$directory/log" /var/log
ip link set lo up
exec "$program"
