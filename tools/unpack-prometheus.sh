#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: unpack-prometheus.sh DIRECTORY
#
# Puts Debian's prometheus, promtool and alertmanager into DIRECTORY/bin where PATH has none. Unpacked, not
# installed: the installed package starts a Prometheus on port 9090, now and at every boot, which
# nobody asked for who wants to run tests.
set -euo pipefail

mkdir -p "$1/bin"
directory=$(cd "$1" && pwd)
PATH=$PATH:$directory/bin
commands=(prometheus promtool prometheus-alertmanager)
missing=()
for command in "${commands[@]}"; do
	command -v "$command" >/dev/null || missing+=("$command")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "This system has no apt: put ${missing[*]} on PATH by its own means." >&2
	exit 1
fi
echo "Unpacking Debian's prometheus and alertmanager into $1: the tests scrape, check rules and alert with them"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
packages=(prometheus prometheus-alertmanager)
# A package of its own since Debian 13.
[[ -z $(apt-cache search --names-only '^promtool$') ]] || packages+=(promtool)
# As root, apt says that it could not download as a lesser user: nothing to worry about here.
apt-get -o APT::Sandbox::User=root download -qq "${packages[@]}"
for package in *.deb; do
	dpkg-deb --extract "$package" root
done
for command in "${commands[@]}"; do
	mv "root/usr/bin/$command" "$directory/bin/"
done
# Debian's alertmanager reads its templates from /usr/share/prometheus; the tests bind these there.
mkdir -p "$directory/share"
cp -r root/usr/share/prometheus "$directory/share/"
