# SPDX-License-Identifier: Apache-2.0
"""tools/audit.py: the locks of this repository are in order, and it says where others are not."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

HASH = "a" * 64


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


def test_the_locks_are_in_order(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["audit.py"])
    assert audit.main() == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "0 problems" in said
    assert "prometheus-client" in said


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("click==8.1", "has not only SHA-256 hashes, or none"),
        (f"click==8.1 --hash=md5:{HASH[:32]}", "has not only SHA-256 hashes, or none"),
        (f"click>=8.1 --hash=sha256:{HASH}", "is not NAME==VERSION"),
        (f"click @ https://x/click.whl --hash=sha256:{HASH}", "is not NAME==VERSION"),
        (
            f"click==8.1 \\\n    --hash=sha256:{HASH}\nClick==8.2 --hash=sha256:{HASH}",
            "there twice",
        ),
    ],
)
def test_what_is_wrong_in_a_lock_is_said(
    audit: ModuleType, tmp_path: Path, entry: str, said: str
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"# made by make lock\n{entry}\n    # via x\n")
    _, problems = audit.read_lock(lock)
    assert len(problems) == 1
    assert said in problems[0]


def test_a_bill_of_materials_lacks_nothing(audit: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"a==1 --hash=sha256:{HASH}\nb_c==2 --hash=sha256:{'b' * 64}\n")
    pins, _ = audit.read_lock(lock)
    place = {"type": "distribution", "hashes": [{"alg": "SHA-256", "content": HASH}]}
    sbom = tmp_path / "sbom.json"
    sbom.write_text(
        json.dumps({"components": [{"name": "a", "version": "1", "externalReferences": [place]}]})
    )
    assert [one.split()[1] for one in audit.sbom_problems(sbom, pins)] == ["b-c"]


def test_locks_that_disagree_are_found(audit: ModuleType) -> None:
    one = audit.Pin("rich", audit.metadata.version("rich"), "", frozenset({HASH}))
    other = one._replace(version="0.1")
    assert audit.disagreements({"requirements.lock": [one], "b": [one]}) == []
    assert len(audit.disagreements({"requirements.lock": [one], "b": [other]})) == 1
    assert audit.disagreements({"requirements.lock": [other]})[0].endswith("0.1 is pinned")
