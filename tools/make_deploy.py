#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes what is derived under deploy/: the chart's copies of rules and dashboards, its values'
schema, and the plain manifests. `python tools/make_deploy.py [--check]`; needs helm on PATH or in
.tools/bin for the manifests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/cap-exporter"
BASE = ROOT / "deploy/kubernetes/base"
NAMESPACE = "cap-exporter"

#: Values that are a mapping of the user's own.
_FREE = {
    "config",
    "annotations",
    "additionalLabels",
    "podAnnotations",
    "podLabels",
    "nodeSelector",
    "affinity",
    "tlsConfig",
    "basicAuth",
    "resources",
    "updateStrategy",
    "rollingUpdate",
}

_HEADER = "# Made by tools/make_deploy.py from the Helm chart: change that.\n"


def schema_of(value: Any, name: str = "") -> dict[str, Any]:
    """A JSON schema of a default value: its type, and for mappings no other keys."""
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer"}
    if isinstance(value, str):
        return {"type": "string"}
    if isinstance(value, list):
        return {"type": "array"}
    if name in _FREE:
        return {"type": "object"}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: schema_of(one, key) for key, one in value.items()},
    }


def values_schema() -> str:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **schema_of(values)}
    # Helm puts these in by itself.
    schema["properties"]["global"] = {"type": "object"}
    of_image = schema["properties"]["image"]["properties"]
    of_image["pullPolicy"] = {"enum": ["Always", "IfNotPresent", "Never"]}
    of_image["digest"] = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
    schema["properties"]["seccompProfile"]["properties"] = {
        "type": {"enum": ["RuntimeDefault", "Localhost", "Unconfined"]},
        "localhostProfile": {"type": "string"},
    }
    schema["properties"]["otlp"]["properties"]["protocol"] = {"enum": ["", "grpc", "http/protobuf"]}
    return json.dumps(schema, indent=2) + "\n"


def helm() -> str:
    path = f"{os.environ.get('PATH', os.defpath)}:{ROOT / '.tools/bin'}"
    found = shutil.which("helm", path=path)
    if found is None:
        raise SystemExit("helm is missing: `make test-packages` brings it")
    return found


def manifests() -> str:
    command = [helm(), "template", "cap-exporter", str(CHART), "--namespace", NAMESPACE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    for one in objects:
        # Nobody manages these by Helm.
        for labels in (
            one["metadata"].get("labels", {}),
            one.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {}),
        ):
            labels.pop("helm.sh/chart", None)
            labels.pop("app.kubernetes.io/managed-by", None)
    return _HEADER + yaml.safe_dump_all(objects, sort_keys=False)


def namespace() -> str:
    labels = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "warn")}
    metadata = {"name": NAMESPACE, "labels": labels}
    return _HEADER + yaml.safe_dump(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, sort_keys=False
    )


def kustomization() -> str:
    return _HEADER + yaml.safe_dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": ["namespace.yaml", "cap-exporter.yaml"],
        },
        sort_keys=False,
    )


def copies() -> dict[Path, str]:
    """Helm reads files of the chart's folder only."""
    found = {}
    for kind, source in (("rules", "deploy/rules/*.yaml"), ("dashboards", "dashboards/*.json")):
        for path in sorted(ROOT.glob(source)):
            found[CHART / "files" / kind / path.name] = path.read_text()
    return found


def everything() -> dict[Path, str]:
    """All derived files; the chart's own first, since the manifests are rendered from them."""
    return {**copies(), CHART / "values.schema.json": values_schema()}


def rendered() -> dict[Path, str]:
    return {
        BASE / "cap-exporter.yaml": manifests(),
        BASE / "namespace.yaml": namespace(),
        BASE / "kustomization.yaml": kustomization(),
    }


def main() -> int:
    stale = []
    for make in (everything, rendered):
        for path, text in make().items():
            if path.exists() and path.read_text() == text:
                continue
            stale.append(path)
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for path in stale:
        print(path.relative_to(ROOT))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
