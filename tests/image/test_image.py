# SPDX-License-Identifier: Apache-2.0
"""The images, made by the Dockerfile's own steps over a Debian root, and the exporter started from
each with exactly what the chart gives it, under Docker's default seccomp profile."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import cap_exporter
from cap_exporter.cgroups.hierarchies import discover
from tests.deploy.chart import NotStarted, chart_container, started
from tests.image.conftest import ROOT, SUITE, Images
from tests.image.dockerfile import Build, StepError
from tests.kernel.conftest import run_in_cgroup
from tests.vm.kernels import default_cache

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1800)]

#: At most, in MB, what a target adds to the base, and all of it as registries have it (gzip).
SIZES = {"small": (150, 75), "bcc": (400, 160)}


@pytest.mark.parametrize(
    ("target", "source"), [("small", "libbpf"), ("bcc", "libbpf"), ("bcc", "bcc")]
)
def test_the_exporter_counts_from_it_with_the_charts_rights(
    images: Images,
    target: str,
    source: str,
    tmp_path: Path,
    fresh_cgroup: Callable[..., tuple[Path, str]],
    checks: Path,
) -> None:
    stage = images.stages[target]
    assert stage.command == ("run",)
    with started(
        tmp_path,
        chart_container(),
        images.roots[target],
        command=stage.entrypoint,
        environ={**stage.environ, "CAP_EXPORTER_SOURCE": source},
        seccomp=images.profile,
        seconds=60,
    ) as running:
        assert "Seccomp:\t2" in Path(f"/proc/{running.pid}/status").read_text()
        directory, _ = fresh_cgroup(
            discover().counted[0].controller, f"kubepods/pod{'c' * 32}/{'e' * 64}"
        )
        run_in_cgroup(directory, checks, "acct", "7")
        text = running.eventually('capability="CAP_SYS_PACCT",container="eeeeeeeeeeee"')
    assert re.search(r"^capability_checks_total\{.*CAP_SYS_PACCT.*eeee.*\} 7\.0$", text, re.M)
    assert f'source="{source}"' in text
    assert "WARNING" not in running.output.read_text()


def test_without_its_capabilities_it_says_so(images: Images, tmp_path: Path) -> None:
    container = chart_container()
    container["securityContext"]["capabilities"]["add"] = ["SYSLOG", "DAC_READ_SEARCH"]
    stage = images.stages["small"]
    with (
        pytest.raises(NotStarted, match="CAP_BPF"),
        started(
            tmp_path,
            container,
            images.roots["small"],
            command=stage.entrypoint,
            environ=stage.environ,
            seccomp=images.profile,
        ),
    ):
        pass


@pytest.mark.parametrize("target", SIZES)
def test_what_is_in_it(images: Images, target: str) -> None:
    stage, root = images.stages[target], images.roots[target]
    assert stage.labels["org.opencontainers.image.version"] == cap_exporter.__version__
    for name in ("usr/bin/clang", "usr/bin/gcc", "usr/bin/pip", "source", "run/certificates.crt"):
        assert not (root / name).exists(), name
    assert not list((root / "opt/cap-exporter").rglob("site-packages/pip"))
    assert not list((root / "var/lib/apt/lists").glob("*_Packages*"))
    base, *added = stage.layers
    megabytes = sum(map(size, added)) / 1e6
    compressed = (
        int(
            subprocess.run(
                f"tar -C {root} -c . | gzip | wc -c", shell=True, capture_output=True, check=True
            ).stdout
        )
        / 1e6
    )
    print(
        f"{target}: base {size(base) / 1e6:.0f} MB, added {megabytes:.0f} MB, "
        f"all of it compressed {compressed:.0f} MB"
    )
    assert megabytes <= SIZES[target][0]
    assert compressed <= SIZES[target][1]


def test_the_kubernetes_client_is_whole_enough(images: Images) -> None:
    wanted = (
        "import kubernetes.client, kubernetes.config, kubernetes.stream, cap_exporter.fleet.kube"
    )
    python = "/opt/cap-exporter/bin/python"
    command = ("chroot", images.roots["small"], python, "-c", wanted)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def size(folder: Path) -> int:
    done = subprocess.run(
        ["du", "-sx", "--bytes", folder], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[0])


def test_a_step_that_fails_is_an_error(tmp_path: Path, images: Images) -> None:
    build = Build(tmp_path / "build", ROOT, default_cache().parent / "images", "")
    try:
        with pytest.raises(StepError, match="exit status 3"):
            build.build(f"FROM docker.io/library/debian:{SUITE}-slim AS x\nRUN exit 3\n")
        with pytest.raises(StepError, match="VOLUME"):
            build.build(f"FROM docker.io/library/debian:{SUITE}-slim AS y\nVOLUME /x\n")
    finally:
        build.close()
