# SPDX-License-Identifier: Apache-2.0
"""What the page of one container says. Pure, but for the history it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import yaml

from cap_exporter.model import Verdict
from cap_exporter.outputs.page.history import History
from cap_exporter.outputs.page.node import Fact
from cap_exporter.outputs.page.overview import background, is_running, workload
from cap_exporter.outputs.page.sparkline import Sparkline, sparkline
from cap_exporter.profiles.advice import advise
from cap_exporter.profiles.formats import POD_SPEC, TEXTS
from cap_exporter.profiles.merge import by_workload
from cap_exporter.top.model import History as Rows
from cap_exporter.top.model import Profile, Use, key_of


@dataclass(frozen=True, slots=True)
class Capability:
    use: Use
    asked_by: Sequence[str]
    sparklines: Sequence[Sparkline]


@dataclass(frozen=True, slots=True)
class Snippet:
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class ContainerView:
    profile: Profile
    place: str
    facts: Sequence[Fact]
    capabilities: Sequence[Capability]
    unused: Sequence[str] | None
    """Granted and never used; None: nobody has looked."""
    held: int
    inner: Sequence[tuple[str, Mapping[str, int]]]
    """Over user namespaces of its own: ``used`` and ``denied``."""
    background: int
    declared: str
    """As a manifest has it; ``""``: nothing is known."""
    advice: Mapping[str, Any] | None
    """None: it is no workload that could be given any."""
    snippets: Sequence[Snippet]
    profile_url: str
    advice_url: str


def container_view(
    profile: Profile, profiles: Sequence[Profile], history: History
) -> ContainerView:
    """profiles: all there are; the advice is for its workload's containers together."""
    (row,) = Rows().add([profile], 0.0)
    key = row.key
    advice, snippets = None, list[Snippet]()
    if key.pod or key.container_id or key.container.endswith(".service"):
        advice = advise(_with_its_workload(profile, profiles))
        ways = ("kubernetes", "patch") if key.pod else ("docker", "compose")
        snippets = [
            Snippet(_TITLES[way], TEXTS[way]([advice]))
            for way in (ways if key.pod or key.container_id else ("systemd",))
            if way != "patch" or advice["workload_kind"] in ("", *POD_SPEC)
        ]
    query = urlencode({name: profile[name] for name in ("namespace", "pod", "container")})
    granted = profile.get("granted")
    return ContainerView(
        profile,
        "/".join(part for part in key[:3] if part),
        _facts(profile),
        [_capability(use, profile, history) for use in row.uses],
        row.unused,
        len(granted["bounding"]) if granted else 0,
        [(what, counts) for what, counts in profile["in_user_namespace"].items() if counts],
        background(profile),
        _declared(profile.get("declared")),
        advice,
        snippets,
        f"/api/v1/profiles?{query}",
        f"/api/v1/advice?{query}",
    )


_TITLES = {
    "kubernetes": "For the manifest (Kubernetes)",
    "patch": "As a patch for kubectl",
    "docker": "For docker run and podman run",
    "compose": "For a Compose file",
    "systemd": "Drop-in for the unit (systemd)",
}


def _with_its_workload(profile: Profile, profiles: Sequence[Profile]) -> dict[str, Any]:
    names = ("namespace", "container", "workload_kind", "workload")
    near = [one for one in profiles if all(one[name] == profile[name] for name in names)]
    return next(
        merged
        for merged in by_workload(near)
        if merged["kind"] == profile.get("kind", "container")
        and (profile["workload"] or not profile["pod"] or profile["pod"] in merged["pods"])
    )


def _capability(use: Use, profile: Profile, history: History) -> Capability:
    sparklines = []
    for verdict, count in ((Verdict.DENIED, use.denied), (Verdict.ALLOWED, use.used)):
        if count:
            counts = history.of(key_of(profile), use.name, verdict, count)
            word = "denied" if verdict is Verdict.DENIED else "used"
            if counts is not None:
                sparklines.append(sparkline(counts, word))
    return Capability(use, profile["asked_by"].get(use.name, ()), sparklines)


def _facts(profile: Profile) -> list[Fact]:
    granted = profile.get("granted")
    facts = [
        Fact("State", "running" if is_running(profile) else "ended"),
        Fact("Workload", workload(profile)),
        Fact("Image", profile["image"]),
        Fact("Runtime", profile["runtime"]),
        Fact("Container id", profile["container_id"]),
        Fact("Cgroup", profile["cgroup"]),
        Fact("First seen", moment(profile["first_seen"])),
        Fact("Last seen", moment(profile["last_seen"])),
    ]
    if granted:
        facts += [
            Fact("Users", ", ".join(f"uid {uid}" for uid in granted["uids"])),
            Fact("no_new_privs", "set" if granted["no_new_privs"] else "not set"),
            Fact(
                "User namespace", "the host's" if granted["user_namespace_is_host"] else "its own"
            ),
        ]
    if not profile["complete"]:
        text = "some were counted under (overflow), for want of room"
        facts.append(Fact("Checks", text, is_problem=True))
    return [fact for fact in facts if fact.text]


def moment(text: str) -> str:
    """``2026-11-25 17:14:20 UTC``"""
    return text.replace("T", " ").replace("Z", " UTC")


def _declared(declared: Mapping[str, Any] | None) -> str:
    if declared is None:
        return ""
    capabilities = {
        "add": list(declared["capabilities_add"]) or None,
        "drop": list(declared["capabilities_drop"]) or None,
    }
    said: dict[str, Any] = {
        "capabilities": {name: value for name, value in capabilities.items() if value} or None,
        "privileged": declared["privileged"],
        "allowPrivilegeEscalation": declared["allow_privilege_escalation"],
        "runAsUser": declared["run_as_user"],
        "runAsNonRoot": declared["run_as_non_root"],
        "procMount": declared["proc_mount"] or None,
        "seccompProfile": {"type": declared["seccomp"]} if declared["seccomp"] else None,
    }
    of_pod = {
        "hostUsers": declared["host_users"],
        "hostNetwork": declared["host_network"] or None,
        "hostPID": declared["host_pid"] or None,
        "hostIPC": declared["host_ipc"] or None,
        "runtimeClassName": declared["runtime_class"] or None,
    }
    context = {name: value for name, value in said.items() if value is not None}
    pod = {name: value for name, value in of_pod.items() if value is not None}
    return str(yaml.safe_dump({"securityContext": context, **pod}, sort_keys=False))
