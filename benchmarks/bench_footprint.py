# SPDX-License-Identifier: Apache-2.0
"""What the running exporter takes: memory, CPU when idle and under load, time to start.

    python -m benchmarks.bench_footprint [SECONDS]

A real exporter (the installed command) and real cgroups. SECONDS: how long CPU time is watched.
Needs root.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.results import report
from cap_exporter.cgroups.hierarchies import UNIFIED, discover
from tests.e2e.exporter import RunningExporter
from tests.kube.objects import NODE, pod
from tests.kube.server import KubeServer

HERE = Path(__file__).parent
RATE = 100_000


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for containers, memory in ((100, 60), (1000, 80)):
        with _pods_watched() as environ, _memory_of_pods(containers, environ, memory):
            pass
        with an_exporter() as exporter, containers_of_docker(containers) as folders:
            checks_in_each(folders)
            time.sleep(6)
            exporter.get("/metrics")
            resident = status(exporter.process.pid, "VmRSS") / 1024
            report("memory", f"resident, {containers} containers", resident, "MB", memory)
            if containers == 100:
                report("memory", "maps in the kernel", _map_bytes(exporter) / 2**20, "MB", 8)
                idle = _cpu_share(exporter.process.pid, seconds)
                report("CPU", "idle, 100 containers, drain every 5 s", idle * 100, "%", 0.2)
                busy = _under_load(exporter, folders, seconds)
                report("CPU", "100,000 checks/s in 100 containers", busy * 100, "%", 2)
    report("start", "to the first exact count", _start(), "s", 1)


SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@contextmanager
def _pods_watched() -> Iterator[tuple[KubeServer, dict[str, str]]]:
    """An API server with pods of two containers each, and what makes the exporter believe that it
    is in a pod: a kubeconfig would bring in all of the kubernetes package."""
    with tempfile.TemporaryDirectory() as folder:
        server = KubeServer(Path(folder))
        SERVICE_ACCOUNT.mkdir(parents=True)
        try:
            (SERVICE_ACCOUNT / "token").write_text(server.token)
            shutil.copy(Path(folder) / "ca.pem", SERVICE_ACCOUNT / "ca.crt")
            yield (
                server,
                {
                    "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                    "KUBERNETES_SERVICE_PORT": str(server.port),
                    "NODE_NAME": NODE,
                },
            )
        finally:
            shutil.rmtree(SERVICE_ACCOUNT.parent)
            server.close()


@contextmanager
def _memory_of_pods(
    containers: int, watched: tuple[KubeServer, dict[str, str]], at_most: float
) -> Iterator[None]:
    server, environ = watched
    pods = []
    for _ in range(containers // 2):
        ids = {name: secrets.token_hex(32) for name in ("app", "sidecar")}
        one = pod(containers=ids, padding=6500)
        server.apply(one)
        pods += [f"kubepods/pod{one['metadata']['uid']}/{each}" for each in ids.values()]
    with an_exporter(environ=environ) as exporter, _cgroups(pods) as folders:
        exporter.eventually("cap_exporter_pod_watch_synced", 1)
        checks_in_each(folders)
        time.sleep(6)
        exporter.get("/metrics")
        named = len(exporter.samples("capability_container_info", namespace="default"))
        assert named == containers, named
        resident = status(exporter.process.pid, "VmRSS") / 1024
        report("memory", f"resident, {containers} containers of pods", resident, "MB", at_most)
        yield


@contextmanager
def an_exporter(
    *arguments: str, environ: dict[str, str] | None = None
) -> Iterator[RunningExporter]:
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningExporter(
            Path(folder), "--drain-interval=5s", *arguments, environ=environ
        ) as exporter,
    ):
        yield exporter


@contextmanager
def containers_of_docker(count: int) -> Iterator[list[Path]]:
    """Cgroups such as Docker makes."""
    with _cgroups([f"docker/{secrets.token_hex(32)}" for _ in range(count)]) as folders:
        yield folders


@contextmanager
def _cgroups(paths: list[str]) -> Iterator[list[Path]]:
    mounts = [h.mount for h in discover().counted if h.id == UNIFIED and h.mount]
    folders = [mounts[0] / path for path in paths]
    for folder in folders:
        folder.mkdir(parents=True)
    try:
        yield folders
    finally:
        time.sleep(0.2)
        above = {parent for folder in folders for parent in folder.parents if parent > mounts[0]}
        for folder in (*folders, *sorted(above, reverse=True)):
            with suppress(OSError):  # others may have cgroups there too
                folder.rmdir()


_WALK = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
home = sys.argv[1]
for folder in sys.stdin.read().split():
    open(folder + "/cgroup.procs", "w").write("0")
    libc.acct(None)
    libc.sethostname(b"x", -1)
    os.path.exists("/root/x")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -1)
    except OSError:
        pass
open(home + "/cgroup.procs", "w").write("0")
"""


def checks_in_each(folders: list[Path]) -> None:
    """A few different checks in each of the cgroups."""
    mounts = [h.mount for h in discover().counted if h.id == UNIFIED and h.mount]
    home = mounts[0]
    subprocess.run(
        [sys.executable, "-c", _WALK, home],
        input="\n".join(map(str, folders)),
        text=True,
        check=True,
    )


def status(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found
    return int(found[1])


def cpu_seconds(pid: int) -> float:
    """Time on a CPU, of all threads: schedstat counts nanoseconds, where stat counts ticks."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _cpu_share(pid: int, seconds: float) -> float:
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


def _under_load(exporter: RunningExporter, folders: list[Path], seconds: int) -> float:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        program = Path(folder) / "check_pace"
        program.parent.chmod(0o755)
        subprocess.run(["clang", "-O2", "-o", program, HERE / "check_pace.c"], check=True)
        each = RATE // len(folders)
        user = "setpriv --reuid=65534 --regid=65534 --clear-groups"
        enter = f'echo 0 > "$0/cgroup.procs"; exec {user} {program} {each} {seconds}'
        running = [
            subprocess.Popen(["sh", "-c", enter, str(where)], stdout=subprocess.PIPE)
            for where in folders
        ]
        time.sleep(1)
        share = _cpu_share(exporter.process.pid, seconds - 2)
        made = sum(int(process.communicate()[0]) for process in running)
    exporter.eventually("capability_checks_total", made + len(folders), capability="CAP_SYS_PACCT")
    return share


def _map_bytes(exporter: RunningExporter) -> int:
    """Memory of the maps that the process has open (memlock of their file descriptors). Python's
    mmap has a descriptor of its own: each map once."""
    found: dict[str, int] = {}
    for info in Path(f"/proc/{exporter.process.pid}/fdinfo").iterdir():
        fields = dict(re.findall(r"^(map_id|memlock):\s+(\d+)", info.read_text(), re.M))
        if "map_id" in fields:
            found[fields["map_id"]] = int(fields["memlock"])
    return sum(found.values())


def _start() -> float:
    """From starting the command to a scrape that has the count of a check made after attaching:
    the median of three."""
    taken = []
    for _ in range(3):
        with containers_of_docker(1) as folders:
            began = time.monotonic()
            with an_exporter("--drain-interval=50ms") as exporter:
                checks_in_each(folders)
                exporter.eventually(
                    "capability_checks_total", 1, capability="CAP_SYS_PACCT", verdict="allowed"
                )
                taken.append(time.monotonic() - began)
    return sorted(taken)[1]


if __name__ == "__main__":
    main()
