# SPDX-License-Identifier: Apache-2.0
"""Advice for real containers: exactly what they need, tried by starting them with it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cap_exporter.capabilities import CONTAINERD_DEFAULT, number_of
from cap_exporter.outputs.profile_routes import load_schema
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.containers import Container
from tests.kube.objects import NODE, pod
from tests.kube.server import KubeServer

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang")]

#: A command of a container's root that needs this one capability, and fails without.
NEEDS = {
    "NET_BIND_SERVICE": "nc -l -p 80 & sleep 0.2; kill $!",
    "CHOWN": "chown 1 $(mktemp)",
    "DAC_OVERRIDE": "cat /etc/others",
    "FOWNER": "chmod 644 /etc/others",
    "FSETID": "chmod 2755 /etc/group5 && test -g /etc/group5",
    "SETUID": "checks setuid 1",
    "SETGID": "checks setgid 1",
    "NET_RAW": "checks rawsock",
    "NET_ADMIN": "ifconfig lo mtu 1400",
    "IPC_LOCK": "checks mlock",
    "SYS_CHROOT": "chroot / true",
    "SYS_NICE": "renice -n -5 -p $$",
    "SYS_ADMIN": "hostname other",
    "SYS_RESOURCE": "ulimit -H -n 1040000",
    "SYSLOG": "dmesg -s 100",
    "MKNOD": "mknod $(mktemp -u) c 1 3",
    "SYS_PACCT": "checks acct 1",
}

#: What this machine itself may not have, its containers can't.
HELD = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
NEEDS = {name: command for name, command in NEEDS.items() if HELD >> number_of(name) & 1}

#: Does not say whether it was allowed.
SILENT = {"SYS_PACCT"}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    with RunningExporter(tmp_path_factory.mktemp("exporter"), "--event-verdicts=all") as one:
        yield one


@pytest.fixture
def files(busybox_root: Path) -> Path:
    for name, owner, group in (("others", 1, 0), ("group5", 0, 5)):
        path = busybox_root / "etc" / name
        path.write_text("x\n")
        path.chmod(0o600)
        os.chown(path, owner, group)
    return busybox_root


def advice_for(exporter: RunningExporter, one: Container) -> dict[str, Any]:
    """When all of it has been drained."""
    deadline = time.monotonic() + 10
    while True:
        document = json.loads(
            exporter.get(f"/api/v1/advice?container={one.container_id[:12]}", exporter.page_port)
        )
        jsonschema.validate(document, load_schema("advice"))
        found: list[dict[str, Any]] = document["advice"]
        if found and (found[0]["add"] or found[0]["denied"] or time.monotonic() > deadline):
            return found[0]
        assert time.monotonic() < deadline, exporter.get("/api/v1/profiles", exporter.page_port)
        time.sleep(0.1)


@pytest.mark.parametrize("capability", NEEDS)
def test_a_container_that_needs_one_capability_is_advised_that_one_and_works_with_it(
    exporter: RunningExporter, container: Callable[..., Container], files: Path, capability: str
) -> None:
    command = ("sh", "-c", NEEDS[capability])
    one = container(*NEEDS)
    assert one.run(*command).returncode == 0
    advice = advice_for(exporter, one)
    assert advice["add"] == [capability]
    assert advice["drop"] == ["ALL"]
    assert sorted(name.removeprefix("CAP_") for name in advice["unused"]) == sorted(
        set(NEEDS) - {capability}
    )
    assert advice["needed"][0]["asked_by"], advice
    again = container(*advice["add"]).run(*command)
    assert again.returncode == 0, again.stdout
    less = container().run(*command)
    assert less.returncode != 0 or capability in SILENT


def test_the_usual_web_server_uses_three_of_the_default_fourteen(
    exporter: RunningExporter, container: Callable[..., Container]
) -> None:
    one = container(*CONTAINERD_DEFAULT)
    assert one.run("checks", "serve", "101").returncode == 0
    advice = advice_for(exporter, one)
    assert set(advice["add"]) == {"NET_BIND_SERVICE", "SETUID", "SETGID"}
    assert len(advice["unused"]) == 11
    assert "ip_unprivileged_port_start" in str(advice["needed"])


def test_what_was_denied_is_listed_for_a_decision_and_not_added(
    exporter: RunningExporter, container: Callable[..., Container]
) -> None:
    one = container("CHOWN")
    one.run("sh", "-c", "dmesg; true")
    advice = advice_for(exporter, one)
    assert advice["add"] == []
    (denied,) = [d for d in advice["denied"] if d["capability"] == "CAP_SYSLOG"]
    assert denied["usually"] == "dmesg"
    assert not denied["held"]
    assert "/bin/busybox" in denied["asked_by"][0]


def test_a_user_without_privileges_is_told_that_adding_does_nothing(
    exporter: RunningExporter, container: Callable[..., Container]
) -> None:
    one = container("SYSLOG", uid=1000)
    one.run("sh", "-c", "dmesg; true")
    advice = advice_for(exporter, one)
    assert advice["add"] == []
    assert [d["held"] for d in advice["denied"] if d["capability"] == "CAP_SYSLOG"] == [True]
    assert "no ambient capabilities" in str(advice["notes"])


@pytest.mark.needs("kubectl")
def test_in_kubernetes_the_manifest_counts_and_the_patch_applies(
    container: Callable[..., Container], tmp_path: Path
) -> None:
    """From the check to the patched Deployment."""
    server = KubeServer(tmp_path)
    one = container(*CONTAINERD_DEFAULT)
    document = pod(
        "web-6d5f-x",
        "shop",
        {"web": one.container_id},
        uid=one.pod_uid,
        labels={"pod-template-hash": "6d5f"},
        owner=("ReplicaSet", "web-6d5f"),
    )
    security = {"privileged": True, "capabilities": {"add": ["SYS_TIME"]}}
    document["spec"]["containers"][0]["securityContext"] = security
    server.apply(document)
    try:
        with RunningExporter(
            tmp_path, f"--kubeconfig={server.kubeconfig()}", f"--node-name={NODE}"
        ) as exporter:
            exporter.eventually("cap_exporter_pod_watch_synced", 1)
            one.start("sh", "-c", "checks serve 101; sleep 100")
            exporter.eventually(
                "capability_checks_total", 1, capability="CAP_NET_BIND_SERVICE", pod="web-6d5f-x"
            )
            url = f"http://127.0.0.1:{exporter.page_port}"

            def advise(*arguments: str) -> str:
                done = subprocess.run(
                    [COMMAND, "advise", "--url", url, *arguments],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
                return done.stdout

            (advice,) = json.loads(advise("-o", "json", "--workload=deployment/web"))["advice"]
            jsonschema.validate({"advice": [advice]}, load_schema("advice"))
            profiles = json.loads(exporter.get("/api/v1/profiles", exporter.page_port))
            jsonschema.validate(profiles, load_schema("profile"))
            patch = tmp_path / "patch.yaml"
            patch.write_text(advise("-o", "patch", "-n", "shop"))
            assert "privileged now" in " ".join(advise("--workload=deployment/web").split())
    finally:
        server.close()
    assert set(advice["add"]) == {"NET_BIND_SERVICE", "SETGID", "SETUID"}
    assert advice["confidence"]["level"] == "low"
    assert advice["pod_security"]["now"] == "privileged"
    assert advice["pod_security"]["with_advice"] == "baseline"
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "log", "image": "log"},
                        {"name": "web", "image": "web", "securityContext": security},
                    ]
                },
            },
        },
    }
    manifest = tmp_path / "deployment.json"
    manifest.write_text(json.dumps(deployment))
    done = subprocess.run(
        ["kubectl", "patch", "--local", "-f", manifest, "--patch-file", patch, "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    containers = json.loads(done.stdout)["spec"]["template"]["spec"]["containers"]
    assert {c["name"]: c.get("securityContext") for c in containers} == {
        "log": None,
        "web": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["SETGID", "SETUID", "NET_BIND_SERVICE"]},
        },
    }
