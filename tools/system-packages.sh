#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: system-packages.sh LIST...
#
# Installs with apt what the lists name and the system lacks, and says what for. Silent and fast
# where nothing is missing. Works as root, or through sudo.
#
#   SYSTEM_PACKAGES=skip   install nothing: all is there by other means
#   BCC_HEADERS=PACKAGE    kernel headers for BCC, empty for none. Default: the running kernel's;
#                          where Debian has none for it, those of Debian's own kernel
set -euo pipefail

[[ ${SYSTEM_PACKAGES:-} == skip ]] && exit 0

say() { printf '%s\n' "$*"; }
die() {
	printf 'system packages: %s\n' "$*" >&2
	exit 1
}

declare -A why=()
names=()
for list in "$@"; do
	while read -r name _ reason; do
		[[ -z $name || $name == \#* ]] && continue
		names+=("$name")
		why[$name]=$reason
	done <"$list"
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	say "This system has no apt. Install by its own means what these Debian packages hold:"
	say "  ${names[*]/'${BCC_HEADERS}'/(kernel headers)}"
	die "then run make again with SYSTEM_PACKAGES=skip"
fi

as_root() {
	if ((EUID == 0)); then
		env DEBIAN_FRONTEND=noninteractive "$@"
	else
		sudo env DEBIAN_FRONTEND=noninteractive "$@"
	fi
}

# Runs apt-get as root; shows what it said only if it fails.
apt() {
	local output
	if ! output=$(as_root apt-get -o Dpkg::Use-Pty=0 "$@" 2>&1); then
		printf '%s\n' "$output" >&2
		return 1
	fi
}

lists_read=
read_lists() {
	[[ -n $lists_read ]] && return
	lists_read=yes
	if ((EUID != 0)) && ! command -v sudo >/dev/null; then
		die "missing: ${missing[*]}. Installing needs root, and there is no sudo." \
			"As root: apt-get install ${missing[*]}"
	fi
	say "Reading the package lists (apt-get update)"
	apt update || say "  failed; going on with the lists that are there"
}

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

missing=()
for name in "${names[@]}"; do
	[[ $name == '${BCC_HEADERS}' ]] || installed "$name" || missing+=("$name")
done

if [[ -n ${why['${BCC_HEADERS}']:-} ]]; then
	release=$(uname -r)
	own=linux-headers-$release
	debian=linux-headers-$(dpkg --print-architecture)
	if [[ -v BCC_HEADERS ]]; then
		headers=$BCC_HEADERS
	elif [[ -e /lib/modules/$release/build/include || -e /sys/kernel/kheaders.tar.xz ]]; then
		headers= # BCC finds these by itself
	elif installed "$debian"; then
		headers=$debian
	else
		missing+=("$own")
		read_lists
		unset 'missing[-1]'
		headers=$debian
		[[ -n $(apt-cache search --names-only "^${own//./\\.}\$") ]] && headers=$own
	fi
	if [[ -n $headers ]] && ! installed "$headers"; then
		missing+=("$headers")
		why[$headers]=${why['${BCC_HEADERS}']}
	fi
fi

((${#missing[@]} == 0)) && exit 0
read_lists
say "Installing with apt-get, which may take some minutes:"
for name in "${missing[@]}"; do
	printf '  %-18s %s\n' "$name" "${why[$name]}"
done
apt install -y --no-install-recommends "${missing[@]}" ||
	die "apt-get could not install: ${missing[*]}"
