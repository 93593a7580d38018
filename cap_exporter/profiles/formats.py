# SPDX-License-Identifier: Apache-2.0
"""Advice as what is pasted or applied: Kubernetes, a patch, Docker, Compose, systemd, a table."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from cap_exporter.profiles.advice import times
from cap_exporter.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

Advice = Mapping[str, Any]

#: Where a kind has its pod's spec.
POD_SPEC = {
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "ReplicaSet": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "ReplicationController": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}

_LISTS = {"container": "containers", "init": "initContainers", "ephemeral": "ephemeralContainers"}


def security_context(advice: Advice, *, empty_add: bool = False) -> dict[str, Any]:
    """The ``securityContext`` of a container. empty_add: say that nothing is added, which a patch
    needs to take away what was."""
    capabilities: dict[str, Any] = {"drop": list(advice["drop"])}
    if advice["add"] or empty_add:
        capabilities["add"] = list(advice["add"]) or None
    context: dict[str, Any] = {"capabilities": capabilities}
    if advice["allow_privilege_escalation"] is not None:
        context["allowPrivilegeEscalation"] = advice["allow_privilege_escalation"]
    if advice["privileged"] is not None:
        context["privileged"] = advice["privileged"]
    return context


def title(advice: Advice) -> str:
    """``shop/deployment/api container web``"""
    workload = [advice["workload_kind"].lower(), advice["workload"]] if advice["workload"] else []
    pods = [] if workload or not advice["pods"] else [advice["pods"][0]]
    where = "/".join(part for part in (advice["namespace"], *workload, *pods) if part)
    kind = "" if advice["kind"] == "container" else f"{advice['kind']} "
    return f"{where} {kind}container {advice['container']}".strip()


def _by_workload(several: Iterable[Advice]) -> list[list[Advice]]:
    groups: dict[tuple[str, ...], list[Advice]] = {}
    for advice in several:
        pods = () if advice["workload"] else tuple(advice["pods"])
        key = (advice["namespace"], advice["workload_kind"], advice["workload"], *pods)
        groups.setdefault(key, []).append(advice)
    return list(groups.values())


def _dump(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=False)


def _comment(lines: Iterable[str]) -> str:
    return "".join(f"# {printable(line)}\n" for line in lines)


def _reasons(advice: Advice) -> list[str]:
    confidence = advice["confidence"]
    lines = [f"{title(advice)}: confidence {confidence['level']}"]
    lines += [f"  {reason}" for reason in confidence["reasons"]]
    for needed in advice["needed"]:
        asked = f" by {', '.join(needed['asked_by'])}" if needed["asked_by"] else ""
        lines.append(f"{needed['capability']}: {needed['reason']}{asked}")
    for denied in advice["denied"]:
        lines.append(
            f"decide: {denied['capability']} was denied {times(denied['checks'])}"
            + (f"; usually asked for by {denied['usually']}" if denied["usually"] else "")
        )
    return lines


def kubernetes(several: Sequence[Advice]) -> str:
    """What belongs into the manifest, for each container under its name."""
    parts = []
    for group in _by_workload(several):
        text = ""
        for advice in group:
            entry = [{"name": advice["container"], "securityContext": security_context(advice)}]
            text += _comment(_reasons(advice))
            text += _dump({_LISTS[advice["kind"]]: entry})
        parts.append(text)
    return "---\n".join(parts)


def patch(several: Sequence[Advice]) -> str:
    """Strategic merge patches, one document a workload, each for `kubectl patch --patch-file`.
    Raises ValueError for what is no Kubernetes workload."""
    documents = []
    for group in _by_workload(several):
        first = group[0]
        kind = first["workload_kind"] or ("Pod" if first["pods"] else "")
        path = POD_SPEC.get(kind)
        if path is None:
            raise ValueError(
                f"{title(first)}: there is no patch for "
                + (f"a {kind}; -o kubernetes shows what to set" if kind else "what is in no pod")
            )
        spec: dict[str, Any] = {}
        for advice in group:
            entry = {
                "name": advice["container"],
                "securityContext": security_context(advice, empty_add=True),
            }
            spec.setdefault(_LISTS[advice["kind"]], []).append(entry)
        document: Any = spec
        for key in reversed(path):
            document = {key: document}
        name = first["workload"] or first["pods"][0]
        namespace = shlex.quote(first["namespace"])
        command = (
            f"kubectl -n {namespace} patch {kind.lower()} {shlex.quote(name)} --patch-file FILE"
        )
        lines = [command, *(line for advice in group for line in _reasons(advice))]
        documents.append(_comment(lines) + _dump(document))
    return "---\n".join(documents)


def docker(several: Sequence[Advice]) -> str:
    """Options of `docker run` and `podman run`."""
    lines = []
    for advice in several:
        options = ["--cap-drop=ALL", *(f"--cap-add={name}" for name in advice["add"])]
        if advice["allow_privilege_escalation"] is False:
            options.append("--security-opt=no-new-privileges")
        lines.append(_comment(_reasons(advice)) + " ".join(options) + "\n")
    return "".join(lines)


def compose(several: Sequence[Advice]) -> str:
    """Services of a Compose file (https://docs.docker.com/reference/compose-file/services/)."""
    services: dict[str, Any] = {}
    comments: list[str] = []
    for advice in several:
        service: dict[str, Any] = {"cap_drop": ["ALL"]}
        if advice["add"]:
            service["cap_add"] = list(advice["add"])
        if advice["allow_privilege_escalation"] is False:
            service["security_opt"] = ["no-new-privileges:true"]
        name = _service_name(advice["container"], services)
        services[name] = service
        comments += [f"service {name}:", *_reasons(advice)]
    return _comment(comments) + _dump({"services": services})


def _service_name(container: str, taken: Container[str]) -> str:
    """One that no other has, of the characters that services may have (compose-spec
    schema/compose-spec.json, services)."""
    name = re.sub("[^a-zA-Z0-9._-]+", "-", container) or "-"
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
    return next(one for one in names if one not in taken)


def systemd(several: Sequence[Advice]) -> str:
    """Drop-ins for units (systemd.exec(5)). AmbientCapabilities= is for services with User=."""
    parts = []
    for advice in several:
        unit = advice["container"]
        names = " ".join(f"CAP_{name}" for name in advice["add"])
        text = _comment(
            [
                f"/etc/systemd/system/{unit}.d/capabilities.conf",
                *_reasons(advice),
            ]
        )
        text += f"[Service]\nCapabilityBoundingSet={names}\n"
        non_root = any(note["kind"] == "non-root" for note in advice["notes"])
        if names and non_root:
            text += f"AmbientCapabilities={names}\n"
        if advice["allow_privilege_escalation"] is False:
            text += "NoNewPrivileges=yes\n"
        parts.append(text)
    return "\n".join(parts)


def table(several: Sequence[Advice]) -> Iterable[RenderableType]:
    """For a person at a terminal."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    for advice in several:
        yield Text(printable(title(advice)), style="bold")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        needed = advice["needed"]
        grid.add_row(
            "needs",
            Text("nothing: drop: [ALL] alone will do", style="green")
            if not needed
            else Text(", ".join(name for name in advice["add"]), style="green"),
        )
        for one in needed:
            asked = f" by {', '.join(one['asked_by'])}" if one["asked_by"] else ""
            text = f"{one['capability']}: {one['reason']}{asked}."
            for more in (one["implies"], one["instead"]):
                text += f" {more}" if more else ""
            grid.add_row("", printable(text))
        if advice["unused"]:
            names = ", ".join(name.removeprefix("CAP_") for name in advice["unused"])
            grid.add_row("unused", Text(names, style="yellow"))
        for one in advice["denied"]:
            asked = f" to {', '.join(one['asked_by'])}" if one["asked_by"] else ""
            text = f"{one['capability']} {times(one['checks'])}{asked}: does it need that?"
            text += f" Usually asked for by {one['usually']}." if one["usually"] else ""
            grid.add_row("denied", Text(printable(text), style="bold red"))
        confidence = advice["confidence"]
        grid.add_row("confidence", f"{confidence['level']}: {'; '.join(confidence['reasons'])}")
        security = advice["pod_security"]
        if security:
            text = f"{security['now']} now, {security['with_advice']} with this"
            if security["in_the_way"]:
                text += f"; in the way: {', '.join(security['in_the_way'])}"
            grid.add_row("pod security", printable(text))
        for note in advice["notes"]:
            grid.add_row("note", printable(note["text"]))
        yield Padding(grid, (0, 0, 1, 2))


TEXTS = {
    "kubernetes": kubernetes,
    "patch": patch,
    "docker": docker,
    "compose": compose,
    "systemd": systemd,
}
