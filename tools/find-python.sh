#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the Python that the virtual environment is made from: Debian's own where it is new enough,
# since that is the one that gets security updates with the system; else the newest on PATH.
#
# BCC's Python module is pure Python over libbcc.so and exists only as Debian's python3-bpfcc. The
# bcc source imports it by its path, so the environment needs neither Debian's Python for it nor
# --system-site-packages, which would let any Debian package shadow what the lock files pin.
set -euo pipefail

for python in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
	if path=$(command -v "$python") &&
		"$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
		printf '%s\n' "$path"
		exit 0
	fi
done
echo "No Python 3.11 or newer found. Name one: make PYTHON=/path/to/python3 build" >&2
exit 1
