# SPDX-License-Identifier: Apache-2.0
"""The chart: linted, rendered with every set of values, every object valid; and what is derived
from it is up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/cap-exporter"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
VERSIONS = ("1.28", "1.31", "1.34", "1.37")

#: Of the Prometheus operator: no schema of those is at hand, promtool reads the rules.
OPERATOR = "monitoring.coreos.com/v1"

pytestmark = pytest.mark.needs("helm", "promtool", "kubectl")


def helm(*arguments: str | Path) -> str:
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def render(values: Path) -> list[dict[str, Any]]:
    text = helm("template", "caps", CHART, "--namespace", "monitoring", "--values", values)
    return [one for one in yaml.safe_load_all(text) if one]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_lint(values: Path) -> None:
    helm("lint", "--strict", CHART, "--values", values)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_object_is_valid(values: Path, version: str) -> None:
    for one in render(values):
        if one["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(one, version, strict=True)
        assert one["metadata"]["name"]


def test_plain_manifests_are_valid_and_kustomize_builds_them() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", ROOT / "deploy/kubernetes/base"],
        capture_output=True,
        text=True,
        check=True,
    )
    objects = list(yaml.safe_load_all(done.stdout))
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    assert {one["kind"] for one in objects} >= {"Namespace", "DaemonSet", "ClusterRole"}


def test_what_is_derived_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/make_deploy.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run tools/make_deploy.py: {done.stdout}{done.stderr}"


def test_everything_is_there_when_asked_for(tmp_path: Path) -> None:
    kinds = Counter(one["kind"] for one in render(CHART / "ci/everything.yaml"))
    assert kinds == Counter(
        ConfigMap=5,  # configuration, three dashboards, extraManifests
        ServiceAccount=1,
        ClusterRole=1,
        ClusterRoleBinding=1,
        DaemonSet=1,
        Service=1,
        PodMonitor=1,
        ServiceMonitor=1,
        PrometheusRule=1,
        NetworkPolicy=1,
    )
    (rule,) = [
        one for one in render(CHART / "ci/everything.yaml") if one["kind"] == "PrometheusRule"
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    subprocess.run(["promtool", "check", "rules", path], check=True, capture_output=True)
    alerts = {r["alert"]: r for g in rule["spec"]["groups"] for r in g["rules"] if "alert" in r}
    assert "CapExporterPrivilegedInFact" not in alerts
    assert (
        alerts["CapExporterAbsent"]["annotations"]["runbook_url"]
        == "https://runbooks.example.com/capexporterabsent"
    )
    for one in render(CHART / "ci/everything.yaml"):
        if one["kind"] == "ConfigMap" and "grafana_dashboard" in one["metadata"].get("labels", {}):
            (text,) = one["data"].values()
            assert json.loads(text)["uid"].startswith("cap-exporter-")


def test_the_pod_has_the_least_that_it_needs() -> None:
    for values, more, paths in (
        ("defaults", [], []),
        ("no-rights", ["SYS_RESOURCE"], ["/sys/fs/bpf"]),  # what was kept is removed
        ("secured", [], ["/sys/fs/bpf"]),  # counts are kept
        ("everything", ["SYS_RESOURCE", "SYS_ADMIN"], []),
    ):
        (daemon_set,) = [o for o in render(CHART / f"ci/{values}.yaml") if o["kind"] == "DaemonSet"]
        spec = daemon_set["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        context = container["securityContext"]
        assert context["capabilities"] == {
            "drop": ["ALL"],
            "add": ["BPF", "PERFMON", "SYSLOG", "DAC_READ_SEARCH", *more],
        }
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert "privileged" not in context
        for field in ("hostPID", "hostNetwork", "hostIPC"):
            assert field not in spec
        host_paths = [v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v]
        assert host_paths == ["/sys/fs/cgroup", *paths]


def test_what_was_kept_on_nodes_is_removed_before_counting_begins() -> None:
    (daemon_set,) = [o for o in render(CHART / "ci/no-rights.yaml") if o["kind"] == "DaemonSet"]
    spec = daemon_set["spec"]["template"]["spec"]
    (unload,) = spec["initContainers"]
    (container,) = spec["containers"]
    assert unload["args"] == ["unload", "--pin=/sys/fs/bpf/cap-exporter"]
    assert unload["securityContext"] == container["securityContext"]
    assert {"name": "bpf", "mountPath": "/sys/fs/bpf"} in unload["volumeMounts"]
    assert not [arg for arg in container["args"] if arg.startswith("--pin")]
    (pinned,) = [o for o in render(CHART / "ci/secured.yaml") if o["kind"] == "DaemonSet"]
    (container,) = pinned["spec"]["template"]["spec"]["containers"]
    assert "--pin=/sys/fs/bpf/cap-exporter" in container["args"]
    assert {"name": "bpf", "mountPath": "/sys/fs/bpf"} in container["volumeMounts"]


def test_the_service_account_may_read_pods_and_nothing_else() -> None:
    (role,) = [o for o in render(CHART / "ci/defaults.yaml") if o["kind"] == "ClusterRole"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"imagee": {}},
        {"image": {"tagg": "x"}},
        {"podMonitor": {"create": "yes"}},
        {"image": {"digest": "sha256:short"}},
        {"otlp": {"protocol": "udp"}},
        {"tolerations": {}},
    ],
)
def test_values_that_do_not_exist_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    done = subprocess.run(
        ["helm", "template", CHART, "--values", path], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert next(iter(values)) in done.stderr


def test_the_defaults_are_what_the_schema_says() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.validate(yaml.safe_load((CHART / "values.yaml").read_text()), schema)


def test_options_in_manifests_exist() -> None:
    """Every argument the chart, the unit and the compose file give is one of the command's."""
    from cap_exporter.cli.run import command

    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for values in VALUES:
        (daemon_set,) = [o for o in render(values) if o["kind"] == "DaemonSet"]
        (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
        arguments = container["args"][container["args"].index("run") + 1 :]
        assert {argument.partition("=")[0] for argument in arguments} <= known
    compose = yaml.safe_load((ROOT / "deploy/docker/compose.yaml").read_text())
    arguments = compose["services"]["cap-exporter"]["command"][1:]
    assert {argument.partition("=")[0] for argument in arguments} <= known


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "cap-exporter.service"
    text = (ROOT / "deploy/systemd/cap-exporter.service").read_text()
    unit.write_text(text.replace("/usr/local/bin/cap-exporter", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
