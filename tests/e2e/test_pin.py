# SPDX-License-Identifier: Apache-2.0
"""`run --pin`: whenever the exporter ends, however it ends, the kernel counts on, and the next one
goes on with the counts. The sums are exact."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cap_exporter.sources.libbpf_binding import LibBpf, MapFd
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.conftest import run_in_cgroup
from tests.kernel.containers import Container
from tests.kube.objects import NODE, pod
from tests.kube.server import KubeServer

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang", "mount", "umount")]

CHECKS = "capability_checks_total"
PACCT = {"capability": "CAP_SYS_PACCT", "verdict": "denied"}

Start = Callable[..., RunningExporter]
Made = Callable[..., tuple[Path, str]]


@pytest.fixture
def pin(tmp_path: Path) -> Iterator[Path]:
    """A folder of a BPF file system of this test's own: all in it goes with the mount."""
    mount = tmp_path / "bpf"
    mount.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", mount], check=True)
    try:
        yield mount / "cap-exporter"
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


@pytest.fixture
def start(tmp_path: Path, pin: Path) -> Iterator[Start]:
    running: list[RunningExporter] = []

    def make(*arguments: str) -> RunningExporter:
        running.append(RunningExporter(tmp_path, f"--pin={pin}", *arguments))
        return running[-1]

    yield make
    for one in running:
        one.__exit__()


def kill(exporter: RunningExporter) -> None:
    exporter.process.send_signal(signal.SIGKILL)
    exporter.process.wait()


#: Nobody else's containers.
_MINE = f"{random.SystemRandom().getrandbits(240):060x}"


def container_id(letter: str) -> str:
    return f"{letter * 4}{_MINE}"


def docker(letter: str) -> str:
    return f"docker/{container_id(letter)}"


def name(letter: str) -> str:
    return container_id(letter)[:12]


def of(exporter: RunningExporter, letter: str, count: int) -> None:
    exporter.eventually(CHECKS, count, container=name(letter), **PACCT)


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_checks_made_while_nobody_looks_are_counted_under_their_names(
    start: Start, fresh_cgroup: Made, checks: Path
) -> None:
    stays, _ = fresh_cgroup("", docker("a"))
    goes, _ = fresh_cgroup("", docker("b"))
    exporter = start()
    run_in_cgroup(stays, checks, "acct", "11")
    run_in_cgroup(goes, checks, "acct", "5")
    of(exporter, "a", 11)
    of(exporter, "b", 5)
    began = exporter.total("cap_exporter_counting_start_time_seconds")
    kill(exporter)

    run_in_cgroup(stays, checks, "acct", "100")
    run_in_cgroup(goes, checks, "acct", "20")
    goes.rmdir()
    short, _ = fresh_cgroup("", docker("c"))
    run_in_cgroup(short, checks, "acct", "7")
    short.rmdir()

    again = start("--event-verdicts=all")  # other options: other programs
    of(again, "a", 111)
    of(again, "b", 25)
    of(again, "c", 7)
    assert "they are replaced, and their counts go on" in again.log.read_text()
    assert again.total("cap_exporter_counting_start_time_seconds") == began > 1e9
    kill(again)
    run_in_cgroup(stays, checks, "acct", "1000")
    once_more = start("--event-verdicts=all")
    assert "going on with the programs" in once_more.log.read_text()
    # At once: the first page is not less than the last one was.
    assert once_more.total(CHECKS, container=name("a"), **PACCT) in (111, 1111)
    of(once_more, "a", 1111)
    of(once_more, "b", 25)
    assert once_more.total("cap_exporter_map_overflow_checks_total") == 0


def test_kill_9_at_any_moment_loses_nothing_and_counts_nothing_twice(
    start: Start, fresh_cgroup: Made, checks: Path
) -> None:
    """Containers come and go meanwhile, so that counters are freed and used again."""
    made: Counter[str] = Counter()
    ended = threading.Event()
    chance = random.Random(7)

    def work(letter: str, seed: int) -> None:
        mine = random.Random(seed)
        while not ended.is_set():
            directory, _ = fresh_cgroup("", docker(letter))
            for _ in range(mine.randint(1, 3)):
                n = mine.randint(1, 500)
                run_in_cgroup(directory, checks, "acct", str(n))
                made[letter] += n
            directory.rmdir()

    workers = [threading.Thread(target=work, args=(letter, ord(letter))) for letter in "abc"]
    kill(start("--drain-interval=50ms"))
    for worker in workers:
        worker.start()
    try:
        for _ in range(6):
            exporter = start("--drain-interval=50ms")
            time.sleep(chance.uniform(0.0, 1.5))
            kill(exporter)
    finally:
        ended.set()
        for worker in workers:
            worker.join()
    last = start("--drain-interval=50ms")
    for letter in "abc":
        of(last, letter, made[letter])
    time.sleep(2.5)  # until what was removed is freed
    for letter in "abc":
        of(last, letter, made[letter])
    assert last.total(CHECKS, container="(unknown)") == 0
    assert last.total("cap_exporter_map_overflow_checks_total") == 0


def test_other_programs_take_the_place_of_those_before_without_a_pause_that_matters(
    start: Start, fresh_cgroup: Made, checks: Path
) -> None:
    """None is counted twice; what is lost is what is made while one is detached and the other is
    attached, not while it is loaded and verified."""
    directory, _ = fresh_cgroup("", docker("a"))
    exporter = start()
    made = 0
    ended = threading.Event()

    def work() -> None:
        nonlocal made
        while not ended.is_set():
            run_in_cgroup(directory, checks, "acct", "50000")
            made += 50_000

    worker = threading.Thread(target=work)
    began = time.monotonic()
    worker.start()
    time.sleep(0.5)
    kill(exporter)
    again = start("--event-interval=61s")
    time.sleep(0.5)
    ended.set()
    worker.join()
    took = time.monotonic() - began
    assert "they are replaced, and their counts go on" in again.log.read_text()
    time.sleep(0.5)
    counted = again.total(CHECKS, container=name("a"), **PACCT)
    # Loading takes most of a second, and far longer on a busy machine.
    assert made - 0.25 * made / took <= counted <= made


def test_a_pod_that_went_meanwhile_keeps_its_name(
    start: Start, kube: KubeServer, container: Callable[..., Container]
) -> None:
    one = container()
    found = pod("web", "shop", {"app": one.container_id}, uid=one.pod_uid)
    kube.apply(found)
    where = {"namespace": "shop", "pod": "web", "container": "app"}
    options = (f"--kubeconfig={kube.kubeconfig()}", f"--node-name={NODE}")
    exporter = start(*options)
    one.start("sleep", "1000")
    one.exec("checks", "acct", "17")
    exporter.eventually(CHECKS, 17, **where, **PACCT)
    kill(exporter)
    one.exec("checks", "acct", "400")
    one.kill()
    kube.delete(one.pod_uid)
    start(*options).eventually(CHECKS, 417, **where, **PACCT)


def test_events_of_the_time_in_between_are_told_with_the_time_they_had(
    start: Start, fresh_cgroup: Made, checks: Path
) -> None:
    directory, _ = fresh_cgroup("", docker("a"))
    kill(start())
    before = time.time()
    run_in_cgroup(directory, checks, "acct", "3")
    after = time.time()
    exporter = start()
    of(exporter, "a", 3)
    url = f"--url=http://127.0.0.1:{exporter.page_port}"
    with subprocess.Popen(
        [COMMAND, "events", url, "--recent", "-o", "json", f"--container={name('a')}"],
        stdout=subprocess.PIPE,
    ) as events:
        assert events.stdout is not None
        told = json.loads(events.stdout.readline())
        events.terminate()
    assert told["container"] == name("a")
    at = time.mktime(time.strptime(told["time"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert before - 1 <= at <= after + 1


@pytest.fixture
def eleven(start: Start, fresh_cgroup: Made, checks: Path) -> Path:
    """The cgroup of container a, of which 11 checks were counted by an exporter that was killed."""
    directory, _ = fresh_cgroup("", docker("a"))
    exporter = start()
    run_in_cgroup(directory, checks, "acct", "11")
    of(exporter, "a", 11)
    kill(exporter)
    return directory


def test_what_was_saved_and_can_not_be_read_is_replaced_with_a_message(
    start: Start, pin: Path, eleven: Path, checks: Path
) -> None:
    bpf = LibBpf()
    saved = MapFd(bpf, bpf.open_pinned(pin / "live" / "saved"))
    saved.memory()[:] = bytes(len(saved.memory()))
    saved.close()
    again = start()
    assert "is replaced, counts begin anew" in again.log.read_text()
    run_in_cgroup(eleven, checks, "acct", "2")
    of(again, "a", 2)


def test_an_end_by_signal_leaves_the_programs_and_unload_removes_them(
    start: Start, pin: Path, fresh_cgroup: Made, checks: Path
) -> None:
    directory, _ = fresh_cgroup("", docker("a"))
    exporter = start()
    run_in_cgroup(directory, checks, "acct", "11")
    in_use = run_command("unload", f"--pin={pin}")
    assert in_use.returncode == 3
    assert "another cap-exporter works with" in in_use.stderr
    assert exporter.stop() < 5
    run_in_cgroup(directory, checks, "acct", "3")
    again = start()
    of(again, "a", 14)
    again.stop()
    gone = run_command("unload", f"--pin={pin}")
    assert gone.stdout == f"Removed 8 attached programs and their counts from {pin}.\n"
    assert not pin.exists()
    nothing = run_command("unload", f"--pin={pin}")
    assert nothing.stdout == f"There is nothing in {pin}.\n"
    run_in_cgroup(directory, checks, "acct", "3")
    anew = start()
    run_in_cgroup(directory, checks, "acct", "1")
    of(anew, "a", 1)


def test_a_folder_of_another_file_system_is_told_so(tmp_path: Path) -> None:
    listen = ("--listen=127.0.0.1:0", "--page-listen=127.0.0.1:0")
    done = run_command("run", *listen, f"--pin={tmp_path}/x")
    assert done.returncode == 3
    assert "is on no BPF file system" in done.stderr
    assert "mount -t bpf" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("eleven")
def test_a_set_that_took_no_other_s_place_yet_leaves_that_one_its_counts(
    start: Start, pin: Path
) -> None:
    """Killed between the two names that publish() changes."""
    (pin / "live").rename(pin / "old")
    (pin / "building").mkdir()
    again = start()
    of(again, "a", 11)
    assert "going on" in again.log.read_text()
    assert sorted(path.name for path in pin.iterdir()) == ["live"]


def test_a_set_that_was_not_finished_is_removed(start: Start, pin: Path) -> None:
    kill(start())
    (pin / "live").rename(pin / "building")
    exporter = start()
    assert "going on" not in exporter.log.read_text()
    assert sorted(path.name for path in pin.iterdir()) == ["live"]
