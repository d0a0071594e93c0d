/**
 * Root filesystems: layers on disk, overlay mounts on top of them (containerd's Snapshotter, reduced to one product).
 *
 * A layer is a directory `layers/<hex of chain id>/fs`, complete or absent: it is unpacked under `layers/.tmp-*` and
 * renamed into place after everything in it is on disk. A container's root is an overlay mount of its image's layers
 * with an upper directory of its own, all under `rootfs/<container id>`; `destroy` finds it by id alone.
 */

export { OverlayRootfs, type OverlayOptions } from './overlay.ts';
