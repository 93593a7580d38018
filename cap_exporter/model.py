# SPDX-License-Identifier: Apache-2.0
"""The values that pass from stage to stage: sources, cgroups, pods, ledger, outputs.

Plain immutable records without behaviour. A stage knows the stage before it only through these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol


class Verdict(StrEnum):
    """What cap_capable() answered: 0 is allowed, -EPERM is denied."""

    ALLOWED = "allowed"
    DENIED = "denied"


class UserNamespace(StrEnum):
    """The user namespace the capability was asked for: the host's initial one, or a child."""

    INIT = "init"
    OTHER = "other"


class CheckClass(StrEnum):
    """What a check is worth. Every check has exactly one class: the first that applies."""

    SETUP = "setup"
    """A container runtime (or systemd's executor) preparing the container, not the workload."""
    OTHER = "other"
    """Somebody else's credentials were checked: a netlink opener's, a ptracer's."""
    OVERRIDE = "override"
    """The kernel worked under borrowed credentials, e.g. overlayfs under its mounter's."""
    NOAUDIT = "noaudit"
    """The kernel probed and did not mean it (CAP_OPT_NOAUDIT)."""
    ALTERNATIVE = "alternative"
    """Denied, but the subject holds the other capability that the kernel asks for next."""
    UNCLASSIFIED = "unclassified"
    """The audit class could not be told, and this capability has noaudit callers."""
    MEANINGFUL = "meaningful"
    """Audited, the workload's, with its own credentials: what profiles and alerts are about."""


class CgroupKey(NamedTuple):
    """A cgroup by number. Numbers are unique within a hierarchy and never reused within a boot."""

    hierarchy: int
    """0 for cgroup v2, else the v1 hierarchy's id (first column of /proc/PID/cgroup)."""
    id: int
    """kernfs node id; equals st_ino of the directory on 64-bit kernels since 5.5."""


#: Stands for "no room was left to tell which cgroup": published as container="(overflow)".
OVERFLOW = CgroupKey(-1, 0)


class CheckKey(NamedTuple):
    """What equal checks have in common; one counter in the kernel."""

    cgroup: CgroupKey
    capability: int
    verdict: Verdict
    user_namespace: UserNamespace
    check_class: CheckClass


class CgroupChange(StrEnum):
    CREATED = "created"
    REMOVED = "removed"
    RENAMED = "renamed"


class CgroupEvent(NamedTuple):
    """A cgroup came, went or changed its name, as the kernel's tracepoint said it."""

    change: CgroupChange
    cgroup: CgroupKey
    path: str
    """From the hierarchy's root, ``/`` first; bytes that are not UTF-8 as surrogate escapes."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What processes hold: a union over all of a cgroup's, or a container's. Masks by capability
    number."""

    bounding: int
    permitted: int = 0
    effective: int = 0
    ambient: int = 0
    inheritable: int = 0
    uids: tuple[int, ...] = ()
    """Real uids seen, ascending; a few of them where there are many."""
    no_new_privs: bool | None = None
    """Every process has given up gaining privileges by exec (allowPrivilegeEscalation: false)."""
    processes: int = 0
    user_namespace_is_host: bool = True
    """False: all of it holds over a user namespace of the container's own only."""


@dataclass(frozen=True, slots=True)
class Drain:
    """What a source gives each time it is drained: what came since the last time."""

    time: float
    """Seconds since the epoch (UTC) when the counters were read."""
    increments: Sequence[tuple[CheckKey, int]] = ()
    """Checks counted since the last drain. A key may appear more than once: add them up."""
    cgroup_events: Sequence[CgroupEvent] = ()
    """In the kernel's order. A cgroup's creation never comes later than its first count."""
    cgroup_events_lost: int = 0
    """Events since the last drain for which the ring had no room: scan the file system again."""
    missed: Mapping[str, int] = field(default_factory=dict)
    """Checks the kernel did not show us, by reason; cumulative since the source was opened."""
    events: Sequence[Event] = ()
    """Sampled checks, in the order in which they were made."""
    events_lost: Mapping[str, int] = field(default_factory=dict)
    """Events that were not sent, by reason (``full``, ``limited``); cumulative."""
    entered: Mapping[CgroupKey, Granted] = field(default_factory=dict)
    """What entrypoints held that began since the last drain."""
    held: Mapping[CgroupKey, Granted] = field(default_factory=dict)
    """What all processes hold now; empty where this drain did not look."""
    slots_used: int = 0
    slots_total: int = 0


class SourceInfo(NamedTuple):
    """How checks are counted; published as cap_exporter_source_info."""

    source: str
    """libbpf, bcc or replay."""
    attach: str
    """tp_btf, fexit, kprobe, raw_tracepoint, …; empty where it has no meaning."""


class SourceError(Exception):
    """A source cannot work on this host. The text names what is missing and the way out."""


class Source(Protocol):
    """Where checks come from. Not thread-safe: one thread opens, drains and closes it."""

    def open(self) -> SourceInfo:
        """Load and attach. Counting has begun when this returns. Raises SourceError."""

    def drain(self) -> Drain:
        """What was counted since the last drain. Never loses a check, never counts one twice."""

    def introduce(self, cgroups: Iterable[tuple[CgroupKey, str]]) -> None:
        """Cgroups that were there before open(), with their paths. Before the first drain()."""

    def release(self, cgroups: Sequence[CgroupKey]) -> None:
        """These cgroups were removed: their room may be used again, after a grace period and
        one last read, which a later drain() returns."""

    def close(self) -> None:
        """Detach and free everything. Call drain() first to keep the last counts."""


class ReferenceKind(StrEnum):
    """What a cgroup path is the path of."""

    POD = "pod"
    CONTAINER = "container"
    SYSTEMD = "systemd"
    HOST = "host"


class Role(StrEnum):
    CONTAINER = "container"
    HELPER = "helper"
    """A runtime's monitor (conmon, lxc monitor): never in a profile."""
    POD = "pod"
    """The pod's own level, no container."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a cgroup path tells by itself, before anyone is asked. None: not told by the path."""

    kind: ReferenceKind
    pod_uid: str | None = None
    container_id: str | None = None
    runtime: str | None = None
    qos: str | None = None
    role: Role = Role.CONTAINER
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class ContainerSecurity:
    """What a container's ``securityContext`` declares; None, ``""`` and ``()`` where it is silent.

    A container's own value wins over its pod's (PodSecurity).
    """

    capabilities_add: tuple[str, ...] = ()
    """As they stand in the manifest: usually without ``CAP_``, ``ALL`` among them."""
    capabilities_drop: tuple[str, ...] = ()
    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    run_as_user: int | None = None
    run_as_non_root: bool | None = None
    proc_mount: str = ""
    """Default or Unmasked."""
    seccomp: str = ""
    """RuntimeDefault, Localhost or Unconfined."""


@dataclass(frozen=True, slots=True)
class PodSecurity:
    """What a pod declares for all of its containers; None and ``""`` where it is silent."""

    run_as_user: int | None = None
    run_as_non_root: bool | None = None
    seccomp: str = ""
    sysctls: tuple[tuple[str, str], ...] = ()
    """Name and value."""
    host_users: bool | None = None
    """False: the pod has a user namespace of its own."""
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod, as the Kubernetes API tells it."""

    name: str
    container_id: str
    """Without the ``containerd://`` prefix; ``""`` until the runtime has made it."""
    runtime: str = ""
    image: str = ""
    kind: str = "container"
    """container, init or ephemeral."""
    previous_ids: tuple[str, ...] = ()
    """Ids of ended containers that had this name in the pod, as far as its status names them."""
    security: ContainerSecurity | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """The few fields of a pod that are used."""

    uid: str
    namespace: str
    name: str
    workload_kind: str = ""
    workload: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    containers: tuple[Container, ...] = ()
    deleted_at: float | None = None
    """Seconds since the epoch when the watch saw it go; None while it is there."""
    cgroup_uid: str = ""
    """The uid in its cgroup's path where that is not ``uid``: a static pod's configuration hash."""
    runtime_class: str = ""
    """spec.runtimeClassName: with Kata or gVisor the host does not see the workload's checks."""
    security: PodSecurity | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose checks these are: what becomes labels and attributes. ``""`` where it has no value."""

    namespace: str = ""
    pod: str = ""
    container: str = ""
    """Container name, 12-character container id, systemd unit, ``(host)`` or ``(overflow)``."""
    container_id: str = ""
    pod_uid: str = ""
    image: str = ""
    workload_kind: str = ""
    workload: str = ""
    runtime: str = ""
    cgroup: str = ""
    """Path from the hierarchy's root."""
    helper: bool = False
    """A runtime's monitor process, not a workload."""
    pod_labels: tuple[tuple[str, str], ...] = ()
    """Of the pod's labels those that were asked for, names ascending."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process at the moment of a check; as the kernel knew it, not as it calls itself."""

    pid: int
    """In the host's pid namespace."""
    comm: str
    executable: str
    """Path as the process sees it; ``""`` where it has none (a kernel thread)."""
    cwd: str
    uid: int
    start_time: float
    """Seconds since the epoch (UTC)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One check that was told, and how many equal ones it stands for."""

    time: float
    """Seconds since the epoch (UTC)."""
    check: CheckKey
    process: Process
    parent: Process
    tid: int
    container_pid: int
    """The process's number in its own pid namespace."""
    gid: int
    auid: int | None
    """Login uid; None: nobody logged in."""
    return_value: int
    suppressed: int
    """Equal checks since the last event of them: same cgroup, executable, capability, verdict and
    user namespace."""
    target_level: int
    """Nesting of the user namespace that was asked for; 0 is the host's."""
    target_uid: int
    target_gid: int
    target_inode: int
    effective: int
    """Capability sets of the checked credentials, as masks."""
    permitted: int
    bounding: int
    namespaces: Mapping[str, int]
    """Inodes of the process's namespaces; those that the kernel does not have are missing."""
    syscall: int | None = None
    """Number; None: not told by this way to attach, or not in a system call."""
    audit: bool | None = None
    """The kernel's own word (CAP_OPT_NOAUDIT), where the hook gives it."""
    insetid: bool | None = None
    stack: tuple[int, ...] = ()
    """Kernel return addresses, innermost first, where they were asked for."""
    arguments: tuple[str, ...] = ()
    """The command line, where it was asked for and could be read."""
