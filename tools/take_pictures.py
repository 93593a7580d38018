#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes docs/pictures anew: a few real containers (runc) under pods' names, a real exporter, and
its page in Chromium. As root, after `make test` has installed what that needs.

    .venv/bin/python tools/take_pictures.py [--minutes N]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.browser import chromium, opened  # noqa: E402
from tests.e2e.exporter import RunningExporter  # noqa: E402
from tests.kernel.containers import Container, make_root, remove_cgroup  # noqa: E402
from tests.kube.objects import NODE, pod  # noqa: E402
from tests.kube.server import KubeServer  # noqa: E402

CGROUPS = Path("/sys/fs/cgroup")

#: Namespace, pod, container, its owner, what it is granted, and what it does.
WORKLOADS = (
    (
        "shop",
        "web-6d5f4c8b9-x2x7q",
        "web",
        ("ReplicaSet", "web-6d5f4c8b9"),
        ("CHOWN", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"),
        "touch /tmp/log; while :; do timeout 1 nc -l -p 80; chown 1 /tmp/log; "
        "[ $((RANDOM % 3)) = 0 ] && dmesg; sleep $((RANDOM % 20)); done",
    ),
    (
        "shop",
        "worker-7c9d8f6b5-9kq4z",
        "worker",
        ("ReplicaSet", "worker-7c9d8f6b5"),
        ("CHOWN", "SYS_CHROOT"),
        "while :; do chroot / true; sleep 3; done",
    ),
    (
        "batch",
        "report-tq8rd",
        "report",
        ("Job", "report"),
        ("NET_RAW",),
        "while :; do mount -t tmpfs x /tmp; dmesg; hostname x; sleep $((5 + RANDOM % 40)); done",
    ),
    (
        "monitoring",
        "pinger-w6n2m",
        "pinger",
        ("DaemonSet", "pinger"),
        ("NET_RAW", "NET_ADMIN", "SYS_PTRACE"),
        "ifconfig lo up; while :; do ping -c 1 127.0.0.1; sleep 5; done",
    ),
)

SIZE = {"width": 900, "height": 860}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="how long they run before")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        inside = Path(tempfile.mkdtemp(prefix="cap-exporter-pictures-"))
        stack.callback(shutil.rmtree, inside, ignore_errors=True)
        make_root(inside / "root")
        (inside / "root/bin/sh").unlink()
        (inside / "root/bin/sh").symlink_to("busybox")
        kube = KubeServer(inside)
        stack.callback(kube.close)
        exporter = stack.enter_context(
            RunningExporter(
                inside,
                f"--kubeconfig={kube.kubeconfig()}",
                f"--node-name={NODE}",
                "--listen=127.0.0.1:10838",
                "--event-verdicts=all",
                "--drain-interval=5s",
                f"--namespaces={','.join({one[0] for one in WORKLOADS})}",
            )
        )
        for namespace, name, container, owner, capabilities, command in WORKLOADS:
            one = Container(inside / name, inside / "root", capabilities)
            stack.callback(_remove, one)
            security = {"capabilities": {"drop": ["ALL"], "add": list(capabilities)}}
            spec = {"containers": [{"name": container, "securityContext": security}]}
            kube.apply(
                pod(
                    name,
                    namespace,
                    {container: one.container_id},
                    uid=one.pod_uid,
                    owner=owner,
                    labels={"pod-template-hash": owner[1].rpartition("-")[2]},
                    spec=spec,
                )
            )
            one.start("sh", "-c", command)
        time.sleep(60 * options.minutes + 15)
        _take(f"http://127.0.0.1:{exporter.page_port}", options.folder)


def _remove(one: Container) -> None:
    one.kill()
    pod_cgroup = Path(one.cgroup).parent
    for mount in (CGROUPS, *CGROUPS.iterdir()):  # runc makes it in each of v1's hierarchies
        remove_cgroup(Path(f"{mount}{pod_cgroup}"))


def _take(url: str, folder: Path) -> None:
    with chromium() as browser, opened(browser, url, viewport=SIZE, color_scheme="light") as page:
        page.wait_for_timeout(1500)
        page.screenshot(path=folder / "page.png")
        page.locator(".containers").get_by_role("link", name="web-6d5f4c8b9").click()
        page.wait_for_timeout(1500)
        page.screenshot(path=folder / "container.png")


if __name__ == "__main__":
    main()
