# SPDX-License-Identifier: Apache-2.0
"""`make demo`: its containers are counted as they were said to behave, and all of it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.prometheus import eventually, get_json

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("runc", "busybox", "prometheus", "bpftool", "setpriv"),
]

#: (container, capability, verdict, user namespace)
Check = tuple[str, str, str, str]

#: Of each container, all that it asks for.
EXPECTED: set[Check] = {
    ("web", "CAP_NET_BIND_SERVICE", "allowed", "init"),
    ("web", "CAP_SETGID", "allowed", "init"),
    ("web", "CAP_SETUID", "allowed", "init"),
    ("pinger", "CAP_NET_RAW", "allowed", "init"),
    ("nosy", "CAP_SYSLOG", "denied", "init"),
    ("nosy", "CAP_SYS_ADMIN", "denied", "init"),
    ("nosy", "CAP_CHOWN", "denied", "init"),
    ("sandbox", "CAP_SYS_ADMIN", "allowed", "other"),
    ("job", "CAP_CHOWN", "allowed", "init"),
}

#: The kernel tells of runc's init in the cgroup (cgroup_attach_task) after runc has put it there.
#: What that asks for in between, to seal its copy of itself, is not seen to be set-up.
SEEN_LATE = ("CAP_SYS_ADMIN", "allowed", "init")


class Demo:
    """As in a terminal: Ctrl-C goes to all that it has started, too."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.log = folder / "demo.log"
        self.command = (sys.executable, "-m", "demo", "--name", name)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def said(self) -> str:
        return self.log.read_text()

    def port(self, path: str) -> int:
        found = re.search(rf"http://localhost:(\d+){path} ", self.said())
        assert found, self.said()
        return int(found[1])

    def checks(self) -> set[Check]:
        """Other containers of this machine are left out."""
        with urlopen(f"http://127.0.0.1:{self.port('/metrics')}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        found = [
            one.labels
            for family in text_string_to_metric_families(page)
            for one in family.samples
            if one.name == "capability_checks_total"
        ]
        return {
            (one["container"], one["capability"], one["verdict"], one["user_namespace"])
            for one in found
            if one["container"] in {name for name, *_ in EXPECTED}
        }

    def programs(self) -> set[int]:
        """Ids of the BPF programs that it holds (proc_pid_fdinfo(5), bpf_link_show_fdinfo())."""
        found = set()
        for process in self._processes():
            with suppress(OSError):  # containers' come and go
                for one in (process / "fdinfo").iterdir():
                    said = one.read_text()
                    found |= set(map(int, re.findall(r"^prog_id:\t(\d+)$", said, re.MULTILINE)))
        return found

    def _processes(self) -> list[Path]:
        """Of its session, and of its containers."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended
                ours = os.getsid(int(process.name)) == self.process.pid
                if ours or self.name in (process / "cgroup").read_text():
                    found.append(process)
        return found

    def left(self) -> list[str]:
        """Its processes, cgroups, mounts and files."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [line for line in mounts if self.name in line]
        for pattern in (self.name, f"*/{self.name}"):  # v2, v1
            found += map(str, Path("/sys/fs/cgroup").glob(pattern))
        found += map(str, Path("/run").glob(self.name))
        for one in self._processes():
            with suppress(OSError):
                # Without, it has ended, and waits for init.
                if command := (one / "cmdline").read_text():
                    found.append(f"{one}: {command}")
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    one = Demo(tmp_path, f"cap-exporter-demo-{os.getpid()}")
    yield one
    if one.process.poll() is None:
        one.process.terminate()
        one.process.wait(20)


def test_the_demo_shows_what_it_says_and_leaves_nothing(demo: Demo) -> None:
    eventually(lambda: "Ctrl-C ends" in demo.said(), "it starts")
    assert max(map(len, demo.said().splitlines())) <= 80
    deadline = time.monotonic() + 10
    while not (checks := demo.checks()) >= EXPECTED and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {check for check in checks if check[1:] != SEEN_LATE} == EXPECTED

    page = demo.port("/")
    advice = get_json(f"http://127.0.0.1:{page}/api/v1/advice?container=web")["advice"]
    (add,) = (set(one["add"]) - {"SYS_ADMIN"} for one in advice)
    assert add == {"NET_BIND_SERVICE", "SETGID", "SETUID"}

    query = f"http://127.0.0.1:{demo.port('/graph')}/api/v1/query?query=capability_checks_total"
    eventually(lambda: "nosy" in json.dumps(get_json(query)), "Prometheus has scraped it", 10)

    second = subprocess.run(demo.command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr.split()[:2]) == (2, ["Another", "demo"])

    programs = demo.programs()
    assert programs
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(20) == 0, demo.said()
    assert demo.left() == []
    eventually(lambda: not any(map(_is_loaded, programs)), "its BPF programs are gone", 5)


def _is_loaded(program: int) -> bool:
    shown = ["bpftool", "prog", "show", "id", str(program)]
    return subprocess.run(shown, capture_output=True, check=False).returncode == 0
