#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes docs/configuration.md from the commands' options, and the tables of docs/metrics.md from
the metrics: `python tools/make_docs.py [--check]`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from prometheus_client import ProcessCollector

from cap_exporter.cli import COMMANDS, group
from cap_exporter.ledger import Ledger
from cap_exporter.model import SourceInfo
from cap_exporter.outputs.otlp_settings import Signal
from cap_exporter.outputs.otlp_stats import OtlpStats
from cap_exporter.outputs.prometheus import ContainerCollector, SelfCollector
from cap_exporter.pod_watch import PodWatchCollector
from cap_exporter.pods.state import WatchState
from cap_exporter.pods.store import PodStore
from cap_exporter.self_stats import SelfStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric

ROOT = Path(__file__).resolve().parent.parent

#: What ships with the exporter and asks for metrics by name.
USERS = ("deploy/rules/*.yaml", "dashboards/*.json", "cap_exporter/fleet/*.py")

_INTRODUCTION = """\
# Configuration

Every option can be given on the command line, as an environment variable, or as a key of a YAML file
(`cap-exporter --config FILE run`); the command line wins over the environment, and that over the file. In the
file keys have no dashes in front, and a list is as good as words with commas:

```yaml
drain-interval: 10s
exclude-namespaces: [kube-system, monitoring]
event-verdicts: all
```

An unknown key is refused, with the nearest known one. The options of OpenTelemetry are also read from its
standard variables: [OpenTelemetry](opentelemetry.md). This page is made from the program by tools/make_docs.py.
"""


def options_of(command: click.Command) -> Iterator[tuple[str, ...]]:
    """Option, environment variable, default, help."""
    for param in command.params:
        if not isinstance(param, click.Option) or param.hidden:
            continue
        names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
        if isinstance(param.type, click.Choice):
            names += " " + " \\| ".join(map(str, param.type.choices))
        variable = param.envvar if isinstance(param.envvar, str) else ""
        default = param.default
        if isinstance(default, bool):
            default = "" if not param.secondary_opts else ("on" if default else "off")
        shown = "" if default is None or type(default).__name__ == "Sentinel" else str(default)
        text = (param.help or "").split("[default:")[0]
        yield (
            names,
            f"`{variable}`" if variable else "",
            f"`{shown}`" if shown else "",
            " ".join(text.split()).replace("|", "\\|"),
        )


def page() -> str:
    parts = [_INTRODUCTION]
    ctx = click.Context(group)
    for name, text in COMMANDS.items():
        command = group.get_command(ctx, name)
        assert command is not None
        rows = list(options_of(command))
        parts.append(f"\n## cap-exporter {name}\n\n{text}\n")
        if not rows:
            continue
        parts.append("\n| option | environment | default | |\n|---|---|---|---|\n")
        parts.extend(f"| {' | '.join(row)} |\n" for row in rows)
    return "".join(parts)


class _Watch:
    """As much of a PodWatch as its collector looks at."""

    state = WatchState()


def families() -> Iterator[tuple[str, list[Metric]]]:
    """Heading, and the metrics below it, also those that appear only with an option."""
    ledger = Ledger()
    stats = SelfStats(source=SourceInfo("libbpf", "tp_btf"), reload_successful=True)
    yield "Containers", list(ContainerCollector(ledger).collect())
    yield "The exporter itself", list(SelfCollector(stats, ledger).collect())
    watch = PodWatchCollector(cast("Any", _Watch()), PodStore())
    yield "The watch of pods, where there is Kubernetes", list(watch.collect())
    yield "OTLP, where it is on", list(OtlpStats(Signal).collect())
    yield "The process (prometheus_client)", list(ProcessCollector(registry=None).collect())


#: Of names that do not end in their unit.
_UNITS = {
    "capability_container_granted": "1",
    "cap_exporter_pod_watch_synced": "0 or 1",
    "cap_exporter_config_last_reload_successful": "0 or 1",
    "cap_exporter_otlp_export_sent_total": "records",
    "cap_exporter_otlp_export_dropped_total": "records",
    "process_max_fds": "descriptors",
    "process_open_fds": "descriptors",
}


def unit(name: str) -> str:
    """seconds, bytes, checks, …: the end of the name, as the names are made."""
    name_of_it = name.removesuffix("_total")
    last = name_of_it.rpartition("_")[2]
    if name_of_it.endswith("_timestamp_seconds") or name == "process_start_time_seconds":
        return "seconds since 1970"
    return _UNITS.get(name, "1" if last == "info" else last)


def exposed(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def metric_tables() -> str:
    used = "\n".join(path.read_text() for glob in USERS for path in sorted(ROOT.glob(glob)))
    parts = []
    for heading, found in families():
        parts.append(f"### {heading}\n\n| Metric | Type | Labels | Unit | Stable | |\n")
        parts.append("|---|---|---|---|---|---|\n")
        parts.extend(f"| {' | '.join(_row(family, used))} |\n" for family in found)
        parts.append("\n")
    return "".join(parts)


def _row(family: Metric, used: str) -> Iterable[str]:
    name = exposed(family)
    # prometheus_client has no public way to a family's labels while it has no sample.
    labels = vars(family)["_labelnames"]
    stable = name.startswith("capability_") or re.search(rf"\b{name}(_sum|_count|_bucket)?\b", used)
    return (
        f"`{name}`",
        family.type,
        ", ".join(labels),
        unit(name),
        "yes" if stable else "",
        " ".join(family.documentation.split()).replace("|", "\\|"),
    )


_BEGIN = "<!-- made by tools/make_docs.py from here -->\n\n"
_END = "<!-- to here -->\n"


def metrics_page(text: str) -> str:
    """docs/metrics.md with its tables made anew. Raises ValueError where their place is missing."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"docs/metrics.md needs the lines {_BEGIN.strip()} and {_END.strip()}")
    return before + begin + metric_tables() + end + after


def main() -> int:
    configuration, metrics = ROOT / "docs/configuration.md", ROOT / "docs/metrics.md"
    texts = {configuration: page(), metrics: metrics_page(metrics.read_text())}
    old = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    for path in old:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is not what tools/make_docs.py makes")
        else:
            path.write_text(texts[path])
    return 1 if old and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
