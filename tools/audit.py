#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Look at what comes from others, as far as this can be told without a network:

- every package in requirements*.lock is pinned once, with hashes, and by no address;
- the locks agree, and what is installed here is what they say;
- each package names its licence; the product's are printed;
- with ``--sbom FILE``: the bill of materials has each package of the product, with its hashes.

Yanked releases cannot be told offline: `make lock` takes none. Advisories: `make audit` asks for
them where it can.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

PRODUCT = "requirements.lock"

_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+?)(?:\s*;\s*(.+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Pin(NamedTuple):
    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def read_lock(path: Path) -> tuple[list[Pin], list[str]]:
    """The pins, and what is wrong with the others."""
    pins: list[Pin] = []
    problems: list[str] = []
    for entry in _entries(path.read_text()):
        head, *rest = entry.split(" --hash=")
        match = _PIN.fullmatch(head.strip())
        hashes = frozenset(_HASH.findall(" --hash=".join(["", *rest])))
        if match is None:
            problems.append(f"{path.name}: {head.strip()!r} is not NAME==VERSION")
        elif len(hashes) != len(rest) or not hashes:
            problems.append(f"{path.name}: {match[1]} has not only SHA-256 hashes, or none")
        else:
            pins.append(Pin(_normal(match[1]), match[2], match[3] or "", hashes))
    seen: set[tuple[str, str]] = set()
    for pin in pins:
        if (pin.name, pin.marker) in seen:
            problems.append(f"{path.name}: {pin.name} is there twice")
        seen.add((pin.name, pin.marker))
    return pins, problems


def _entries(text: str) -> Iterator[str]:
    lines = (line.split("#")[0].rstrip() for line in text.splitlines())
    entry = ""
    for line in lines:
        entry += " " + line.removesuffix("\\").strip()
        if not line.endswith("\\"):
            if entry.strip():
                yield entry.strip()
            entry = ""


def _normal(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


def disagreements(locks: Mapping[str, list[Pin]]) -> list[str]:
    """Between the locks, and with what is installed."""
    problems = []
    versions: dict[tuple[str, str], tuple[str, Pin]] = {}
    for lock, pins in locks.items():
        for pin in pins:
            where, first = versions.setdefault((pin.name, pin.marker), (lock, pin))
            if (first.version, first.hashes) != (pin.version, pin.hashes):
                problems.append(f"{pin.name}: {where} and {lock} have not the same")
    for pin in locks[PRODUCT]:
        found = _installed(pin.name)
        if found is None and not pin.marker:
            problems.append(f"{pin.name} is not installed here: make build")
        elif found is not None and found.version != pin.version and not pin.marker:
            problems.append(f"{pin.name} {found.version} is installed, {pin.version} is pinned")
    return problems


def licence_of(name: str) -> str:
    """As the package states it; "" where it does not, or is not installed."""
    found = _installed(name)
    if found is None:
        return ""
    stated = found.metadata.json
    if expression := stated.get("license_expression"):
        return str(expression)
    trove = [
        one.rpartition(" :: ")[2]
        for one in stated.get("classifier", ())
        if one.startswith("License ::")
    ]
    first, _, _ = str(stated.get("license", "")).strip().partition("\n")
    return ", ".join(trove) or first[:60]


def _installed(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def sbom_problems(path: Path, pins: list[Pin]) -> list[str]:
    components = {
        (_normal(one["name"]), one["version"]): {
            digest["content"]
            for place in one.get("externalReferences", ())
            for digest in place.get("hashes", ())
            if digest["alg"] == "SHA-256"
        }
        for one in json.loads(path.read_text())["components"]
    }
    return [
        f"{path.name}: {pin.name} {pin.version} is missing, or its hashes are"
        for pin in pins
        if not pin.hashes <= components.get((pin.name, pin.version), set())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sbom", type=Path, help="a CycloneDX document in JSON")
    options = parser.parse_args()
    problems: list[str] = []
    locks: dict[str, list[Pin]] = {}
    for path in sorted(ROOT.glob("requirements*.lock")):
        locks[path.name], wrong = read_lock(path)
        problems += wrong
    problems += disagreements(locks)
    for pin in locks[PRODUCT]:
        licence = licence_of(pin.name)
        print(f"{pin.name:40} {pin.version:20} {licence or '?'}")
        if not licence and not pin.marker:
            problems.append(f"{pin.name} states no licence")
    if options.sbom:
        problems += sbom_problems(options.sbom, locks[PRODUCT])
    for problem in problems:
        print(problem, file=sys.stderr)
    hashes = sum(len(pin.hashes) for pins in locks.values() for pin in pins)
    print(f"{sum(map(len, locks.values()))} pins, {hashes} hashes, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
