# SPDX-License-Identifier: Apache-2.0
#
# Process 1 of a test machine, in the host's root file system: makes it look like a host that has
# started, runs /run/vm/command, writes its exit status to /run/vm/status, and turns the machine off.
# /run/vm/settings (from machine.py) sets: kernel, release, foreign,
# cgroups, hidden, needed.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
source /run/vm/settings

say() { echo "vm: $*" >/dev/console; }
off() {
	sync
	echo o >/proc/sysrq-trigger
	# The disk goes before the power: no more commands, and nothing left to read of this file.
	while :; do :; done
}
must() { "$@" || { say "failed: $*" && off; }; }

cgroup2() {
	must mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 "$1"
}
# One hierarchy a controller, as systemd mounts them; cpu and cpuacct, net_cls and net_prio together.
cgroup1() {
	must mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs /sys/fs/cgroup
	local name rest together
	while read -r name rest; do
		[[ $name == \#* || $rest != *1 ]] && continue
		together=$name
		case $name in
		cpuacct | net_prio) continue ;;
		cpu) together=cpu,cpuacct ;;
		net_cls) together=net_cls,net_prio ;;
		esac
		mkdir "/sys/fs/cgroup/$together"
		mount -t cgroup -o "nosuid,nodev,noexec,$together" cgroup "/sys/fs/cgroup/$together" 2>/dev/null && continue
		# Newer kernels are built without some of them.
		say "no cgroup v1 controller $together"
		rmdir "/sys/fs/cgroup/$together"
	done </proc/cgroups
	mkdir /sys/fs/cgroup/systemd
	must mount -t cgroup -o nosuid,nodev,noexec,none,name=systemd cgroup /sys/fs/cgroup/systemd
}

main() {
	must mount -t proc -o nosuid,nodev,noexec proc /proc
	must mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
	must mount -t devtmpfs -o nosuid dev /dev
	mkdir -p /dev/pts /dev/shm /dev/mqueue
	must mount -t devpts -o nosuid,noexec,ptmxmode=0666 devpts /dev/pts
	must mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
	mount -t mqueue mqueue /dev/mqueue
	ln -sf /proc/self/fd /dev/fd
	ln -sf /proc/self/fd/0 /dev/stdin
	ln -sf /proc/self/fd/1 /dev/stdout
	ln -sf /proc/self/fd/2 /dev/stderr

	# The host's root file system, whatever gets mounted over parts of it.
	mkdir /run/host /run/lock
	if [[ -n $foreign ]]; then
		must mount -t 9p -o ro,cache=loose,version=9p2000.L,trans=virtio,msize=512000,access=any host /run/host
		for path in "${needed[@]}"; do
			must mount --bind "/run/host$path" "$path"
		done
	else
		must mount --bind / /run/host
	fi
	# What lies under a directory that becomes writable memory is shown there again.
	for directory in /tmp /var/tmp /var/log; do
		must mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$directory"
		for path in "${needed[@]}"; do
			[[ $path/ == "$directory"/* ]] || continue
			mkdir -p "$path"
			must mount --bind "/run/host$path" "$path"
		done
	done

	# Modules and headers are where they would be, had this kernel been installed.
	must mount --bind "$kernel/lib/modules" /lib/modules
	[[ -d $kernel/usr/src ]] && must mount --bind "$kernel/usr/src" /usr/src

	mount -t securityfs securityfs /sys/kernel/security
	mount -t debugfs debugfs /sys/kernel/debug
	must mount -t tracefs tracefs /sys/kernel/tracing
	must mount -t bpf -o mode=700 bpf /sys/fs/bpf

	case $cgroups in
	v2)
		cgroup2 /sys/fs/cgroup
		# As systemd leaves it: containers get their limits.
		for controller in $(</sys/fs/cgroup/cgroup.controllers); do
			echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
		done
		;;
	v1) cgroup1 ;;
	hybrid)
		cgroup1
		mkdir /sys/fs/cgroup/unified
		cgroup2 /sys/fs/cgroup/unified
		;;
	esac

	for path in "${hidden[@]}"; do
		must mount -t tmpfs -o ro tmpfs "$path"
	done
	ip link set lo up || must ifconfig lo up
	hostname vm
	ulimit -n 65536

	output=
	for port in /sys/class/virtio-ports/*; do
		[[ $(<"$port/name") == output ]] && output=/dev/${port##*/}
	done
	[[ -n $output ]] || { say 'no port for the output' && off; }

	read -r uptime _ </proc/uptime
	echo "$uptime" >/run/vm/booted
	setsid bash /run/vm/command <"/dev/null" >"$output" 2>&1
	echo $? >/run/vm/status
	off
}

main
