# SPDX-License-Identifier: Apache-2.0
"""What is known about single capabilities: what they are, who asks without need, ways without.

capabilities(7) of man-pages 6.9 unless another source stands beside the entry.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Fact(NamedTuple):
    text: str
    source: str


#: What holding one means in a container, where that is more than its name says.
IMPLIES: Final = {
    "CAP_SYS_ADMIN": Fact(
        "It is a great many privileges in one (mount, namespaces, and whatever has none of its "
        "own) and in most ways the same as being root on the node.",
        "capabilities(7), Notes to kernel developers",
    ),
    "CAP_SYS_PTRACE": Fact(
        "It reads and changes any process of the container's pid namespace, or of the node's "
        "with hostPID.",
        "ptrace(2), Ptrace access mode checking",
    ),
    "CAP_SYS_MODULE": Fact(
        "It loads code into the node's kernel: the same as root on the node.",
        "capabilities(7)",
    ),
    "CAP_DAC_READ_SEARCH": Fact(
        "It opens files by handle (open_by_handle_at), outside the container's mounts too.",
        "open_by_handle_at(2)",
    ),
    "CAP_SYS_RAWIO": Fact(
        "It reaches I/O ports and raw devices where the container has them.", "capabilities(7)"
    ),
    "CAP_NET_ADMIN": Fact(
        "It configures the network of the pod, and of the node with hostNetwork.",
        "capabilities(7)",
    ),
    "CAP_BPF": Fact(
        "With CAP_PERFMON it reads kernel memory through BPF programs.",
        "Linux include/uapi/linux/capability.h, 6.18",
    ),
    "CAP_NET_RAW": Fact("It sees and forges packets of the pod's network.", "packet(7), raw(7)"),
    "CAP_MKNOD": Fact(
        "Device nodes that it makes are still refused by the cgroup's device rules.",
        "Linux security/device_cgroup.c, 6.18",
    ),
}

#: Programs that usually ask, and go on without: a denial is no proof that it is needed.
PROBES: Final = {
    "CAP_SYS_ADMIN": Fact("systemd's libraries, sandboxes of browsers", "capabilities(7)"),
    "CAP_NET_ADMIN": Fact(
        "programs that want larger socket buffers than allowed (SO_RCVBUFFORCE) or a priority "
        "(SO_PRIORITY)",
        "socket(7)",
    ),
    "CAP_SYS_NICE": Fact(
        "databases and JVMs that want a higher priority, and go on with the one they have",
        "setpriority(2)",
    ),
    "CAP_SYS_RESOURCE": Fact(
        "servers that raise a limit at start (setrlimit, F_SETPIPE_SZ), and go on with what they "
        "got",
        "setrlimit(2), fcntl(2)",
    ),
    "CAP_IPC_LOCK": Fact(
        "programs that lock memory (mlock) beyond RLIMIT_MEMLOCK, and warn", "mlock(2)"
    ),
    "CAP_SYS_PTRACE": Fact(
        "ps, top, ss and agents that look into other users' /proc entries, and show less",
        "proc(5)",
    ),
    "CAP_DAC_READ_SEARCH": Fact(
        "find, du and backups that meet folders of others, and go on", "path_resolution(7)"
    ),
    "CAP_DAC_OVERRIDE": Fact(
        "whoever tries to write a file of somebody else, and says so", "path_resolution(7)"
    ),
    "CAP_SYSLOG": Fact("dmesg", "syslog(2)"),
    "CAP_AUDIT_WRITE": Fact("PAM, sshd, sudo and su, which log to the audit system", "audit(8)"),
    "CAP_CHOWN": Fact("tar, cp -a and rsync, which keep the owner where they may", "chown(2)"),
    "CAP_FOWNER": Fact("tar, cp -a and rsync, which keep times and modes", "chmod(2), utime(2)"),
    "CAP_SETGID": Fact("programs that give up groups at start (setgroups)", "setgroups(2)"),
    "CAP_SETUID": Fact("programs that change to a user at start", "setuid(2)"),
    "CAP_SETPCAP": Fact("programs that empty their bounding set (PR_CAPBSET_DROP)", "prctl(2)"),
    "CAP_NET_RAW": Fact("ping, which falls back to ICMP sockets", "icmp(7), ping_group_range"),
    "CAP_BPF": Fact("libraries that look for BPF at start", "bpf(2)"),
    "CAP_PERFMON": Fact("profilers", "perf_event_open(2)"),
}

#: How to do without.
INSTEAD: Final = {
    "CAP_NET_BIND_SERVICE": Fact(
        "Without it: listen on a port from 1024 on, or let the pod use low ports by the safe "
        "sysctl "
        'net.ipv4.ip_unprivileged_port_start (securityContext.sysctls, value "0").',
        "Kubernetes, Using sysctls in a Kubernetes Cluster (safe since 1.22); Linux "
        "Documentation/networking/ip-sysctl.rst",
    ),
    "CAP_NET_RAW": Fact(
        'If it is for ping only: the safe sysctl net.ipv4.ping_group_range ("0 2147483647") '
        "allows that without.",
        "Kubernetes, Using sysctls in a Kubernetes Cluster (safe since 1.18); icmp(7)",
    ),
    "CAP_DAC_OVERRIDE": Fact(
        "Most often files belong to another user than the process: set their owner in the image, "
        "or fsGroup for volumes.",
        "path_resolution(7); Kubernetes, Configure a Security Context",
    ),
    "CAP_CHOWN": Fact(
        "If it is a start script that sets owners: do that when the image is built, or by fsGroup.",
        "Kubernetes, Configure a Security Context",
    ),
    "CAP_SETUID": Fact(
        "If it is an entrypoint that changes to a user: start as that user (runAsUser) instead.",
        "Kubernetes, Configure a Security Context",
    ),
    "CAP_SETGID": Fact(
        "If it is an entrypoint that changes to a user: start as that user (runAsUser, runAsGroup) "
        "instead.",
        "Kubernetes, Configure a Security Context",
    ),
    "CAP_SYS_ADMIN": Fact(
        "Look at what asks for it: newer kernels have CAP_BPF, CAP_PERFMON and "
        "CAP_CHECKPOINT_RESTORE (5.8, 5.8, 5.9) for parts of it.",
        "capabilities(7)",
    ),
}
