#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# /init of the initial ramdisk (busybox): loads the modules that the root file system takes, mounts
# the host's root read only, and goes there. machine.py puts in what stands between @s.
fail() {
	echo "vm: $*" >/dev/console
	poweroff -f
}
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in @MODULES@; do
	insmod "/modules/$module" || fail "no module $module"
done
# cache=loose: Python starts twice as fast as without; nobody else writes here during a run.
plan9=version=9p2000.L,trans=virtio,msize=512000,access=any
mount -t 9p -o "ro,cache=loose,$plan9" root /newroot || fail "the host's root file system is not there"
mount -t tmpfs run /newroot/run || fail 'the root file system has no /run'
mkdir /newroot/run/vm
mount -t 9p -o "$plan9" vm /newroot/run/vm || fail 'the exchange directory is not there'
umount /proc
umount /dev
exec switch_root /newroot /bin/bash /run/vm/setup.sh
