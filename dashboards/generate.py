#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the Grafana dashboards (dashboards/*.json): `python dashboards/generate.py`.

Plain JSON of Grafana 10.4 and later (schema version 39). What panels have in common is said once,
here; the files are committed, and a test compares them with what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

SCHEMA_VERSION = 39
TAG = "cap-exporter"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

CHECKS = "namespace_workload_container_capability_verdict:capability_checks:increase5m"
HELD = "namespace_workload_container_capability:capability_container_granted:max"
INFO = "namespace_pod_container:capability_container_info:workload"

HIGH_RISK = (
    "CAP_(SYS_ADMIN|SYS_MODULE|SYS_PTRACE|SYS_RAWIO|SYS_BOOT|DAC_READ_SEARCH|BPF|PERFMON|"
    "MAC_ADMIN|MAC_OVERRIDE)"
)

#: With a separator for thousands, and all digits.
COUNT = "locale"

#: Blue and orange are told apart by everybody; red and green are not.
ALLOWED_COLOR, DENIED_COLOR = "blue", "orange"

Json = dict[str, Any]


def target(expr: str, legend: str = "__auto", ref: str = "A", *, instant: bool = False) -> Json:
    query: Json = {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expr,
        "legendFormat": legend,
        "range": not instant,
        "refId": ref,
    }
    if instant:
        query |= {"instant": True, "format": "table"}
    return query


def thresholds(*steps: tuple[float | None, str]) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"value": value, "color": color} for value, color in steps],
    }


def panel(kind: str, title: str, description: str, targets: list[Json], **more: Any) -> Json:
    defaults: Json = {
        "unit": more.pop("unit", "short"),
        "noValue": more.pop("empty", "nothing yet"),
        "thresholds": more.pop("thresholds", thresholds((None, "text"))),
        "color": more.pop("color", {"mode": "palette-classic"}),
        "custom": more.pop("custom", {}),
    }
    if defaults["unit"] == COUNT:
        # increase() gives fractions.
        more.setdefault("decimals", 0)
    for key in ("min", "max", "decimals"):
        if key in more:
            defaults[key] = more.pop(key)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": more.pop("options", {}),
        **more,
    }


def stat(title: str, description: str, expr: str, **more: Any) -> Json:
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    more.setdefault("color", {"mode": "thresholds"})
    return panel("stat", title, description, [target(expr)], options=options, **more)


def series(
    title: str,
    description: str,
    *targets: Json,
    stack: bool = False,
    legend: str = "right",
    **more: Any,
) -> Json:
    """legend: right of it; or at the bottom, where names are long."""
    custom = {
        "fillOpacity": 10,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": True,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
    }
    options = {
        "legend": {
            "displayMode": "table",
            "placement": legend,
            "calcs": ["lastNotNull", "max"],
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    more.setdefault("min", 0)
    # A capability has the same colour in every panel.
    more.setdefault("color", {"mode": "palette-classic-by-name"})
    return panel(
        "timeseries",
        title,
        description,
        list(targets),
        custom=custom,
        options=options,
        interval="1m",
        **more,
    )


def table(
    title: str,
    description: str,
    expr: str,
    columns: dict[str, str],
    value: str | None = None,
    **more: Any,
) -> Json:
    """columns: label → heading, in their order. value: the heading of the number; None: it is
    always 1 and not shown, the last column sorts."""
    renames = {**columns, **({"Value": value} if value else {})}
    keep = set(renames)
    hidden = ["Time", "Value", "cluster", "__name__", "verdict", "instance", "job"]
    sort = {"displayName": value or [*columns.values()][-1], "desc": bool(value)}
    more.setdefault("custom", {"align": "auto", "filterable": True})
    return panel(
        "table",
        title,
        description,
        [target(expr, instant=True)],
        options={"showHeader": True, "sortBy": [sort]},
        transformations=[
            {
                "id": "organize",
                "options": {
                    "excludeByName": {name: True for name in hidden if name not in keep},
                    "indexByName": {name: i for i, name in enumerate(renames)},
                    "renameByName": renames,
                },
            }
        ],
        **more,
    )


def color_of(name: str, color: str) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
    }


def link(column: str, title: str, url: str) -> Json:
    return {
        "matcher": {"id": "byName", "options": column},
        "properties": [{"id": "links", "value": [{"title": title, "url": url}]}],
    }


WORKLOAD_URL = (
    "/d/cap-exporter-workload?${datasource:queryparam}&${cluster:queryparam}"
    "&var-namespace=${__data.fields.Namespace}&var-workload=${__data.fields.Workload}&${__url_time_range}"
)


def variable(name: str, label: str, query: str, *, multi: bool = True) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "A"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": multi,
        "includeAll": multi,
        "allValue": ".*" if multi else None,
        "current": {"text": "All", "value": "$__all"} if multi else {},
        "options": [],
        "regex": "",
        "hide": 0,
    }


DATASOURCE_VARIABLE: Json = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "refresh": 1,
    "current": {},
    "options": [],
    "hide": 0,
    "multi": False,
    "includeAll": False,
    "regex": "",
}

CLUSTER = variable("cluster", "Cluster", "label_values(cap_exporter_build_info, cluster)")
NAMESPACE = variable(
    "namespace",
    "Namespace",
    'label_values(capability_container_info{cluster=~"$cluster"}, namespace)',
)
WORKLOAD = variable(
    "workload",
    "Workload",
    f'label_values({INFO}{{cluster=~"$cluster", namespace=~"$namespace"}}, workload)',
)
CONTAINER = variable(
    "container",
    "Container",
    f'label_values({INFO}{{cluster=~"$cluster", namespace=~"$namespace", workload=~"$workload"}}, '
    "container)",
)
CAPABILITY = variable(
    "capability",
    "Capability",
    'label_values(capability_checks_total{cluster=~"$cluster"}, capability)',
)
INSTANCE = variable(
    "instance", "Instance", 'label_values(cap_exporter_build_info{cluster=~"$cluster"}, instance)'
)

Row = tuple[str, list[tuple[Json, int, int]]]

_LABELS = {
    "namespace": "Namespace",
    "workload_kind": "Kind",
    "workload": "Workload",
    "container": "Container",
    "capability": "Capability",
    "pod": "Pod",
    "image": "Image",
    "runtime": "Runtime",
}


def headed(*labels: str) -> dict[str, str]:
    """Labels with their headings, for table()."""
    return {label: _LABELS[label] for label in labels}


def last_hour(title: str, description: str, selector: str, empty: str) -> Json:
    """Checks of the last hour by workload and capability; the workload leads to its dashboard."""
    by = ("namespace", "workload_kind", "workload", "container", "capability")
    return table(
        title,
        f"{description} The workload's name leads to its dashboard.",
        f"sum by ({', '.join(by)}) (sum_over_time({CHECKS}{{{selector}}}[1h:5m])) > 0",
        headed(*by),
        "Checks",
        unit=COUNT,
        empty=empty,
        overrides=[link("Workload", "Open the workload", WORKLOAD_URL)],
    )


def dashboard(
    uid: str, title: str, description: str, variables: list[Json], rows: list[Row]
) -> Json:
    """rows: heading, and panels with their widths (of 24) and heights."""
    panels: list[Json] = []
    y = number = 0
    for heading, of_row in rows:
        number += 1
        at = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"type": "row", "title": heading, "id": number, "gridPos": at, "panels": []})
        y += 1
        x = tallest = 0
        for one, width, height in of_row:
            if x + width > 24:
                y, x, tallest = y + tallest, 0, 0
            number += 1
            panels.append(
                {**one, "id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
            )
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "links": [
            {
                "type": "dashboards",
                "tags": [TAG],
                "title": "cap-exporter",
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [DATASOURCE_VARIABLE, *variables]},
        "annotations": {"list": []},
        "panels": panels,
    }


def overview() -> Json:
    where = 'cluster=~"$cluster", namespace=~"$namespace", capability=~"$capability"'
    by = "namespace, workload_kind, workload, container"
    risky = (
        'cluster=~"$cluster", namespace=~"$namespace", verdict="allowed", workload!="", '
        f'capability=~"{HIGH_RISK}"'
    )
    return dashboard(
        "cap-exporter-overview",
        "cap-exporter / Overview",
        "Who uses and who is refused which Linux capabilities, in the whole fleet.",
        [CLUSTER, NAMESPACE, CAPABILITY],
        [
            (
                "Now",
                [
                    (
                        stat(
                            "Denied checks, last 5 min",
                            "Checks that were refused and meant something: no probing of the kernel, "
                            "no set-up by the container runtime.",
                            f'sum({CHECKS}{{{where}, verdict="denied"}})',
                            empty="0",
                            unit=COUNT,
                            thresholds=thresholds((None, "text"), (1, DENIED_COLOR)),
                        ),
                        5,
                        4,
                    ),
                    (
                        stat(
                            "Workloads with denials",
                            "Workloads that were refused a capability in the last 5 minutes.",
                            f'count(count by ({by}) ({CHECKS}{{{where}, verdict="denied"}} > 0))',
                            empty="0",
                            thresholds=thresholds((None, "text"), (1, DENIED_COLOR)),
                        ),
                        5,
                        4,
                    ),
                    (
                        stat(
                            "Workloads with high-risk use",
                            "In the last 5 minutes: SYS_ADMIN, SYS_MODULE, SYS_PTRACE, SYS_RAWIO, "
                            "SYS_BOOT, DAC_READ_SEARCH, BPF, PERFMON, MAC_ADMIN, MAC_OVERRIDE.",
                            f"count(count by ({by}) ({CHECKS}{{{risky}}} > 0))",
                            empty="0",
                            thresholds=thresholds((None, "text"), (1, DENIED_COLOR)),
                        ),
                        5,
                        4,
                    ),
                    (
                        stat(
                            "Granted and unused, last day",
                            "Of the capabilities that workloads hold, the part that none of their "
                            "containers used in the last day.",
                            f'1 - count({HELD}{{{where}, workload!=""}} '
                            "and on (cluster, namespace, workload_kind, workload, container, "
                            "capability) namespace_workload_container_capability:"
                            "capability_checks_allowed:used1d) "
                            f'/ count({HELD}{{{where}, workload!=""}})',
                            unit="percentunit",
                            decimals=0,
                            min=0,
                            max=1,
                            empty="unknown",
                        ),
                        5,
                        4,
                    ),
                    (
                        stat(
                            "Exporters",
                            "Exporters that answer, one a node.",
                            'count(cap_exporter_build_info{cluster=~"$cluster"})',
                            empty="0",
                            thresholds=thresholds((None, DENIED_COLOR), (1, "text")),
                        ),
                        4,
                        4,
                    ),
                ],
            ),
            (
                "Denied",
                [
                    (
                        last_hour(
                            "Denied, last hour",
                            "Every workload and capability that was refused in the last hour.",
                            f'{where}, verdict="denied"',
                            "nothing was denied",
                        ),
                        12,
                        9,
                    ),
                    (
                        series(
                            "Denied checks by workload",
                            "In five minutes, the ten highest at each time.",
                            target(
                                f"topk(10, sum by (namespace, workload, container, capability) ({CHECKS}"
                                f'{{{where}, verdict="denied"}}))',
                                "{{namespace}}/{{workload}} {{container}} {{capability}}",
                            ),
                            unit=COUNT,
                            legend="bottom",
                            empty="nothing was denied",
                        ),
                        12,
                        9,
                    ),
                ],
            ),
            (
                "Used",
                [
                    (
                        series(
                            "Allowed checks by capability",
                            "In five minutes, the ten highest at each time.",
                            target(
                                f"topk(10, sum by (capability) ({CHECKS}"
                                f'{{{where}, verdict="allowed"}}))',
                                "{{capability}}",
                            ),
                            unit=COUNT,
                            stack=True,
                            empty="no capability was used",
                        ),
                        12,
                        9,
                    ),
                    (
                        last_hour(
                            "High-risk capabilities in use, last hour",
                            "Workloads that used one of the capabilities that reach beyond their "
                            "container.",
                            risky,
                            "no high-risk capability was used",
                        ),
                        12,
                        9,
                    ),
                    (
                        series(
                            "Background checks by reason",
                            "In five minutes. What says nothing about what workloads need: setup (the "
                            "container runtime), noaudit (the kernel only probed), override "
                            "(overlayfs and its like), other, alternative, unclassified.",
                            target(
                                "300 * sum by (reason) (namespace_container_reason:"
                                "capability_background_checks:rate5m"
                                '{cluster=~"$cluster", namespace=~"$namespace"})',
                                "{{reason}}",
                            ),
                            unit=COUNT,
                            stack=True,
                            empty="no checks",
                        ),
                        24,
                        8,
                    ),
                ],
            ),
        ],
    )


def workload() -> Json:
    of = (
        'cluster=~"$cluster", namespace=~"$namespace", workload=~"$workload", '
        'container=~"$container"'
    )
    where = f'{of}, capability=~"$capability"'
    used = "namespace_workload_container_capability:capability_checks_allowed:used1d"
    on = "on (cluster, namespace, workload_kind, workload, container, capability)"
    names = headed("namespace", "workload", "container", "capability")
    group = "namespace, workload, container, capability"
    return dashboard(
        "cap-exporter-workload",
        "cap-exporter / Workload",
        "What one workload uses, is refused, and holds without using. For what to set: "
        "cap-exporter advise --workload KIND/NAME.",
        [CLUSTER, NAMESPACE, WORKLOAD, CONTAINER, CAPABILITY],
        [
            (
                "Capabilities",
                [
                    (
                        table(
                            "Used, last day",
                            "Capabilities that it was granted when it asked: these it needs.",
                            f"sum by ({group}) (sum_over_time({CHECKS}{{"
                            f'{where}, verdict="allowed"}}[1d:5m])) > 0',
                            names,
                            "Checks",
                            unit=COUNT,
                            empty="no capability was used",
                        ),
                        8,
                        10,
                    ),
                    (
                        table(
                            "Granted and unused, last day",
                            "Capabilities that its processes hold and none used: to drop, if a day "
                            "tells enough. `cap-exporter advise` says how sure that is.",
                            f"sum by ({group}) ({HELD}{{{where}}} unless {on} {used})",
                            names,
                        ),
                        8,
                        10,
                    ),
                    (
                        table(
                            "Denied, last day",
                            "Checks that were refused. A program may have tried and gone on: look who "
                            "asked (`cap-exporter events`) before adding any.",
                            f"sum by ({group}) (sum_over_time({CHECKS}{{"
                            f'{where}, verdict="denied"}}[1d:5m])) > 0',
                            names,
                            "Checks",
                            unit=COUNT,
                            empty="nothing was denied",
                        ),
                        8,
                        10,
                    ),
                ],
            ),
            (
                "Over time",
                [
                    (
                        series(
                            "Denied checks",
                            "In five minutes, by container and capability.",
                            target(
                                "sum by (container, capability) "
                                f'({CHECKS}{{{where}, verdict="denied"}})',
                                "{{container}} {{capability}}",
                            ),
                            unit=COUNT,
                            empty="nothing was denied",
                        ),
                        12,
                        9,
                    ),
                    (
                        series(
                            "Allowed checks",
                            "In five minutes, by container and capability.",
                            target(
                                "sum by (container, capability) "
                                f'({CHECKS}{{{where}, verdict="allowed"}})',
                                "{{container}} {{capability}}",
                            ),
                            unit=COUNT,
                            empty="no capability was used",
                        ),
                        12,
                        9,
                    ),
                    (
                        series(
                            "Allowed and denied",
                            "In five minutes, all capabilities together.",
                            target(f'sum({CHECKS}{{{where}, verdict="allowed"}})', "allowed"),
                            target(f'sum({CHECKS}{{{where}, verdict="denied"}})', "denied", "B"),
                            unit=COUNT,
                            overrides=[
                                color_of("allowed", ALLOWED_COLOR),
                                color_of("denied", DENIED_COLOR),
                            ],
                            empty="no checks",
                        ),
                        12,
                        8,
                    ),
                    (
                        series(
                            "Background checks by reason",
                            "In five minutes: set-up by the runtime and probing by the kernel, which say "
                            "nothing about what the workload needs.",
                            target(
                                "300 * sum by (reason) (namespace_container_reason:"
                                "capability_background_checks:rate5m"
                                '{cluster=~"$cluster", namespace=~"$namespace", '
                                'container=~"$container"})',
                                "{{reason}}",
                            ),
                            unit=COUNT,
                            stack=True,
                            empty="no checks",
                        ),
                        12,
                        8,
                    ),
                ],
            ),
            (
                "Containers",
                [
                    (
                        table(
                            "Containers",
                            "What the workload's containers are now.",
                            "max by (namespace, workload_kind, workload, pod, container, image, "
                            f"runtime) (capability_container_info{{{of}}})",
                            headed(
                                "namespace",
                                "workload_kind",
                                "workload",
                                "pod",
                                "container",
                                "image",
                                "runtime",
                            ),
                        ),
                        24,
                        8,
                    )
                ],
            ),
        ],
    )


def health() -> Json:
    where = 'cluster=~"$cluster", instance=~"$instance"'
    return dashboard(
        "cap-exporter-health",
        "cap-exporter / Node & exporter health",
        "Whether the exporters see everything, and what they cost.",
        [CLUSTER, INSTANCE],
        [
            (
                "Sees everything?",
                [
                    (
                        table(
                            "Exporters",
                            "How each is attached to its kernel; docs/kernels.md says what each way "
                            "can miss.",
                            f"max by (instance, source, attach) (cap_exporter_source_info{{{where}}})",
                            {"source": "Source", "attach": "Attach", "instance": "Instance"},
                        ),
                        12,
                        7,
                    ),
                    (
                        stat(
                            "Missed checks",
                            "Checks in the last hour that the kernel did not show: counts are too low "
                            "by these.",
                            f"sum(increase(cap_exporter_missed_checks_total{{{where}}}[1h]))",
                            empty="0",
                            unit=COUNT,
                            thresholds=thresholds((None, "text"), (1, DENIED_COLOR)),
                        ),
                        4,
                        7,
                    ),
                    (
                        stat(
                            "Overflowed checks",
                            'In the last hour counted under container="(overflow)": sums are right, '
                            "names are missing.",
                            f"sum(increase(cap_exporter_overflow_checks_total{{{where}}}[1h]))",
                            empty="0",
                            unit=COUNT,
                            thresholds=thresholds((None, "text"), (1, DENIED_COLOR)),
                        ),
                        4,
                        7,
                    ),
                    (
                        stat(
                            "Out of step with the API",
                            "Exporters whose list of pods is not current.",
                            f"count(cap_exporter_pod_watch_synced{{{where}}} == 0)",
                            empty="0",
                            thresholds=thresholds((None, "text"), (1, DENIED_COLOR)),
                        ),
                        4,
                        7,
                    ),
                    (
                        series(
                            "Cgroups without a name",
                            "Cgroups with checks whose pod or container is not known (yet).",
                            target(
                                f"sum by (instance) (cap_exporter_unresolved_cgroups{{{where}}})",
                                "{{instance}}",
                            ),
                            empty="no exporter answers",
                        ),
                        12,
                        7,
                    ),
                    (
                        series(
                            "Events by outcome",
                            "In five minutes. full: lost, the ring had no room. limited: beyond a "
                            "cgroup's rate. Checks are counted in any case.",
                            target(
                                "sum by (outcome) "
                                f"(increase(cap_exporter_events_total{{{where}}}[5m]))",
                                "{{outcome}}",
                            ),
                            unit=COUNT,
                        ),
                        12,
                        7,
                    ),
                ],
            ),
            (
                "Room and cost",
                [
                    (
                        series(
                            "Counters used",
                            "Part of the kernel's room for counters.",
                            target(
                                f'sum by (instance) (cap_exporter_map_slots{{{where}, state="used"}}) '
                                f"/ sum by (instance) (cap_exporter_map_slots{{{where}}})",
                                "{{instance}}",
                            ),
                            unit="percentunit",
                            max=1,
                        ),
                        12,
                        7,
                    ),
                    (
                        series(
                            "Drain duration",
                            "Reading the counters, naming the cgroups, adding up: mean.",
                            target(
                                "sum by (instance) (rate("
                                f"cap_exporter_drain_duration_seconds_sum{{{where}}}[$__rate_interval])) "
                                "/ sum by (instance) (rate("
                                f"cap_exporter_drain_duration_seconds_count{{{where}}}[$__rate_interval]))",
                                "{{instance}}",
                            ),
                            unit="s",
                        ),
                        12,
                        7,
                    ),
                    (
                        series(
                            "CPU",
                            "Part of one core that each exporter's process uses.",
                            target(
                                "sum by (instance) (rate(process_cpu_seconds_total"
                                f"{{{where}}}[$__rate_interval]) and on (cluster, instance) "
                                "cap_exporter_build_info)",
                                "{{instance}}",
                            ),
                            unit="percentunit",
                        ),
                        12,
                        7,
                    ),
                    (
                        series(
                            "Memory",
                            "Resident memory of the exporters' processes.",
                            target(
                                f"sum by (instance) (process_resident_memory_bytes{{{where}}} "
                                "and on (cluster, instance) cap_exporter_build_info)",
                                "{{instance}}",
                            ),
                            unit="bytes",
                        ),
                        12,
                        7,
                    ),
                    (
                        series(
                            "Pods and pod watch",
                            "Pods of the nodes, and requests to the API that failed, by reason.",
                            target(f"sum(cap_exporter_pods{{{where}}})", "pods"),
                            target(
                                "sum by (reason) (increase("
                                f"cap_exporter_pod_watch_errors_total{{{where}}}[$__rate_interval]))",
                                "failed: {{reason}}",
                                "B",
                            ),
                            empty="no watch of pods",
                        ),
                        24,
                        7,
                    ),
                ],
            ),
        ],
    )


def all_dashboards() -> dict[str, Json]:
    """By file name."""
    return {"overview.json": overview(), "workload.json": workload(), "health.json": health()}


def text_of(document: Json) -> str:
    return json.dumps(document, indent=2) + "\n"


def main() -> None:
    for name, document in all_dashboards().items():
        (HERE / name).write_text(text_of(document))


if __name__ == "__main__":
    main()
