#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: unpack-prometheus.sh DIRECTORY
#
# Puts Debian's prometheus and promtool into DIRECTORY/bin where PATH has none. Unpacked, not
# installed: the installed package starts a Prometheus on port 9090, now and at every boot, which
# nobody asked for who wants to run tests.
set -euo pipefail

mkdir -p "$1/bin"
directory=$(cd "$1" && pwd)
PATH=$PATH:$directory/bin
command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0

if ! command -v apt-get >/dev/null; then
	echo "This system has no apt: put prometheus and promtool on PATH by its own means." >&2
	exit 1
fi
echo "Unpacking Debian's prometheus into $1: the tests scrape with it and check rules with promtool"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
packages=(prometheus)
# A package of its own since Debian 13.
[[ -z $(apt-cache search --names-only '^promtool$') ]] || packages+=(promtool)
# As root, apt says that it could not download as a lesser user: nothing to worry about here.
apt-get -o APT::Sandbox::User=root download -qq "${packages[@]}"
for package in *.deb; do
	dpkg-deb --extract "$package" root
done
mv root/usr/bin/prometheus root/usr/bin/promtool "$directory/bin/"
