#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# usage: build-root.sh SOURCE PYTHON
#
# Makes the wheel from SOURCE and installs it with its locked dependencies into the virtual
# environment /opt/cap-exporter, made by PYTHON. The Dockerfile's build stage is this script; a test
# runs it in a fresh Debian root, since not every machine has a container engine.
set -eu

source=$1
python=$2
"$python" -m venv /opt/cap-exporter
pip="/opt/cap-exporter/bin/python -m pip --disable-pip-version-check --no-cache-dir --quiet"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$source" "$work/source"
$pip install --require-hashes -r "$work/source/requirements-build.lock"
$pip wheel --no-deps --no-build-isolation --wheel-dir "$work/wheels" "$work/source"
$pip uninstall --yes -r "$work/source/requirements-build.lock"
$pip install --require-hashes -r "$work/source/requirements.lock"
$pip install --no-deps "$work"/wheels/*.whl
# What running does not need.
find /opt/cap-exporter -name __pycache__ -prune -exec rm -rf {} +
rm -rf /opt/cap-exporter/lib/python3*/site-packages/pip /opt/cap-exporter/lib/python3*/site-packages/pip-*
# Half of the Kubernetes client, a second one for asyncio that the first never imports.
rm -rf /opt/cap-exporter/lib/python3*/site-packages/kubernetes/aio
