# SPDX-License-Identifier: Apache-2.0
"""The page that is written fast is byte for byte prometheus_client's."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest as text_page
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_page
from prometheus_client.parser import text_string_to_metric_families

from cap_exporter.labels import LabelScheme
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Granted,
    Identity,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.exposition import Format, write_page
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.self_stats import SelfStats

SCHEMES = {
    "default": LabelScheme(),
    "by workload": LabelScheme(("namespace", "workload_kind", "workload", "container")),
    "everything": LabelScheme(
        ("namespace", "pod", "container", "workload_kind", "workload"), ("app.kubernetes.io/name",)
    ),
    "container only": LabelScheme(("container",)),
}

#: Anything that a name can be, with what encoders stumble over.
NAMES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", '"', "\\", "\n", "\\n", "\x1b[31m", "\udcff", "ü", "a" * 4096, "} 1"]),
)
IDENTITIES = st.builds(
    Identity,
    namespace=NAMES,
    pod=NAMES,
    container=NAMES,
    container_id=NAMES,
    image=NAMES,
    workload_kind=NAMES,
    workload=NAMES,
    runtime=NAMES,
    cgroup=NAMES,
    helper=st.booleans(),
    pod_labels=st.just(()) | st.builds(lambda v: (("app.kubernetes.io/name", v),), NAMES),
)
ROWS = st.lists(
    st.tuples(
        st.integers(1, 6),
        IDENTITIES,
        st.integers(0, 70),
        st.sampled_from(Verdict),
        st.sampled_from(UserNamespace),
        st.sampled_from(CheckClass),
        st.integers(1, 1 << 62),
        st.integers(0, (1 << 41) - 1),
    ),
    max_size=12,
)


@pytest.mark.parametrize("scheme", SCHEMES)
@given(rows=ROWS)
@settings(max_examples=60)
def test_it_is_byte_for_byte_that_of_prometheus_client(scheme: str, rows: list) -> None:  # type: ignore[type-arg]
    ledger = Ledger(scheme=SCHEMES[scheme])
    for number, identity, capability, verdict, namespace, check_class, n, granted in rows:
        cgroup = CgroupKey(0, number)
        key = CheckKey(cgroup, capability, verdict, namespace, check_class)
        ledger.apply([(identity, key, n)], 1.0)
        ledger.observe(cgroup, identity, 1.0, Granted(granted))
    metrics = Metrics(ledger, SelfStats())
    metrics.all.unregister(metrics.own)
    metrics.own = type(metrics.own)()  # process metrics change between two readings
    page = b"".join(write_page(metrics, Format.TEXT))
    assert page == text_page(metrics.all)
    page = b"".join(write_page(metrics, Format.OPENMETRICS))
    ours = page.replace(b"# EOF\n", b"") + b"# EOF\n"
    assert ours == openmetrics_page(metrics.all)  # type: ignore[no-untyped-call]
    families = {f.name: f for f in text_string_to_metric_families(text_page(metrics.all).decode())}
    total = sum(
        sample.value
        for name in ("capability_checks", "capability_background_checks")
        for sample in families[name].samples
    )
    assert total == pytest.approx(sum(row[6] for row in rows))


def test_series_of_a_workload_are_the_sum_of_its_containers() -> None:
    ledger = Ledger(scheme=SCHEMES["by workload"], retention=60)

    def of(number: int, pod: str) -> tuple[Identity, CheckKey]:
        identity = Identity("shop", pod, "api", f"id{number}", workload_kind="Job", workload="j")
        key = CheckKey(
            CgroupKey(0, number), 13, Verdict.ALLOWED, UserNamespace.INIT, CheckClass.MEANINGFUL
        )
        return identity, key

    def total() -> list[tuple[tuple[str, ...], int]]:
        return [(s.labels, sum(s.counts().values())) for s in ledger.snapshot().series]

    ledger.apply([(*of(1, "a"), 5), (*of(2, "b"), 7)], 1.0)
    assert total() == [(("shop", "Job", "j", "api"), 12)]
    ledger.gone(CgroupKey(0, 1), 2.0)
    ledger.expire(100.0)
    # A pod that went does not make its workload's series fall.
    assert total() == [(("shop", "Job", "j", "api"), 12)]
    ledger.apply([(*of(3, "c"), 1)], 101.0)
    assert total() == [(("shop", "Job", "j", "api"), 13)]


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_promtool_accepts_it(scheme: str) -> None:
    ledger = Ledger(scheme=SCHEMES[scheme])
    identity = Identity("shop", "api-1", 'a"\\\nb', "id", "image", "Pod", "api-1", "runc", "/x")
    key = CheckKey(CgroupKey(0, 7), 13, Verdict.DENIED, UserNamespace.INIT, CheckClass.MEANINGFUL)
    ledger.apply([(identity, key, 3)], 1.0)
    ledger.observe(key.cgroup, identity, 1.0, Granted(3))
    page = b"".join(write_page(Metrics(ledger, SelfStats()), Format.TEXT))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("names", "pod_labels", "message"),
    [
        (("pod", "node"), (), "'node' is no label"),
        (("pod",), (), "container must be"),
        (("container",), ("a.b", "a/b"), "the same metric label"),
    ],
)
def test_labels_that_do_not_go_are_refused(
    names: tuple[str, ...], pod_labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LabelScheme(names, pod_labels)
