# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter resolve`: what a cgroup is, and how that was found out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.cgroups.reference import parse
from cap_exporter.cgroups.tree import CgroupTree
from cap_exporter.cli.client_options import client_options
from cap_exporter.cli.options import option
from cap_exporter.client import NoAnswer, NotLetIn, ask_exporter
from cap_exporter.fleet.http_config import HttpConfig
from cap_exporter.labels import label_value
from cap_exporter.model import CgroupKey, ReferenceKind, Role
from cap_exporter.terminal import printable

_FIELDS = ("kind", "pod_uid", "container_id", "runtime", "qos", "role", "unit")


@click.command("resolve")
@click.argument("what", nargs=-1, required=True, metavar="PATH|CGROUP_ID|PID…")
@option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)
@option(
    "--as",
    "kind",
    type=click.Choice(["auto", "path", "id", "pid"]),
    default="auto",
    envvar="CAP_EXPORTER_AS",
    help="What a bare number is; auto: a process if there is one, else a cgroup's id.",
)
@option(
    "--cgroup-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the host's /sys/fs/cgroup is mounted, if not there.",
)
@client_options
def command(
    what: tuple[str, ...],
    output: str,
    kind: str,
    cgroup_root: Path | None,
    url: str,
    http_config: HttpConfig | None,
) -> None:
    """Say what a cgroup is: a pod's container, a systemd unit, the host. A path is from the
    hierarchy's root, as in /proc/PID/cgroup, or the directory itself. Exit status 1: something
    was not found."""
    with CgroupTree(discover(cgroup_root=cgroup_root)) as tree:
        tree.scan()
        answers = [_resolve(one, kind, tree) for one in what]
    _add_pods(answers, url, http_config)
    if output == "json":
        click.echo(json.dumps(answers, indent=2))
    else:
        for answer in answers:
            click.echo("\n".join(map(printable, _text(answer).split("\n"))))
    sys.exit(0 if all(answer["path"] is not None for answer in answers) else 1)


def _resolve(what: str, kind: str, tree: CgroupTree) -> dict[str, Any]:
    how: list[str] = []
    path: str | None = None
    if kind == "path" or (kind == "auto" and not what.isdigit()):
        path = _path(what, how)
    elif not what.isdigit():
        raise click.UsageError(f"{what!r} is no number; --as {kind} takes numbers")
    elif kind == "pid" or (kind == "auto" and Path(f"/proc/{what}").is_dir()):
        path = _path_of_process(int(what), tree, how)
    else:
        path = _path_of_id(int(what), tree, how)
    answer: dict[str, Any] = {"asked": what, "path": path and label_value(path)}
    answer |= dict.fromkeys(_FIELDS)
    if path is not None:
        reference = parse(path)
        answer |= asdict(reference)
        how.append(_why(answer))
    answer["how"] = how
    return answer


def _add_pods(answers: list[dict[str, Any]], url: str, config: HttpConfig | None) -> None:
    """``pod``: namespace, name and container where a running exporter knows them."""
    inside = [answer for answer in answers if answer["container_id"]]
    known: dict[str, dict[str, Any]] = {}
    if inside:
        try:
            found = ask_exporter(url, config)["containers"]
            known = {one["container_id"]: one for one in found}
        except NotLetIn as error:
            click.echo(f"Pods are not known: {error}.", err=True)
        except NoAnswer:
            pass
    for answer in answers:
        one = known.get(answer["container_id"] or "")
        answer["pod"] = None
        if one and one["pod"]:
            answer["pod"] = {
                "namespace": one["namespace"],
                "name": one["pod"],
                "container": one["container"],
                "workload_kind": one["workload_kind"],
                "workload": one["workload"],
            }
            answer["how"].append(f"the exporter at {url} knows the pod from the Kubernetes API")


def _path(what: str, how: list[str]) -> str:
    for hierarchy in discover().counted:
        if hierarchy.mount and Path(what).is_relative_to(hierarchy.mount):
            how.append(f"{hierarchy.mount} is the mount of {hierarchy.controller or 'cgroup v2'}")
            return "/" + str(Path(what).relative_to(hierarchy.mount)).removeprefix(".")
    return what


def _path_of_process(pid: int, tree: CgroupTree, how: list[str]) -> str | None:
    try:
        found = tree.of_pid(pid)
    except OSError as error:
        how.append(f"/proc/{pid}/cgroup: {error.strerror or error}")
        return None
    if not found:
        how.append(f"there is no process {pid}, or it is in no cgroup")
        return None
    best = found[0]
    where = ",".join(best.controllers) or "cgroup v2"
    how.append(f"process {pid}: /proc/{pid}/cgroup, the line of {where}, tells most")
    return best.path


def _path_of_id(number: int, tree: CgroupTree, how: list[str]) -> str | None:
    for hierarchy in discover().counted:
        path = tree.path(CgroupKey(hierarchy.id, number))
        if path is not None:
            how.append(f"cgroup id {number} in {hierarchy.controller or 'cgroup v2'}")
            return path
    how.append(f"no cgroup has the id {number} (any more), nor is it a process")
    return None


def _why(answer: dict[str, Any]) -> str:
    if answer["kind"] == ReferenceKind.POD:
        if answer["role"] == Role.POD:
            return "the path ends at a pod: no container"
        return "the first pod in the path, and the first container below it"
    if answer["kind"] == ReferenceKind.CONTAINER:
        return "the path names a container outside of any pod"
    if answer["kind"] == ReferenceKind.SYSTEMD:
        return "the path names a systemd unit"
    return "the path names neither pod nor container nor unit: the host itself"


def _text(answer: dict[str, Any]) -> str:
    if answer["path"] is None:
        return f"{answer['asked']}: not found\n" + "".join(f"  {how}\n" for how in answer["how"])
    lines = [f"{answer['asked']}: {answer['kind']}", f"  path          {answer['path']}"]
    lines += [f"  {field:13} {answer[field]}" for field in _FIELDS[1:] if answer[field] is not None]
    if answer["pod"]:
        pod = answer["pod"]
        lines.append(f"  pod           {pod['namespace']}/{pod['name']} {pod['container']}")
    return "\n".join(lines + [f"  because       {how}" for how in answer["how"]]) + "\n"
