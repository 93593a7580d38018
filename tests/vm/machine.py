# SPDX-License-Identifier: Apache-2.0
"""One command on one kernel, in a virtual machine that has this machine's root file system.

QEMU in software emulation, so that it works where there is no hardware virtualization. The guest
sees the host's whole root read only (9p), with memory file systems at /tmp, /var/tmp, /var/log and
/run: the virtual environment and the tools are the same, nothing can be changed. The guest is
turned off when the command ends.

virtme-ng does the same and was tried first (1.42): its root file system is not cached in the
guest, so that Python took twice as long; its command has no output where the host has no udev;
and it mounts cgroups before anybody can say which layout.
"""

from __future__ import annotations

import lzma
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.vm.kernels import KernelTree

Cgroups = Literal["v2", "v1", "hybrid"]

GUEST = Path(__file__).resolve().parent / "guest"

#: What it takes to reach the root file system and the output; dependencies are found.
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p")

#: Lines of the kernel's log that say that something went wrong in the kernel itself.
COMPLAINT = re.compile(
    r"\b(WARNING: (CPU|possible|suspicious)|BUG:|Oops\b|Kernel panic|general protection fault"
    r"|Call Trace:|rcu: INFO:|refcount_t:|UBSAN:|KASAN:)"
)


@dataclass(frozen=True, slots=True)
class Emulator:
    """How QEMU plays a machine of one architecture."""

    command: str
    machine: tuple[str, ...]
    console: str


#: Five-level page tables (la57) and pointer authentication cost much in emulation.
EMULATORS = {
    "amd64": Emulator("qemu-system-x86_64", ("-machine", "q35", "-cpu", "max,la57=off"), "ttyS0"),
    "arm64": Emulator(
        "qemu-system-aarch64", ("-machine", "virt", "-cpu", "max,pauth=off"), "ttyAMA0"
    ),
}


class MachineError(Exception):
    """The machine could not run the command to its end. The text says how far it came."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What is booted, and how."""

    kernel: KernelTree
    cgroups: Cgroups = "v2"
    cpus: int = 1
    memory_mib: int = 1536
    parameters: tuple[str, ...] = ()
    """More for the kernel's command line, e.g. ``preempt=full``."""
    hidden: tuple[str, ...] = ()
    """Directories that are empty in the guest, e.g. /sys/kernel/btf."""
    root: Path = Path("/")
    """The root file system; another one (root.py) for another architecture. The directories that
    a command needs are this machine's all the same."""

    @property
    def foreign(self) -> bool:
        """Its root is not this machine's."""
        return self.root != Path("/")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    status: int
    """Its exit status, as a shell gives it."""
    boot_seconds: float
    """From the kernel's start until the command's, by the guest's clock."""
    seconds: float
    """From QEMU's start to its end."""
    memory_mib: int
    """The most memory that QEMU had."""
    complaints: tuple[str, ...]
    """Lines of the kernel's log that tell of a fault in the kernel."""


def run(
    boot: Boot,
    command: Sequence[str],
    *,
    directory: Path,
    timeout: float,
    environment: Mapping[str, str],
    needed: Sequence[Path] = (),
    output: Callable[[bytes], object] = sys.stdout.buffer.write,
    console: Path | None = None,
    exchange: Path | None = None,
) -> Outcome:
    """Boot, run ``command`` in ``directory`` as root, turn off.

    ``timeout`` in seconds, for all of it. ``needed``: directories that the command uses, in case
    they lie under /tmp or the like. ``output`` gets what the command prints, as it comes.
    ``console``: where to write the kernel's log. ``exchange``: a directory that the command can
    write to, as /run/vm/exchange; its files are here afterwards.
    Raises MachineError where there is no exit status: no boot, a panic, or the time ran out.
    A machine that went off before the command began is started once more: one of some 70 boots
    died in its first two seconds, in the emulated timer interrupt, and none twice.
    """
    arguments = (boot, command, directory, timeout, environment, needed, output, console, exchange)
    try:
        return _run(*arguments)
    except _NeverUp as error:
        print(f"vm: starting once more, since {error}", file=sys.stderr)
        return _run(*arguments)


class _NeverUp(MachineError):
    """It went off by itself before the command began."""


def _run(
    boot: Boot,
    command: Sequence[str],
    directory: Path,
    timeout: float,
    environment: Mapping[str, str],
    needed: Sequence[Path],
    output: Callable[[bytes], object],
    console: Path | None,
    exchange: Path | None,
) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="cap-exporter-vm-") as temporary:
        work = Path(temporary)
        shared = work / "shared"
        (shared / "exchange").mkdir(parents=True)
        _write_guest(shared, boot, command, directory, environment, needed)
        write_initramfs(boot, work / "initramfs")
        # To mount the kernel's on; a machine without kernel packages has none.
        (boot.root / "lib/modules").mkdir(exist_ok=True)
        if boot.foreign:
            for path in (directory, boot.kernel.directory, *needed):
                boot.root.joinpath(*path.parts[1:]).mkdir(parents=True, exist_ok=True)
        log = work / "console"
        started = time.monotonic()
        ended = _emulate(emulator_command(boot, work), timeout, output)
        seconds = time.monotonic() - started
        text = log.read_text(errors="replace") if log.exists() else ""
        if console:
            console.write_text(text)
        if exchange:
            shutil.copytree(shared / "exchange", exchange, dirs_exist_ok=True)
        status = shared / "status"
        if not status.exists() or not status.read_text().strip():
            lines = text.splitlines()
            first = next((at for at, line in enumerate(lines) if COMPLAINT.search(line)), None)
            words = lines[-15:] if first is None else lines[first : first + 30]
            how = f"was ended after {timeout:g} s" if ended.timed_out else "went off"
            never_up = not (shared / "booted").exists() and not ended.timed_out and text
            raise (_NeverUp if never_up else MachineError)(
                f"Linux {boot.kernel.release} {how}, before the command had come to its end.\n"
                f"{ended.said}The kernel's log says:\n" + "\n".join(words)
            )
        return Outcome(
            status=int(status.read_text()),
            boot_seconds=float((shared / "booted").read_text()),
            seconds=seconds,
            memory_mib=ended.memory_mib,
            complaints=tuple(line for line in text.splitlines() if COMPLAINT.search(line)),
        )


def emulator_command(boot: Boot, work: Path) -> list[str]:
    """QEMU's command line. ``work`` has shared/ and initramfs, and gets console."""
    emulator = EMULATORS[boot.kernel.architecture]
    # Without -nodefaults there would be a VGA card, a network, a floppy drive to wait for.
    return [
        *(emulator.command, "-accel", "tcg,thread=multi,tb-size=512", *emulator.machine),
        *("-smp", str(boot.cpus), "-m", f"{boot.memory_mib}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(boot.kernel.image), "-initrd", str(work / "initramfs")),
        "-append",
        " ".join(
            (f"console={emulator.console}", "panic=-1", "loglevel=6", *boot.parameters),
        ),
        *("-serial", f"file:{work / 'console'}"),
        # remap: the host's root may hold several file systems with the same inode numbers.
        "-virtfs",
        f"local,path={_comma(boot.root)},mount_tag=root,security_model=none,readonly=on,"
        "multidevs=remap",
        *("-virtfs", f"local,path={_comma(work / 'shared')},mount_tag=vm,security_model=none"),
        "-virtfs",
        "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        *("-device", "virtio-serial-pci"),
        *("-chardev", "file,id=output,path=/proc/self/fd/1"),
        *("-device", "virtserialport,chardev=output,name=output"),
    ]


def _comma(path: Path) -> str:
    """QEMU separates options by commas; a doubled one stands for itself."""
    return str(path).replace(",", ",,")


@dataclass(frozen=True, slots=True)
class _Ended:
    timed_out: bool
    memory_mib: int
    said: str
    """What QEMU itself wrote, for an error's text."""


def _emulate(command: Sequence[str], timeout: float, output: Callable[[bytes], object]) -> _Ended:
    timed_out = threading.Event()
    with tempfile.TemporaryFile() as errors:
        try:
            qemu = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        except FileNotFoundError:
            raise MachineError(
                f"no {command[0]} here; make test-vm installs what this takes"
            ) from None
        assert qemu.stdout

        def end() -> None:
            timed_out.set()
            qemu.kill()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            while part := os.read(qemu.stdout.fileno(), 65536):
                output(part)
            # wait4 and not wait: it tells this one child's memory.
            _, status, usage = os.wait4(qemu.pid, 0)
            qemu.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            if qemu.returncode is None:
                qemu.send_signal(signal.SIGKILL)
                qemu.wait()
            qemu.stdout.close()
        errors.seek(0)
        return _Ended(
            timed_out.is_set(),
            usage.ru_maxrss // 1024,
            errors.read().decode(errors="replace"),
        )


def _write_guest(
    shared: Path,
    boot: Boot,
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    needed: Sequence[Path],
) -> None:
    """What the guest reads: its settings, its first process, and the command."""
    shutil.copy(GUEST / "setup.sh", shared)
    paths = [str(path) for path in (directory, boot.kernel.directory, *needed)]
    settings = {
        "kernel": shlex.quote(str(boot.kernel.directory)),
        "release": shlex.quote(boot.kernel.release),
        "foreign": "yes" if boot.foreign else "",
        "cgroups": boot.cgroups,
        "hidden": f"({shlex.join(boot.hidden)})",
        "needed": f"({shlex.join(dict.fromkeys(paths))})",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    (shared / "settings").write_text("\n".join(lines) + "\n")
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    (shared / "command").write_text(
        "\n".join([*exports, f"cd {shlex.quote(str(directory))}", f"exec {shlex.join(command)}"])
        + "\n"
    )


def write_initramfs(boot: Boot, to: Path) -> None:
    """The initial ramdisk: busybox, the modules that the root file system takes, guest/init.sh."""
    busybox = boot.root / "bin/busybox" if boot.foreign else Path(shutil.which("busybox") or "")
    with tempfile.TemporaryDirectory(prefix="cap-exporter-initramfs-") as temporary:
        tree = Path(temporary)
        for name in ("bin", "dev", "proc", "modules", "newroot"):
            (tree / name).mkdir()
        try:
            shutil.copy(busybox, tree / "bin/busybox")
        except OSError:
            raise MachineError("no busybox here (package busybox-static)") from None
        (tree / "bin/sh").symlink_to("busybox")
        names = []
        for module in modules(boot.kernel, MODULES):
            name = module.name.removesuffix(".xz")
            content = module.read_bytes()
            # busybox loads no compressed ones.
            plain = lzma.decompress(content) if module.suffix == ".xz" else content
            (tree / "modules" / name).write_bytes(plain)
            names.append(name)
        init = (GUEST / "init.sh").read_text().replace("@MODULES@", " ".join(names))
        (tree / "init").write_text(init)
        (tree / "init").chmod(0o755)
        listed = subprocess.run(["find", "."], cwd=tree, check=True, capture_output=True)
        with to.open("wb") as file:
            subprocess.run(
                ["busybox", "cpio", "-o", "-H", "newc"],
                cwd=tree,
                input=listed.stdout,
                stdout=file,
                stderr=subprocess.DEVNULL,
                check=True,
            )


def modules(kernel: KernelTree, names: Sequence[str]) -> list[Path]:
    """The files of modules and of what they need, in the order to load them. Built-in ones have
    none. Raises MachineError for a name that the kernel does not know."""
    files: dict[Path, None] = {}
    for name in names:
        shown = subprocess.run(
            [
                *("modprobe", "--dirname", kernel.directory, "--set-version", kernel.release),
                *("--show-depends", name),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if shown.returncode:
            raise MachineError(f"Linux {kernel.release}: {shown.stderr.strip()}")
        for line in shown.stdout.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "insmod":
                files[Path(rest.split()[0])] = None
    return list(files)
