# SPDX-License-Identifier: Apache-2.0
"""The image with the chart's rights on other kernels: rights.py in virtual machines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.image.conftest import Images
from tests.vm.kernels import KERNELS, Kernel, default_cache, fetch
from tests.vm.machine import Boot, run
from tests.vm.run import NATIVE, ROOT, environment, needed_directories

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def image(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small image's root without overlays, which the machines cannot look into."""
    copy = tmp_path_factory.mktemp("kernels") / "image"
    subprocess.run(["cp", "-a", images.roots["small"], copy], check=True)
    # The machines see it read-only, so a runtime there cannot make what it mounts on.
    (copy / "host/cgroup").mkdir(parents=True, exist_ok=True)
    return copy


@pytest.mark.parametrize(
    "kernel",
    [one for one in KERNELS if not one.variant],
    ids=lambda one: one.name,
)
def test_the_charts_rights_are_enough_and_each_is_needed(
    image: Path, kernel: Kernel, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shutil.which("qemu-system-x86_64")
    said: list[bytes] = []
    outcome = run(
        # With two, QEMU's emulation now and then trips over code that Linux 7 rewrites in place.
        Boot(fetch(kernel, default_cache(), NATIVE)),
        ["python", "-m", "pytest", "-q", "-rA", "--tb=short", "tests/image/rights.py"],
        directory=ROOT,
        timeout=800,
        environment=environment(ROOT, {"IMAGE": str(image)}),
        needed=(*needed_directories(ROOT), image),
        output=said.append,
    )
    text = b"".join(said).decode(errors="replace")
    with capfd.disabled():
        print(f"\n{kernel.name}: up after {outcome.boot_seconds:.0f} s, {outcome.seconds:.0f} s")
    assert outcome.status == 0, text
    assert not outcome.complaints
