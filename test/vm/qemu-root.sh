#!/bin/bash
# Run inside a copy of the root filesystem: adds QEMU, and Debian's kernel with an initrd that knows virtio and 9p only.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin

apt-get update -q
apt-get install -y -q --no-install-recommends qemu-system-x86 xz-utils zstd

# Unpacked rather than installed, which would want an initrd of the full size and a boot loader.
mkdir /kernel
cd /kernel
depends() { apt-cache depends "$1" | sed -n "s/.*Depends: \($2\)/\1/p"; }
image=$(depends linux-image-amd64 'linux-image-.*' | head -n 1)
more=$(depends "$image" 'linux-\(binary\|modules\|image\).*')
# shellcheck disable=SC2086
apt-get download -q -o APT::Sandbox::User=root "$image" $more
for package in *.deb; do dpkg-deb --extract "$package" /; done
cd /
rm -r /kernel
release=$(basename /lib/modules/*)
depmod "$release"
mv "/boot/vmlinuz-$release" /boot/vmlinuz

initrd=/boot/initrd
mkdir -p "$initrd"/{bin,lib,dev,proc,sys,root}
cp /bin/busybox "$initrd/bin/"
for module in virtio_pci virtio_blk virtio_rng ext4 9pnet_virtio 9p; do
	modprobe --set-version "$release" --show-depends --ignore-install "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
	name=$(basename "$file")
	name=${name%.xz}
	name=${name%.zst}
	case $file in
	*.xz) xz -dc "$file" ;;
	*.zst) zstd -qdc "$file" ;;
	*) cat "$file" ;;
	esac >"$initrd/lib/$name"
	echo "$name" >>"$initrd/modules"
done
cat >"$initrd/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in $(cat /modules); do insmod "/lib/$module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 600 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
mount -t ext4 -o rw,noatime /dev/vda /root || exec sh
umount /sys /proc
exec switch_root /root /sbin/init
INIT
chmod +x "$initrd/init"
(cd "$initrd" && find . | busybox cpio -o -H newc) >/boot/initrd.img
rm -r "$initrd"
apt-get clean
