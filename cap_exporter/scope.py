# SPDX-License-Identifier: Apache-2.0
"""Whose checks are wanted: all of the host's, containers' or pods', of which namespaces and pods.

Decided by name, after counting: looking a cgroup up for each check in the kernel would cost more
than counting it does. What is left out is counted in a metric of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cap_exporter.model import Identity


class Kind(StrEnum):
    ALL = "all"
    """The host and its units too."""
    CONTAINERS = "containers"
    PODS = "pods"


_SET = re.compile(r"(?P<key>[^\s!=(),]+)\s+(?P<how>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(r"(?P<key>[^\s!=(),]+)\s*(?P<how>==|=|!=)\s*(?P<value>[^\s!=(),]*)")
_EXISTS = re.compile(r"(?P<no>!?)\s*(?P<key>[^\s!=(),]+)")

_Requirement = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True)
class PodSelector:
    """A label selector as `kubectl get -l` takes it.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
    """

    text: str
    keys: tuple[str, ...]
    """Names of the labels that are asked for."""
    requirements: tuple[_Requirement, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> PodSelector:
        """Raises ValueError, naming the part that is none."""
        keys: list[str] = []
        requirements: list[_Requirement] = []
        # Commas between parentheses separate values.
        for part in re.split(r",(?![^(]*\))", text):
            key, requirement = _requirement(part.strip())
            keys.append(key)
            requirements.append(requirement)
        return cls(text, tuple(dict.fromkeys(keys)), tuple(requirements))

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement(labels) for requirement in self.requirements)


def _requirement(part: str) -> tuple[str, _Requirement]:
    if found := _SET.fullmatch(part):
        key = found["key"]
        values = frozenset(value.strip() for value in found["values"].split(","))
        if found["how"] == "in":
            return key, lambda labels: labels.get(key) in values
        return key, lambda labels: labels.get(key) not in values
    if found := _EQUALITY.fullmatch(part):
        key, value = found["key"], found["value"]
        if found["how"] == "!=":
            return key, lambda labels: labels.get(key) != value
        return key, lambda labels: labels.get(key) == value
    if found := _EXISTS.fullmatch(part):
        key, absent = found["key"], bool(found["no"])
        return key, lambda labels: (key in labels) != absent
    raise ValueError(
        f"{part!r} is no label selector: write e.g. app=web, env!=test, tier in (a, b), !canary"
    )


@dataclass(frozen=True, slots=True)
class Scope:
    """namespaces: only these; empty: all, and what is in none. excluded: not these. selector: only
    pods with such labels."""

    kind: Kind = Kind.ALL
    namespaces: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    selector: PodSelector | None = None

    def includes(self, identity: Identity) -> bool:
        """Whether checks of ``identity`` are wanted. Nobody's, ``(overflow)``, always are: they
        may be anybody's."""
        if identity.container == "(overflow)":
            return True
        if self.kind is Kind.PODS and not identity.pod_uid:
            return False
        if self.kind is Kind.CONTAINERS and not (identity.pod_uid or identity.container_id):
            return False
        if self.namespaces and identity.namespace not in self.namespaces:
            return False
        if identity.namespace in self.excluded and identity.namespace:
            return False
        return self.selector is None or (
            bool(identity.pod_uid) and self.selector.matches(dict(identity.pod_labels))
        )

    @property
    def is_everything(self) -> bool:
        return self == Scope()


def make_scope(
    kind: str, namespaces: Sequence[str], excluded: Sequence[str], selector: str | None
) -> Scope:
    """Raises ValueError for a namespace that is wanted and not, and for a bad selector."""
    both = sorted(set(namespaces) & set(excluded))
    if both:
        raise ValueError(f"namespace {both[0]} is both among the wanted and the excluded ones")
    return Scope(
        Kind(kind),
        frozenset(namespaces),
        frozenset(excluded),
        PodSelector.parse(selector) if selector else None,
    )
