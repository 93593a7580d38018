# SPDX-License-Identifier: Apache-2.0
"""A merged profile (merge.by_workload) → the least that its ``securityContext`` may say, with a
reason for each capability and how sure that is. Pure. schemas/advice.schema.json is the schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from cap_exporter.capabilities import KNOWN, runtime_default
from cap_exporter.profiles import knowledge
from cap_exporter.profiles.pod_security import level_of

#: Observed for less than this, in seconds, is little: jobs at night have not run.
SHORT = 3600.0
#: Observed for this long, a week with its jobs is in it.
LONG = 7 * 86400.0

ALL = tuple(KNOWN)


def advise(profile: Mapping[str, Any]) -> dict[str, Any]:
    """One container of a workload."""
    declared = profile.get("declared")
    granted = profile.get("granted")
    own_users = _has_own_users(declared, granted)
    used = dict(profile["used"])
    if own_users:
        # What its processes hold is over the user namespace that the checks were for.
        for name, count in profile["in_user_namespace"]["used"].items():
            used[name] = used.get(name, 0) + count
    asked_by = profile.get("asked_by") or {}
    holds = _holds(declared, granted, profile.get("runtime", ""))
    needed = sorted(used, key=_number)
    non_root = bool(granted and granted["uids"] and 0 not in granted["uids"])
    unknown_users = bool(granted and granted["uids"] is None)
    escalation = _allow_escalation(needed, non_root or unknown_users)
    advice: dict[str, Any] = {
        "namespace": profile["namespace"],
        "workload_kind": profile["workload_kind"],
        "workload": profile["workload"],
        "container": profile["container"],
        "kind": profile["kind"],
        "pods": profile["pods"],
        "drop": ["ALL"],
        "add": [bare(name) for name in needed],
        "allow_privilege_escalation": escalation,
        "privileged": False if declared and declared["privileged"] else None,
        "needed": [
            {
                "capability": name,
                "checks": used[name],
                "asked_by": asked_by.get(name, []),
                "reason": f"used {times(used[name])}",
                # That is about the node, over which these hold nothing.
                "implies": "" if own_users else _text(knowledge.IMPLIES, name),
                "instead": _text(knowledge.INSTEAD, name),
            }
            for name in needed
        ],
        "unused": [name for name in holds or () if name not in used],
        "denied": [
            {
                "capability": name,
                "checks": count,
                "asked_by": asked_by.get(name, []),
                "held": bool(holds and name in holds),
                "usually": _text(knowledge.PROBES, name),
            }
            for name, count in sorted(profile["denied"].items(), key=lambda one: _number(one[0]))
            if name not in used
        ],
        "confidence": confidence(profile),
        "notes": [],
        "pod_security": None,
    }
    advice["notes"] = list(_notes(profile, advice, non_root=non_root, own_users=own_users))
    if declared:
        advice["pod_security"] = _pod_security(profile, declared, advice)
    return advice


def advise_all(profiles: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The document that `advise -o json` prints and the API answers."""
    return {"advice": [advise(profile) for profile in profiles]}


def bare(name: str) -> str:
    """As Kubernetes' manifests have it: without ``CAP_``."""
    return name.removeprefix("CAP_")


def times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def confidence(profile: Mapping[str, Any]) -> dict[str, Any]:
    """low, medium or high, why, and for how long it was watched (seconds)."""
    seconds = (_time(profile["last_seen"]) - _time(profile["first_seen"])).total_seconds()
    reasons = [f"watched for {duration(seconds)}"]
    low = seconds < SHORT
    if low:
        reasons.append("less than an hour: what it does only now and then is missing")
    if profile["start_seen"]:
        reasons.append("its start was seen")
    elif profile["start_seen"] is None:
        reasons.append("from Prometheus' history, which does not say whether its start was seen")
    else:
        low = True
        reasons.append("its start was not seen: what it asks for only then is missing")
    if not profile["complete"]:
        low = True
        reasons.append("some of its checks had to be counted under (overflow)")
    if profile.get("unanswered"):
        low = True
        n = profile["unanswered"]
        reasons.append(
            f"{n} exporter{'s' if n != 1 else ''} gave no answer: what it did there is missing"
        )
    if profile["restarts"]:
        reasons.append(f"{profile['restarts']} restarts in that time")
    if profile["replicas"] > 1:
        reasons.append(f"{profile['replicas']} replicas")
    sure = seconds >= LONG and profile["start_seen"]
    level = "low" if low else "high" if sure else "medium"
    return {"level": level, "seconds": round(seconds), "reasons": reasons}


def declared_set(declared: Mapping[str, Any], runtime: str) -> tuple[str, ...]:
    """What a container gets by what it declares, ``CAP_…`` by number: the runtime's default set,
    less what is dropped, and what is added (containerd pkg/cri/server/container_create_linux.go:
    added first, then dropped, ALL before single ones)."""
    if declared["privileged"]:
        return ALL
    add = {_full(name) for name in declared["capabilities_add"]}
    drop = {_full(name) for name in declared["capabilities_drop"]}
    found = {f"CAP_{name}" for name in runtime_default(runtime)}
    if "CAP_ALL" in add:
        found = set(ALL)
    if "CAP_ALL" in drop:
        found = set()
    found |= add - {"CAP_ALL"}
    found -= drop - {"CAP_ALL"}
    return tuple(sorted(found, key=_number))


def _full(name: str) -> str:
    return f"CAP_{name.upper().removeprefix('CAP_')}"


def _holds(
    declared: Mapping[str, Any] | None, granted: Mapping[str, Any] | None, runtime: str
) -> tuple[str, ...] | None:
    """What the container can have; read from its processes, else by what it declares; None: nobody
    has looked."""
    if granted is not None:
        return tuple(granted["bounding"])
    return declared_set(declared, runtime) if declared is not None else None


def _has_own_users(declared: Mapping[str, Any] | None, granted: Mapping[str, Any] | None) -> bool:
    if granted is not None and granted["user_namespace_is_host"] is not None:
        return not granted["user_namespace_is_host"]
    return bool(declared and declared["host_users"] is False)


def _allow_escalation(needed: list[str], maybe_non_root: bool) -> bool | None:
    """None: leave it as it is. False is refused beside CAP_SYS_ADMIN and privileged (kubernetes
    pkg/apis/core/validation, ValidateSecurityContext, v1.34), and would take file capabilities
    from a user that is not root (no_new_privs(5))."""
    if "CAP_SYS_ADMIN" in needed or (maybe_non_root and needed):
        return None
    return False


def _notes(
    profile: Mapping[str, Any], advice: Mapping[str, Any], *, non_root: bool, own_users: bool
) -> Iterable[dict[str, str]]:
    declared = profile.get("declared") or {}
    granted = profile.get("granted") or {}
    # Root of a user namespace of its own is another uid on the node.
    if non_root and not own_users:
        uids = ", ".join(map(str, granted["uids"]))
        if advice["needed"]:
            yield _note(
                "non-root",
                f"Its processes run as uid {uids} and use capabilities, which they have from file "
                "capabilities: allowPrivilegeEscalation: false would take them away.",
                "capabilities(7), File capabilities; no_new_privs in prctl(2)",
            )
        elif declared.get("capabilities_add") or advice["denied"]:
            yield _note(
                "non-root",
                f"Its processes run as uid {uids}: capabilities that are added do nothing for "
                "them, since Kubernetes sets no ambient capabilities. Only file capabilities "
                "on the program, or running as root, would.",
                "capabilities(7), Transformation of capabilities during execve(); Kubernetes "
                "KEP-2763 (ambient capabilities, not implemented)",
            )
    if declared.get("privileged"):
        yield _note(
            "privileged",
            "privileged: true gives more than capabilities: all devices, no seccomp and AppArmor "
            "profile, a writable /sys. Whether it needs those cannot be told from its checks.",
            "Kubernetes, Pod Security Standards; runc libcontainer/SPEC.md",
        )
    if advice["allow_privilege_escalation"] is False and not granted.get("no_new_privs"):
        yield _note(
            "escalation",
            "allowPrivilegeEscalation: false lets programs gain nothing by exec: sudo, su and "
            "other setuid programs of the image stop working as such.",
            "prctl(2), PR_SET_NO_NEW_PRIVS",
        )
    if own_users:
        yield _note(
            "user-namespace",
            "It has a user namespace of its own (hostUsers: false): its capabilities hold over "
            "that and what belongs to it, not over the node.",
            "user_namespaces(7)",
        )
    inner = profile["in_user_namespace"]
    history = bool(granted) and granted["uids"] is None
    if history:
        yield _note(
            "history",
            "As whom its processes run and what they hold beside the bounding set is not in "
            "Prometheus' history. allowPrivilegeEscalation: false is advised only where no "
            "capability is needed: it would take file capabilities from a user that is not root.",
            "prctl(2), PR_SET_NO_NEW_PRIVS",
        )
    if history and not own_users and inner["used"]:
        names = ", ".join(sorted(inner["used"], key=_number))
        yield _note(
            "maybe-user-namespace",
            f"Over a user namespace it used {names}. If that is the pod's own (hostUsers: false), "
            "it needs them; they are not added here. The history does not say.",
            "user_namespaces(7)",
        )
    elif not own_users and (inner["used"] or inner["denied"]):
        yield _note(
            "inner-namespace",
            "It makes user namespaces itself and has all capabilities over those, which needs none "
            "of the container's.",
            "user_namespaces(7)",
        )
    if declared.get("runtime_class"):
        yield _note(
            "runtime-class",
            f"Its runtime class is {declared['runtime_class']}: under a sandbox with a kernel of "
            "its own (Kata, gVisor) the node's kernel does not see the workload's checks.",
            "Kubernetes, Runtime Class",
        )
    if profile.get("granted") is None:
        yield _note(
            "not-looked",
            "What its processes hold was not read; what is unused is told from the manifest alone."
            if profile.get("declared")
            else "What its processes hold was not read, so "
            "nothing can be said about what is unused.",
            "",
        )


def _note(kind: str, text: str, source: str) -> dict[str, str]:
    return {"kind": kind, "text": text, "source": source}


def _pod_security(
    profile: Mapping[str, Any], declared: Mapping[str, Any], advice: Mapping[str, Any]
) -> dict[str, Any]:
    """Of the container and its pod's own settings, as far as they are known here: volumes, ports
    and other containers of the pod may keep it from a level too."""
    now, _ = level_of(_spec(profile, declared, {}))
    changed, obstacles = level_of(_spec(profile, declared, advice))
    return {
        "now": str(now),
        "with_advice": str(changed),
        "in_the_way": [obstacle.text for obstacle in obstacles],
        "not_looked_at": ["volumes", "ports", "AppArmor", "SELinux", "the pod's other containers"],
    }


def _spec(
    profile: Mapping[str, Any], declared: Mapping[str, Any], advice: Mapping[str, Any]
) -> dict[str, Any]:
    context: dict[str, Any] = {
        "privileged": declared["privileged"],
        "allowPrivilegeEscalation": declared["allow_privilege_escalation"],
        "runAsUser": declared["run_as_user"],
        "runAsNonRoot": declared["run_as_non_root"],
        "procMount": declared["proc_mount"],
        "capabilities": {
            "add": declared["capabilities_add"],
            "drop": declared["capabilities_drop"],
        },
    }
    if declared["seccomp"]:
        context["seccompProfile"] = {"type": declared["seccomp"]}
    if advice:
        context["capabilities"] = {"add": advice["add"], "drop": advice["drop"]}
        if advice["allow_privilege_escalation"] is not None:
            context["allowPrivilegeEscalation"] = advice["allow_privilege_escalation"]
        if advice["privileged"] is not None:
            context["privileged"] = advice["privileged"]
    return {
        "hostNetwork": declared["host_network"],
        "hostPID": declared["host_pid"],
        "hostIPC": declared["host_ipc"],
        "hostUsers": declared["host_users"],
        "securityContext": {
            "sysctls": [{"name": name} for name in declared["sysctls"]],
        },
        "containers": [
            {
                "name": profile["container"],
                "securityContext": {k: v for k, v in context.items() if v is not None},
            }
        ],
    }


def _text(of: Mapping[str, knowledge.Fact], name: str) -> str:
    return of[name].text if name in of else ""


def _number(name: str) -> int:
    if name in ALL:
        return ALL.index(name)
    digits = name.removeprefix("CAP_")
    return int(digits) if digits.isdigit() else 1 << 16


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def duration(seconds: float) -> str:
    """``3 days``, ``5 h``, ``12 min``, ``40 s``"""
    for unit, length in (("day", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            number = int(seconds / length)
            plural = "s" if unit == "day" and number != 1 else ""
            return f"{number} {unit}{plural}"
    return f"{seconds:.0f} s"
