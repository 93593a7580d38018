# SPDX-License-Identifier: Apache-2.0
"""Advice from profiles: what is added, what is said, in every format."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cap_exporter.capabilities import CONTAINERD_DEFAULT, CRIO_DEFAULT
from cap_exporter.cli import group
from cap_exporter.profiles.advice import advise, declared_set
from cap_exporter.profiles.formats import POD_SPEC, TEXTS, kubernetes, patch
from cap_exporter.profiles.manifests import compare, read_manifests
from cap_exporter.profiles.merge import by_workload
from cap_exporter.profiles.pod_security import Level, level_of
from cap_exporter.profiles.profile import unused

DEFAULTS = [f"CAP_{name}" for name in CONTAINERD_DEFAULT]


def profile(**more: Any) -> dict[str, Any]:
    return {
        "container_id": "a" * 64,
        "namespace": "shop",
        "pod": "web-1",
        "container": "web",
        "cgroup": "/x",
        "workload_kind": "Deployment",
        "workload": "web",
        "image": "web:1",
        "runtime": "containerd",
        "kind": "container",
        "used": {},
        "denied": {},
        "in_user_namespace": {"used": {}, "denied": {}},
        "background": {},
        "asked_by": {},
        "granted": granted(),
        "declared": declared(),
        "first_seen": "2026-01-01T00:00:00Z",
        "last_seen": "2026-01-02T00:00:00Z",
        "running": True,
        "start_seen": True,
        "complete": True,
    } | more


def granted(**more: Any) -> dict[str, Any]:
    return {
        "bounding": DEFAULTS,
        "permitted": DEFAULTS,
        "effective": DEFAULTS,
        "ambient": [],
        "inheritable": [],
        "uids": [0],
        "no_new_privs": False,
        "user_namespace_is_host": True,
    } | more


def declared(**more: Any) -> dict[str, Any]:
    return {
        "capabilities_add": [],
        "capabilities_drop": [],
        "privileged": None,
        "allow_privilege_escalation": None,
        "run_as_user": None,
        "run_as_non_root": None,
        "proc_mount": "",
        "seccomp": "",
        "host_users": None,
        "host_network": False,
        "host_pid": False,
        "host_ipc": False,
        "sysctls": {},
        "runtime_class": "",
    } | more


def advice_of(*profiles: dict[str, Any]) -> dict[str, Any]:
    (merged,) = by_workload(profiles)
    return advise(merged)


def test_replicas_and_restarts_are_one_workload() -> None:
    used = {"CAP_CHOWN": 2}
    (merged,) = by_workload(
        [
            profile(used=used, pod="web-1", background={"setup": {"CAP_SETPCAP": 5}}),
            profile(used=used, pod="web-2", first_seen="2025-12-01T00:00:00Z"),
            profile(pod="web-2", container_id="b" * 64, running=False, start_seen=False),
        ]
    )
    assert merged["used"] == {"CAP_CHOWN": 4}
    assert merged["background"] == {"setup": {"CAP_SETPCAP": 5}}
    assert (merged["pods"], merged["replicas"], merged["restarts"]) == (["web-1", "web-2"], 2, 1)
    assert merged["first_seen"] == "2025-12-01T00:00:00Z"
    assert merged["start_seen"]


def test_init_and_other_containers_have_their_own() -> None:
    merged = by_workload(
        [profile(), profile(container="log"), profile(container="web", kind="init")]
    )
    assert [(one["container"], one["kind"]) for one in merged] == [
        ("log", "container"),
        ("web", "container"),
        ("web", "init"),
    ]


@pytest.mark.parametrize(
    ("more", "level"),
    [
        ({"last_seen": "2026-01-01T00:10:00Z"}, "low"),
        ({}, "medium"),
        ({"last_seen": "2026-01-09T00:00:00Z"}, "high"),
        ({"start_seen": False, "last_seen": "2026-01-09T00:00:00Z"}, "low"),
        ({"complete": False, "last_seen": "2026-01-09T00:00:00Z"}, "low"),
    ],
)
def test_confidence_grows_with_time_and_needs_the_start(more: dict[str, Any], level: str) -> None:
    confidence = advice_of(profile(**more))["confidence"]
    assert confidence["level"] == level
    assert confidence["reasons"]


def test_sys_admin_leaves_allow_privilege_escalation_alone() -> None:
    # The API refuses false beside CAP_SYS_ADMIN.
    advice = advice_of(profile(used={"CAP_SYS_ADMIN": 1}))
    assert advice["allow_privilege_escalation"] is None
    assert "root on the node" in advice["needed"][0]["implies"]


def test_privileged_is_taken_away_and_what_else_it_gave_is_said() -> None:
    advice = advice_of(profile(declared=declared(privileged=True)))
    assert advice["privileged"] is False
    assert any(note["kind"] == "privileged" for note in advice["notes"])


def test_file_capabilities_of_an_ordinary_user_are_kept() -> None:
    advice = advice_of(profile(granted=granted(uids=[101]), used={"CAP_NET_RAW": 5}))
    assert advice["allow_privilege_escalation"] is None
    assert any("file capabilities" in note["text"] for note in advice["notes"])


def test_checks_over_a_user_namespace_of_the_pod_count_and_those_of_an_inner_one_do_not() -> None:
    inner = {"used": {"CAP_SYS_ADMIN": 3}, "denied": {}}
    of_pod = granted(user_namespace_is_host=False)
    assert advice_of(profile(in_user_namespace=inner, granted=of_pod))["add"] == ["SYS_ADMIN"]
    in_own = profile(in_user_namespace=inner, granted=of_pod | {"uids": [100000]})
    assert {note["kind"] for note in advice_of(in_own)["notes"]} == {"user-namespace"}
    chown = {"used": {"CAP_CHOWN": 3}, "denied": {}}
    assert "CAP_CHOWN" not in (unused(profile(in_user_namespace=chown, granted=of_pod)) or ())
    assert "CAP_CHOWN" in (unused(profile(in_user_namespace=chown)) or ())
    advice = advice_of(profile(in_user_namespace=inner))
    assert advice["add"] == []
    assert any(note["kind"] == "inner-namespace" for note in advice["notes"])


@pytest.mark.parametrize(
    ("add", "drop", "runtime", "expected"),
    [
        ([], [], "containerd", set(CONTAINERD_DEFAULT)),
        ([], [], "cri-o", set(CRIO_DEFAULT)),
        (["NET_ADMIN"], ["ALL"], "containerd", {"NET_ADMIN"}),
        (["CAP_NET_ADMIN"], ["all"], "containerd", {"NET_ADMIN"}),
        (["SYS_TIME"], ["CHOWN"], "cri-o", set(CRIO_DEFAULT) - {"CHOWN"} | {"SYS_TIME"}),
        (["ALL"], ["NET_RAW"], "containerd", None),
    ],
)
def test_what_a_manifest_grants(
    add: list[str], drop: list[str], runtime: str, expected: set[str] | None
) -> None:
    found = declared_set(declared(capabilities_add=add, capabilities_drop=drop), runtime)
    names = {name.removeprefix("CAP_") for name in found}
    if expected is None:
        assert len(names) == 40
        assert "NET_RAW" not in names
    else:
        assert names == expected


def test_unused_is_told_from_the_manifest_where_nobody_looked() -> None:
    advice = advice_of(profile(granted=None, used={"CAP_CHOWN": 1}))
    assert len(advice["unused"]) == 13
    assert advice_of(profile(granted=None, declared=None))["unused"] == []


def test_kubernetes_has_names_without_prefix_and_reasons() -> None:
    text = kubernetes([advice_of(profile(used={"CAP_NET_BIND_SERVICE": 3}))])
    assert yaml.safe_load(text) == {
        "containers": [
            {
                "name": "web",
                "securityContext": {
                    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                    "allowPrivilegeEscalation": False,
                },
            }
        ]
    }
    assert "# CAP_NET_BIND_SERVICE: used 3 times" in text


@pytest.mark.parametrize("form", TEXTS)
def test_hostile_names_stay_names(form: str) -> None:
    name = "web\n- evil: true\x1b[31m"
    advice = advice_of(
        profile(container=name, used={"CAP_CHOWN": 1}, asked_by={"CAP_CHOWN": [name]})
    )
    text = TEXTS[form]([advice])
    assert "\x1b" not in text
    assert not any(line.startswith("- evil") for line in text.splitlines())
    if form not in ("docker", "systemd"):
        assert "evil" in str(yaml.safe_load(text))


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("kind", POD_SPEC)
def test_patches_apply_to_every_kind_and_take_away_what_was_added(
    kind: str, tmp_path: Path
) -> None:
    template = {
        "metadata": {"labels": {"app": "x"}},
        "spec": {
            "initContainers": [{"name": "web", "image": "i"}],
            "containers": [
                {
                    "name": "web",
                    "image": "i",
                    "securityContext": {"runAsUser": 7, "capabilities": {"add": ["SYS_TIME"]}},
                }
            ],
        },
    }
    document: dict[str, Any] = {
        "apiVersion": {"Pod": "v1", "ReplicationController": "v1"}.get(kind, "apps/v1"),
        "kind": kind,
        "metadata": {"name": "x", "namespace": "shop"},
    }
    if kind in ("Job", "CronJob"):
        document["apiVersion"] = "batch/v1"
    inner: dict[str, Any] = {"template": template}
    if kind == "Pod":
        inner = template["spec"]  # type: ignore[assignment]
    elif kind == "CronJob":
        inner = {"schedule": "* * * * *", "jobTemplate": {"spec": inner}}
    elif kind not in ("Job", "ReplicationController"):
        inner["selector"] = {"matchLabels": {"app": "x"}}
    document["spec"] = inner
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(document))
    workload = {"workload_kind": kind, "workload": "x", "pod": "x"}
    advice = [
        advice_of(profile(**workload)),
        advice_of(profile(**workload, kind="init", used={"CAP_CHOWN": 1})),
    ]
    (tmp_path / "patch.yaml").write_text(patch(advice))
    done = subprocess.run(
        [
            *("kubectl", "patch", "--local", "-o", "json"),
            *("-f", tmp_path / "manifest.yaml", "--patch-file", tmp_path / "patch.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)
    for key in POD_SPEC[kind]:
        spec = spec[key]
    assert spec["containers"] == [
        {
            "name": "web",
            "image": "i",
            "securityContext": {
                "runAsUser": 7,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ]
    assert spec["initContainers"][0]["securityContext"]["capabilities"]["add"] == ["CHOWN"]


def test_there_is_no_patch_for_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="Rollout"):
        patch([advice_of(profile(workload_kind="Rollout"))])


def test_docker_compose_and_systemd() -> None:
    of_container = {"namespace": "", "pod": "", "workload_kind": "", "workload": ""}
    advice = [advice_of(profile(**of_container, used={"CAP_CHOWN": 1}, declared=None))]
    assert "--cap-drop=ALL --cap-add=CHOWN --security-opt=no-new-privileges" in TEXTS["docker"](
        advice
    )
    assert yaml.safe_load(TEXTS["compose"](advice))["services"]["web"] == {
        "cap_drop": ["ALL"],
        "cap_add": ["CHOWN"],
        "security_opt": ["no-new-privileges:true"],
    }
    text = TEXTS["systemd"](advice)
    assert "CapabilityBoundingSet=CAP_CHOWN\n" in text
    assert "NoNewPrivileges=yes\n" in text


SPECS: dict[str, tuple[dict[str, Any], Level]] = {
    "nothing said": ({"containers": [{"name": "a"}]}, Level.BASELINE),
    "host network": ({"hostNetwork": True, "containers": [{"name": "a"}]}, Level.PRIVILEGED),
    "host path": (
        {"volumes": [{"name": "v", "hostPath": {"path": "/"}}], "containers": []},
        Level.PRIVILEGED,
    ),
    "privileged init": (
        {"initContainers": [{"name": "a", "securityContext": {"privileged": True}}]},
        Level.PRIVILEGED,
    ),
    "adds NET_RAW": (
        {"containers": [{"securityContext": {"capabilities": {"add": ["NET_RAW"]}}}]},
        Level.PRIVILEGED,
    ),
    "adds CHOWN": (
        {"containers": [{"securityContext": {"capabilities": {"add": ["CHOWN"]}}}]},
        Level.BASELINE,
    ),
    "restricted": (
        {
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                    }
                }
            ],
        },
        Level.RESTRICTED,
    ),
    "unsafe sysctl": (
        {"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}, "containers": []},
        Level.PRIVILEGED,
    ),
}


@pytest.mark.parametrize("which", SPECS)
def test_pod_security_levels(which: str) -> None:
    spec, level = SPECS[which]
    found, obstacles = level_of(spec)
    assert found is level
    assert bool(obstacles) is (level is not Level.RESTRICTED)


def test_manifests_are_compared_with_what_was_used(tmp_path: Path) -> None:
    (tmp_path / "deployment.yaml").write_text(
        yaml.safe_dump_all(
            [
                {
                    "kind": "Deployment",
                    "metadata": {"name": "web", "namespace": "shop"},
                    "spec": {
                        "template": {
                            "spec": {
                                "containers": [
                                    {
                                        "name": "web",
                                        "securityContext": {
                                            "capabilities": {
                                                "drop": ["ALL"],
                                                "add": ["SYS_TIME"],
                                            }
                                        },
                                    },
                                    {"name": "unknown"},
                                ]
                            }
                        }
                    },
                },
                {"kind": "Service", "metadata": {"name": "web"}},
            ]
        )
    )
    merged = by_workload([profile(used={"CAP_CHOWN": 1})])
    result = compare(read_manifests(tmp_path), merged)
    (difference,) = result.differences
    assert (difference.unused, difference.missing) == (("CAP_SYS_TIME",), ("CAP_CHOWN",))
    assert [manifest.container for manifest in result.unprofiled] == ["unknown"]


def test_check_and_baseline_on_the_command_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"containers": [profile(used={"CAP_CHOWN": 1})]}))
    used = {"CAP_CHOWN": 9, "CAP_KILL": 1}
    new.write_text(json.dumps({"containers": [profile(used=used)]}))
    manifest = tmp_path / "m.yaml"

    def write(*add: str) -> None:
        context = {"capabilities": {"drop": ["ALL"], "add": list(add)}}
        containers = [{"name": "web", "securityContext": context}]
        spec = {"template": {"spec": {"containers": containers}}}
        manifest.write_text(
            yaml.safe_dump({"kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
        )

    def run(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(group, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    write("CHOWN")
    status, text = run("advise", "--profile", new, "--check", manifest)
    assert status == 1
    assert "needed and missing: KILL" in text
    write("CHOWN", "KILL", "SYS_TIME")
    assert "granted and unused: SYS_TIME" in run("advise", "--profile", new, "--check", manifest)[1]
    assert run("advise", "--profile", new, "--check", manifest, "--allow-unused")[0] == 0
    write("CHOWN", "KILL")
    assert run("advise", "--profile", new, "--check", manifest)[0] == 0
    manifest.write_text("{{ .Values.x }}: [")
    status, text = run("advise", "--profile", new, "--check", manifest)
    assert status == 2
    assert "helm template" in text
    # Two nodes' profiles are merged.
    status, text = run("advise", "--profile", new, "--profile", old, "-o", "json")
    assert json.loads(text)["advice"][0]["needed"][0]["checks"] == 10
    assert run("advise", "--profile", manifest)[0] == 1


@pytest.mark.parametrize("form", ["table", *TEXTS, "json"])
def test_every_format_prints(tmp_path: Path, form: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(
        json.dumps({"containers": [profile(used={"CAP_CHOWN": 1}, denied={"CAP_SYSLOG": 2})]})
    )
    result = CliRunner().invoke(group, ["advise", "--profile", str(path), "-o", form])
    if form == "systemd":
        assert result.exit_code == 1  # it is no unit
        return
    assert result.exit_code == 0, result.output
    assert "CHOWN" in result.output
    assert "SYSLOG" in result.output
