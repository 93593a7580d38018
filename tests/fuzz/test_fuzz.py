# SPDX-License-Identifier: Apache-2.0
"""Any bytes give a result or the error that is documented, in a bounded time. What was found once
is in corpus/TARGET/, and tried first. `make fuzz` goes on for longer."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).with_name("corpus")

#: Seconds for each target; 0: a short look.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))

#: Nothing that is read may take longer, seconds of CPU.
LONGEST = 3.0

pytestmark = pytest.mark.timeout(SECONDS * 3 + 60)

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((0, -1, 1 << 64, 10**400, "", "/", "\udcff", "\0", 1e308, "9" * 5000))
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)

#: What grammars of all kinds trip over.
_TOKENS = st.sampled_from(
    (
        *(b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\n", b"\r\n", b"..", b"-", b"%", b'"'),
        *(b"[" * 2_000, b'{"a":' * 2_000, b"- " * 2_000, b"1" * 5_000, b"a" * 70_000),
        *(b"&a [*a]", b"<<: *a", b"? ", b": ", b"!!int x", b"!!python/object:x ", b"2001-99-99"),
        *(b"1e999999", b"NaN", b"null", b"0x", b"\x1f\x8b\x08"),
    )
)


@st.composite
def inputs(draw: st.DrawFn, seeds: tuple[bytes, ...], found: tuple[bytes, ...]) -> bytes:
    """Bytes; examples with bytes changed; examples of JSON with a value changed."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=3000))
    data = draw(st.sampled_from(seeds + found))
    if kind < 5 and data in seeds and data[:1] in (b"{", b"["):
        return b"".join(draw(_changed_json(line)) for line in data.splitlines())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 0, 1, 2, 8, 1000))))
        data = data[:start] + draw(_TOKENS | st.binary(max_size=4)) + data[end:]
    return data


@st.composite
def _changed_json(draw: st.DrawFn, line: bytes) -> bytes:
    document = json.loads(line)
    places: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        items = (
            node.items()
            if isinstance(node, dict)
            else enumerate(node)
            if isinstance(node, list)
            else ()
        )
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(document)
    for _ in range(draw(st.integers(0, 2))):
        node, key = draw(st.sampled_from(places))
        node[key] = draw(_JSON)  # type: ignore[index]
    return json.dumps(document).encode() + b"\n"


def try_one(target: Target, data: bytes) -> None:
    began = time.process_time()
    try:
        target.run(data)
    except target.allowed as error:
        str(error).encode("utf-8", "surrogateescape")
    took = time.process_time() - began
    assert took < LONGEST, f"{took:.1f} s"


@pytest.mark.parametrize("name", TARGETS)
def test_examples_are_taken(name: str) -> None:
    """Fuzzing begins with what is right: else it would only ever see the first check."""
    for data in TARGETS[name].seeds:
        TARGETS[name].run(data) if name not in _REFUSED else try_one(TARGETS[name], data)


#: Their examples name files that are not there, or are what a server refuses with.
_REFUSED = {"web_configuration", "pod_watch", "prometheus_answer", "engine_answer"}


@pytest.mark.parametrize(
    "path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_what_was_found_stays_mended(path: Path) -> None:
    try_one(TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_gives_a_result_or_the_documented_error(name: str) -> None:
    target = TARGETS[name]
    corpus = tuple(path.read_bytes() for path in (CORPUS / name).glob("*"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + SECONDS
    wanted = 400 if SECONDS else 30
    rounds = 0
    while not rounds or time.monotonic() < end:
        last = b""

        @seed(time.time_ns() if SECONDS else 0)
        @settings(
            max_examples=wanted,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs(target.seeds, corpus))
        def look(data: bytes) -> None:
            nonlocal last
            last = data
            try_one(target, data)

        try:
            look()
        except BaseException:
            if SECONDS:
                keep(name, last)
            raise
        rounds += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if SECONDS:
        print(f"{name}: {rounds * wanted} inputs, {grown:.0f} MiB")
    assert grown < 200


def keep(name: str, data: bytes) -> None:
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
