# SPDX-License-Identifier: Apache-2.0
"""Whose checks are wanted."""

from __future__ import annotations

import pytest

from cap_exporter.model import Identity
from cap_exporter.scope import PodSelector, make_scope

POD = Identity("shop", "api-1", "api", "id", "uid", pod_labels=(("app", "web"), ("env", "prod")))
DOCKER = Identity(container="web", container_id="id")
UNIT = Identity(container="ssh.service")
OVERFLOW = Identity(container="(overflow)")


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("all", [POD, DOCKER, UNIT]), ("containers", [POD, DOCKER]), ("pods", [POD])],
)
def test_kinds(kind: str, wanted: list[Identity]) -> None:
    scope = make_scope(kind, (), (), None)
    assert [one for one in (POD, DOCKER, UNIT) if scope.includes(one)] == wanted
    assert scope.includes(OVERFLOW)


def test_namespaces() -> None:
    assert make_scope("all", ("shop",), (), None).includes(POD)
    assert not make_scope("all", ("other",), (), None).includes(POD)
    assert not make_scope("all", ("shop",), (), None).includes(UNIT)
    assert not make_scope("all", (), ("shop",), None).includes(POD)
    assert make_scope("all", (), ("shop",), None).includes(UNIT)
    with pytest.raises(ValueError, match="shop"):
        make_scope("all", ("shop",), ("shop",), None)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("app=web", True),
        ("app==web", True),
        ("app = web , env != test", True),
        ("app!=web", False),
        ("absent!=x", True),
        ("app in (api, web)", True),
        ("app in (api),env", False),
        ("env notin (test,dev)", True),
        ("absent notin (a)", True),
        ("env", True),
        ("!env", False),
        ("!absent,app", True),
        ("app.kubernetes.io/name=x", False),
        ("app=", False),
    ],
)
def test_selectors_are_kubectl_s(text: str, matches: bool) -> None:
    assert PodSelector.parse(text).matches(dict(POD.pod_labels)) is matches
    assert make_scope("all", (), (), text).includes(POD) is matches
    assert not make_scope("all", (), (), text).includes(UNIT)


@pytest.mark.parametrize("text", ["app=web,", "a b", "in (a)", "a in b", "=x", "a,,b", "!", "(x)"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no label selector"):
        PodSelector.parse(text)


def test_the_labels_that_a_selector_needs_are_told() -> None:
    assert PodSelector.parse("a=b,c in (d),!e,a!=f").keys == ("a", "c", "e")
