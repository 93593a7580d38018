# SPDX-License-Identifier: Apache-2.0
"""Examples at the end of each command's help."""

from __future__ import annotations

from typing import Final, NamedTuple


class Example(NamedTuple):
    """A line that can be typed, 72 columns at most, and what it is for."""

    line: str
    what: str


EXAMPLES: Final[dict[str, tuple[Example, ...]]] = {
    "run": (
        Example("sudo cap-exporter run", "metrics on :10838, a page on 127.0.0.1:10839"),
        Example("cap-exporter --config FILE run", "options from a file"),
        Example("cap-exporter run --listen :9000 --scope containers", "elsewhere, and less"),
    ),
    "profile": (
        Example("sudo cap-exporter profile --for 30s", "count here, without an exporter"),
        Example("cap-exporter profile -n shop --by workload", "ask the running exporter"),
        Example("cap-exporter profile --kube -o json > FILE", "ask those of all nodes"),
    ),
    "advise": (
        Example("cap-exporter advise -n shop", "what each workload needs, and why"),
        Example("cap-exporter advise --pod web-1 -o kubernetes", "to paste into a manifest"),
        Example("cap-exporter advise --check manifests/", "status 1 where they differ"),
    ),
    "top": (
        Example("cap-exporter top", "what the running exporter counts"),
        Example("sudo cap-exporter top --here", "count here, without an exporter"),
        Example("cap-exporter top --once --sort used", "for a pipe"),
    ),
    "events": (
        Example("cap-exporter events --recent -n shop", "of the running exporter"),
        Example("sudo cap-exporter events --for 1m", "watch here, without an exporter"),
        Example("cap-exporter events --capability NET_ADMIN -o json", "for a program"),
    ),
    "record": (
        Example("sudo cap-exporter record host.rec.gz --for 5m", "now"),
        Example("cap-exporter profile --source replay:host.rec.gz", "later, elsewhere"),
        Example("cap-exporter run --source replay:host.rec.gz", "at its own speed"),
    ),
    "resolve": (
        Example("cap-exporter resolve $$", "this shell"),
        Example("cap-exporter resolve /sys/fs/cgroup/system.slice", "a directory"),
        Example("cap-exporter resolve 4711 --as id", "a cgroup's id"),
    ),
    "doctor": (
        Example("sudo cap-exporter doctor", "this host, with the defaults"),
        Example("cap-exporter --config FILE doctor", "as `run` would be started"),
        Example("cap-exporter doctor --otlp-endpoint http://collector:4318", "and OTLP"),
    ),
    "unload": (
        Example("sudo cap-exporter unload", "what `run --pin` left in the default folder"),
        Example("sudo cap-exporter unload --pin FOLDER", "in another one"),
    ),
    "completion": (
        Example("cap-exporter completion bash > ~/.cap-exporter-complete", "once"),
        Example(". ~/.cap-exporter-complete", "in ~/.bashrc"),
    ),
}


def epilog(command: str) -> str | None:
    """For click: its own lines, not wrapped."""
    examples = EXAMPLES.get(command)
    if not examples:
        return None
    lines = [f"  {one.line}\n      {one.what}" for one in examples]
    return "\b\nExamples:\n" + "\n".join(lines)
