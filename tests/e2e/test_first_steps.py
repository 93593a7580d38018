# SPDX-License-Identifier: Apache-2.0
"""What a new user types first, and gets wrong: each time the answer says what to do next."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cap_exporter.cli import COMMANDS, main
from tests.e2e.exporter import COMMAND
from tests.e2e.served import Served
from tests.ports import free_port

CANNOT = 3

#: Of a message's lines; what is to be typed is not broken.
WIDTH = 80


@dataclass(frozen=True)
class Place:
    """What the command lines below have in place of {words}."""

    folder: Path
    url: str
    """A running exporter's."""
    port: int
    """That one's."""
    closed: str
    """Nobody's."""

    def fill(self, text: str) -> str:
        return text.format(folder=self.folder, url=self.url, port=self.port, closed=self.closed)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("first")
    folder.chmod(0o777)
    (folder / "notes.txt").write_text("no recording, no JSON\n")
    (folder / "typo.yaml").write_text("drain-intervall: 5s\n")
    (folder / "list.yaml").write_text("[1, 2]\n")
    with Served() as served:
        url = f"http://127.0.0.1:{served.page.port}"
        yield Place(folder, url, served.page.port, f"http://127.0.0.1:{free_port()}")


def may_be_read_by_all(path: Path) -> bool:
    return all(one.stat().st_mode & stat.S_IXOTH for one in path.parents)


def run(*arguments: str, unprivileged: bool = False) -> tuple[int, str]:
    """In a process of its own: exit status, and all that was said."""
    before: list[str] = []
    if unprivileged and os.geteuid() == 0:
        before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if not may_be_read_by_all(COMMAND):
            # This folder is root's alone: reading is what is left to the user.
            before += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    done = subprocess.run(
        [*before, COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return done.returncode, said


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")


Here = Callable[..., tuple[int, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """run() in this process, which takes a tenth of the time: for what ends before it counts."""

    def run_here(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(COMMAND), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out + err

    return run_here


ROOT_OR_CAPABILITIES = ("sudo ", "capabilities.add: [BPF, PERFMON", "cap-exporter doctor")

MISTAKES: list[tuple[str, int, tuple[str, ...]]] = [
    # Names that are nobody's
    ("profil", 2, ("Did you mean profile?",)),
    ("profile --nmespace shop", 2, ("--namespace",)),
    ("profile --url {url} --pod ap-1", 1, ("no pod 'ap-1'; did you mean api-1?",)),
    ("profile --url {url} -n shp", 1, ("did you mean shop?",)),
    ("profile --url {url} --container apii", 1, ("did you mean api?",)),
    ("advise --url {url} --workload deployment/apo", 1, ("did you mean deployment/api?",)),
    ("top --once --interval 500ms --url {url} --pod ap-1", 1, ("did you mean api-1?",)),
    ("events --capability NET_ADMN", 2, ("did you mean CAP_NET_ADMIN?",)),
    ("run --event-capabilities SYSADMIN", 2, ("did you mean CAP_SYS_ADMIN?",)),
    ("run --source bpf", 2, ("auto, libbpf, bcc or replay:FILE",)),
    ("profile --for soon", 2, ("5s, 250ms, 10m or 1h30m",)),
    ("completion tcsh", 2, ("bash", "zsh", "fish")),
    # No exporter is running
    ("profile --url {closed}", 1, ("`cap-exporter run`", "--url", "profile --for 30s")),
    ("advise --url {closed}", 1, ("`cap-exporter run`", "--url", "advise --for 30s")),
    ("events --url {closed}", 1, ("`cap-exporter run`", "--url", "events --for 30s")),
    (
        "top --once --interval 500ms --url {closed}",
        1,
        ("`cap-exporter run`", "--url", "top --here"),
    ),
    # The port is taken
    ("run --listen 127.0.0.1:{port}", 2, ("in use", "--listen for the metrics")),
    ("run --listen 10838", 2, ("write [::]:10838, :10838 or 127.0.0.1:10838",)),
    # Files
    ("profile --source replay:{folder}/notes.txt", 3, ("not a recording", "record FILE")),
    ("run --source replay:{folder}/none --listen :0 --page-listen :0", 3, ("record FILE",)),
    ("advise --profile {folder}/none", 1, ("profile -o json > FILE",)),
    ("advise --profile {folder}/notes.txt", 1, ("not JSON",)),
    ("profile --baseline {folder}/none", 2, ("--baseline",)),
    ("advise --check {folder}/none", 2, ("--check",)),
    ("--config {folder}/none run", 2, ("--config: cannot read",)),
    ("--config {folder}/list.yaml run", 2, ("listen: ':10838'",)),
    ("--config {folder}/typo.yaml run", 2, ("did you mean drain-interval?",)),
    ("--config {folder}/typo.yaml doctor", 2, ("did you mean drain-interval?",)),
    ("resolve 4194999", 1, ("nor is it a process",)),
    ("resolve", 2, ("PATH|CGROUP_ID|PID",)),
    ("record", 2, ("'FILE'",)),
]


@pytest.mark.parametrize(("line", "status", "words"), MISTAKES, ids=[one[0] for one in MISTAKES])
def test_a_mistake_is_answered_with_the_next_step(
    place: Place, here: Here, line: str, status: int, words: tuple[str, ...]
) -> None:
    found, said = (run if status == CANNOT else here)(*place.fill(line).split())
    assert found == status, said
    # click breaks lines where it likes.
    text = " ".join(said.split())
    for word in words:
        assert word in text, said


def test_events_wait_for_a_name_that_may_still_come_and_say_so(place: Place) -> None:
    line = place.fill("events --url {url} --pod ap-1 --pod web-*").split()
    with subprocess.Popen([COMMAND, *line], stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        try:
            said = waiting.stderr.readline()
            assert waiting.poll() is None
        finally:
            waiting.kill()
    assert "no pod 'ap-1'; did you mean api-1?" in said
    assert said.endswith("Waiting for it.\n")


COUNTING = [
    "run --listen 127.0.0.1:0 --page-listen 127.0.0.1:0",
    "profile --for 1s",
    "advise --for 1s",
    "top --here --once",
    "events --for 1s",
    "record {folder}/x.rec --for 1s",
]


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("line", COUNTING)
def test_without_root_each_command_that_counts_says_what_it_takes(place: Place, line: str) -> None:
    status, said = run(*place.fill(line).split(), unprivileged=True)
    assert status == 3, said
    for word in ROOT_OR_CAPABILITIES:
        assert word in said
    # The same command, to be typed again.
    assert f"cap-exporter {place.fill(line)}" in said


def test_without_root_what_only_root_may_see_says_so(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/closed")

    monkeypatch.setattr("cap_exporter.cli.group", closed)
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    status, said = here("unload")
    assert status == 3
    assert said == (
        f"cap-exporter: /closed: Permission denied.\nRun it as root: sudo {COMMAND} unload\n"
    )


@pytest.mark.needs("setpriv")
def test_without_root_the_doctor_says_so_and_looks_at_the_rest(place: Place) -> None:
    status, said = run("doctor", "--listen", f"127.0.0.1:{free_port()}", unprivileged=True)
    assert status == 3, said
    assert "counting: cannot be tried: CAP_BPF and CAP_PERFMON missing" in " ".join(said.split())
    assert "sudo cap-exporter doctor" in said
    for look in ("kernel types (BTF)", "cgroups", "clock", "--listen", "Kubernetes", "OTLP"):
        assert f"{look}" in said
    lines = [line for line in said.splitlines() if not line.startswith("    ")]
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.needs("setpriv")
def test_without_root_what_needs_none_works(place: Place) -> None:
    for line in ("--version", "profile --url {url}", "resolve 1", "completion bash"):
        status, said = run(*place.fill(line).split(), unprivileged=True)
        assert status == 0, said


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_fits_80_columns_and_ends_with_examples(here: Here, command: str) -> None:
    status, said = here(command, "--help")
    assert status == 0
    assert max(map(len, said.splitlines())) <= WIDTH
    examples = said.partition("\n  Examples:\n")[2]
    assert f"cap-exporter {command}" in examples or f"FILE {command}" in examples
    assert len(examples.splitlines()) >= 2


def test_the_version_comes_first_and_what_a_report_needs_follows(here: Here) -> None:
    status, said = here("--version")
    assert status == 0
    first, *more = said.splitlines()
    assert re.fullmatch(r"cap-exporter, version \d+\.\d+\.\d+\S*", first)
    facts = dict(line.split(None, 1) for line in more if not line.startswith("BPF object"))
    assert set(facts) == {"kernel", "BTF", "attach", "libbpf", "Python"}
    assert facts["kernel"].startswith(os.uname().release)


def completed(script: str, words: str) -> list[str]:
    """What bash offers for the last word."""
    ask = f"""
        PATH={COMMAND.parent}:$PATH
        compopt() {{ :; }}
        {script}
        COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _cap_exporter_completion cap-exporter
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_and_their_values(here: Here) -> None:
    _, script = here("completion", "bash")
    assert completed(script, "cap-exporter pro") == ["profile"]
    assert completed(script, "cap-exporter run --exclude-n") == ["--exclude-namespaces"]
    assert completed(script, "cap-exporter events --capability SYSLOG,NET_A") == [
        "SYSLOG,NET_ADMIN"
    ]
    assert completed(script, "cap-exporter bogus --x") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_their_own_parser_takes(here: Here, shell: str) -> None:
    status, script = here("completion", shell)
    assert status == 0
    assert "_CAP_EXPORTER_COMPLETE" in script
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=script, text=True, check=True)
