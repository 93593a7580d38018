# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of a real API server: its words of a refusal, and the rights it needs."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.exporter import COMMAND
from tests.e2e.played import write_recording
from tests.k8s.conftest import NEWCOMER, Cluster

pytestmark = [pytest.mark.needs("kube-apiserver", "etcd", "openssl"), pytest.mark.timeout(300)]


def doctor(folder: Path, cluster: Cluster, *arguments: str) -> dict[str, dict[str, Any]]:
    source = f"--source=replay:{write_recording(folder / 'recording', seconds=1)}"
    kube = [f"--kubeconfig={cluster.kubeconfig(NEWCOMER)}", "--node-name=node-1"]
    done = subprocess.run(
        [COMMAND, "doctor", source, *kube, *arguments, "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {one["name"]: one for one in json.loads(done.stdout)["findings"]}


def test_rights_that_are_missing_are_named_and_those_that_the_command_gives_are_enough(
    tmp_path: Path, cluster: Cluster
) -> None:
    before = doctor(tmp_path, cluster)
    # The server was reached, and knows us.
    assert before["kubernetes.api"]["status"] == "ok"
    # A version that was built without a name.
    assert " v0.0.0" in before["kubernetes.api"]["detail"]
    assert before["kubernetes.clock"]["status"] == "ok"
    for verb in ("list", "watch"):
        assert before[f"kubernetes.{verb}"]["status"] == "failed"
        assert f"cannot {verb} resource" in before[f"kubernetes.{verb}"]["detail"]
        assert before[f"kubernetes.{verb}"]["command"].endswith("--user=newcomer")
    cluster.grant("newcomer")
    deadline = time.monotonic() + 30
    while True:  # the server takes a moment to take notice
        after = doctor(tmp_path, cluster)
        if after["kubernetes.watch"]["status"] == "ok" or time.monotonic() > deadline:
            break
    assert {one["status"] for name, one in after.items() if name.startswith("kubernetes.")} == {
        "ok"
    }
