# SPDX-License-Identifier: Apache-2.0
"""Packages of other Debian suites and architectures, by the apt of this machine.

Nothing is installed and the machine's own lists stay as they are: each archive has an apt state
of its own in a directory. Where the packages come from, proxies included, is what this machine's
apt is configured for; only the suites' names are changed.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Debian's keys where its suites differ from what this machine's own sources are signed with.
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)

CONFIGURATION = """\
Dir::State "{directory}/state";
Dir::State::lists "{directory}/state/lists";
Dir::State::status "{directory}/state/status";
Dir::Cache "{directory}/cache";
Dir::Etc::SourceList "{directory}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
"""


class ArchiveError(Exception):
    """apt could not give what was asked for. The text has what apt said."""


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Where this machine's apt gets Debian from."""

    main: str
    security: str | None
    """None: this machine has no source of security updates, so none are looked for."""

    def of(self, suite: str) -> str | None:
        return self.security if suite.endswith("-security") else self.main


def configured_mirrors(targets: str) -> Mirrors:
    """The mirrors in what ``apt-get indextargets`` printed as ``label|URI`` lines.

    Labels are those of the archives' Release files: ``Debian`` and ``Debian-Security``.
    Raises ArchiveError where no archive of Debian's is among them.
    """
    found: dict[str, str] = {}
    for line in targets.splitlines():
        label, _, uri = line.partition("|")
        if uri:
            found.setdefault(label, uri)
    if "Debian" not in found:
        raise ArchiveError(
            "this machine's apt has no Debian archive in its lists; the kernels are Debian's. "
            "On Debian: apt-get update"
        )
    return Mirrors(found["Debian"], found.get("Debian-Security"))


def sources(mirrors: Mirrors, suites: Sequence[str], keyring: Path | None) -> str:
    """The lines of a sources.list. Raises ArchiveError where no suite has a mirror."""
    signed = f"[signed-by={keyring}] " if keyring else ""
    lines = [f"deb {signed}{uri} {suite} main" for suite in suites if (uri := mirrors.of(suite))]
    if not lines:
        raise ArchiveError(f"this machine's apt has no archive for {', '.join(suites)}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Archive:
    """Some suites of Debian, for one architecture, with an apt state in ``directory``."""

    directory: Path
    suites: tuple[str, ...]
    architecture: str

    def update(self) -> None:
        """Read the package lists. Raises ArchiveError."""
        for each in ("state/lists/partial", "cache/archives/partial"):
            (self.directory / each).mkdir(parents=True, exist_ok=True)
        (self.directory / "state/status").touch()
        targets = _output("apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)")
        keyring = next((each for each in KEYRINGS if each.exists()), None)
        (self.directory / "sources.list").write_text(
            sources(configured_mirrors(targets), self.suites, keyring)
        )
        (self.directory / "apt.conf").write_text(
            CONFIGURATION.format(directory=self.directory, architecture=self.architecture)
        )
        self._apt("apt-get", "update", "--error-on=any")

    def closure(self, names: Sequence[str], wanted: re.Pattern[str]) -> list[str]:
        """The packages that ``names`` depend on, however far, themselves included, whose names
        match ``wanted`` in full. Raises ArchiveError where a name is unknown."""
        edges = parse_depends(
            self._apt(
                *("apt-cache", "depends", "--recurse", "--important", "--no-pre-depends"), *names
            )
        )
        reached, todo = set(), list(names)
        while todo:
            name = todo.pop()
            if name not in reached and wanted.fullmatch(name):
                reached.add(name)
                todo.extend(edges.get(name, ()))
        return sorted(reached)

    def with_dependencies(self, names: Sequence[str]) -> list[str]:
        """All that a system needs to have ``names`` installed, as apt would choose it."""
        simulated = self._apt(
            *("apt-get", "install", "--simulate", "--no-install-recommends"), *names
        )
        return re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)

    def version(self, name: str) -> str:
        """The version of a package that download() would fetch. Raises ArchiveError."""
        shown = self._apt("apt-cache", "show", "--no-all-versions", name)
        found = re.search(r"^Version: (\S+)", shown, re.MULTILINE)
        if not found:
            raise ArchiveError(f"no {name} in {', '.join(self.suites)}")
        return found[1]

    def download(self, names: Iterable[str], to: Path) -> list[Path]:
        """Fetch packages into a directory; their files there. Raises ArchiveError."""
        to.mkdir(parents=True, exist_ok=True)
        self._apt("apt-get", "download", *names, cwd=to)
        return sorted(to.glob("*.deb"))

    def _apt(self, command: str, *arguments: str, cwd: Path | None = None) -> str:
        return _output(
            command, "--quiet=2", f"--config-file={self.directory}/apt.conf", *arguments, cwd=cwd
        )


def parse_depends(text: str) -> Mapping[str, Sequence[str]]:
    """Package → its dependencies, from ``apt-cache depends --recurse``. The first of
    alternatives is taken (apt marks it ``|``), as apt does where nothing is installed."""
    edges: dict[str, list[str]] = {}
    name, was_alternative = "", False
    for line in text.splitlines():
        if line and not line.startswith((" ", "|", "<")):
            name, was_alternative = line.strip(), False
            edges.setdefault(name, [])
        elif found := re.match(r"^ ([ |])Depends: (\S+)", line):
            if not was_alternative:
                edges[name].append(found[2])
            was_alternative = found[1] == "|"
    return edges


def unpack(package: Path, to: Path, leave_out: Sequence[str] = ()) -> None:
    """Put a package's files into a directory, but for those that match a tar pattern.

    Maintainer scripts do not run. Raises ArchiveError.
    """
    to.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as archive:
        excluded = [f"--exclude={pattern}" for pattern in leave_out]
        # A directory that is a link already (/lib on a merged /usr) stays one.
        command = ["tar", "-x", "-f", "-", "-C", str(to), "--keep-directory-symlink", *excluded]
        unpacked = subprocess.run(command, stdin=archive.stdout, check=False)
    if archive.returncode or unpacked.returncode:
        raise ArchiveError(f"{package.name} cannot be unpacked to {to}")


def _output(command: str, *arguments: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            [command, *arguments], cwd=cwd, check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise ArchiveError(f"no {command} here: the kernels are Debian's, fetched by apt") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or error.stdout.strip()
        raise ArchiveError(f"{command} {' '.join(arguments)}: {said}") from error
    return done.stdout
