# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests compared with a profile: what they grant and nobody used, and what is
used and they do not grant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cap_exporter.pods.security import container_security
from cap_exporter.pods.untrusted import mapping, objects, text
from cap_exporter.profiles.advice import advise, bare, declared_set
from cap_exporter.profiles.formats import POD_SPEC
from cap_exporter.profiles.pod_security import CONTAINER_LISTS

_KINDS = dict(zip(CONTAINER_LISTS, ("init", "container", "ephemeral"), strict=True))


class ManifestError(Exception):
    """A file cannot be used; the text names it and what is wrong."""


class Manifest(NamedTuple):
    """One container of a manifest."""

    file: Path
    namespace: str
    """"" where the manifest does not say."""
    kind: str
    name: str
    container: str
    container_kind: str
    declared: dict[str, Any]

    def __str__(self) -> str:
        where = "/".join(part for part in (self.namespace, self.kind.lower(), self.name) if part)
        return f"{self.file}: {where} container {self.container}"


class Difference(NamedTuple):
    manifest: Manifest
    unused: tuple[str, ...]
    """Granted by the manifest, and used by nobody."""
    missing: tuple[str, ...]
    """Used, and not granted by the manifest."""
    privileged: bool
    """privileged: true, of which the capabilities are but a part."""

    @property
    def is_none(self) -> bool:
        return not (self.unused or self.missing or self.privileged)


class Result(NamedTuple):
    differences: list[Difference]
    unprofiled: list[Manifest]
    """Containers of manifests that no profile is of."""
    checked: int


def read_manifests(path: Path) -> list[Manifest]:
    """Containers of a file's, or of all of a folder's, .yaml, .yml and .json. Raises
    ManifestError."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
        if not files:
            raise ManifestError(f"{path} has no .yaml, .yml or .json file")
    else:
        files = [path]
    return [manifest for file in files for manifest in _of_file(file)]


def _of_file(file: Path) -> Iterator[Manifest]:
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ManifestError(f"cannot read {file}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{file} is not valid YAML: {error}. A template has to be rendered first: helm template"
        ) from error
    for document in documents:
        if mapping(document).get("kind") == "List":
            for item in objects(mapping(document).get("items")):
                yield from _of_object(file, item)
        else:
            yield from _of_object(file, mapping(document))


def _of_object(file: Path, found: Mapping[str, Any]) -> Iterator[Manifest]:
    kind = text(found.get("kind"))
    path = POD_SPEC.get(kind)
    if path is None:
        return
    spec: Mapping[str, Any] = found
    for key in path:
        spec = mapping(spec.get(key))
    metadata = mapping(found.get("metadata"))
    for place, container_kind in _KINDS.items():
        for container in objects(spec.get(place)):
            own = container_security(container)
            yield Manifest(
                file,
                text(metadata.get("namespace")),
                kind,
                text(metadata.get("name")),
                text(container.get("name")),
                container_kind,
                {
                    "capabilities_add": list(own.capabilities_add),
                    "capabilities_drop": list(own.capabilities_drop),
                    "privileged": own.privileged,
                },
            )


def compare(manifests: Sequence[Manifest], profiles: Iterable[Mapping[str, Any]]) -> Result:
    """profiles: merged ones (merge.by_workload)."""
    known: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for profile in profiles:
        kind, name = profile["workload_kind"], profile["workload"]
        known.setdefault((kind, name, profile["container"]), []).append(profile)
    differences = []
    unprofiled = []
    for manifest in manifests:
        found = [
            profile
            for profile in known.get((manifest.kind, manifest.name, manifest.container), [])
            if manifest.namespace in ("", profile["namespace"])
        ]
        if not found:
            unprofiled.append(manifest)
            continue
        for profile in found:
            difference = _difference(manifest, profile)
            if not difference.is_none:
                differences.append(difference)
    return Result(differences, unprofiled, len(manifests) - len(unprofiled))


def _difference(manifest: Manifest, profile: Mapping[str, Any]) -> Difference:
    needed = {f"CAP_{name}" for name in advise(profile)["add"]}
    given = declared_set(manifest.declared, profile.get("runtime", ""))
    privileged = manifest.declared["privileged"] is True
    return Difference(
        manifest,
        () if privileged else tuple(name for name in given if name not in needed),
        tuple(sorted(needed - set(given))),
        privileged,
    )


def as_text(difference: Difference) -> str:
    """One line a finding."""
    lines = []
    if difference.privileged:
        lines.append("privileged: true")
    if difference.unused:
        lines.append(f"granted and unused: {', '.join(map(bare, difference.unused))}")
    if difference.missing:
        lines.append(f"needed and missing: {', '.join(map(bare, difference.missing))}")
    return "\n".join(f"{difference.manifest}: {line}" for line in lines)
