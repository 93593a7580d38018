# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus, and a real Alertmanager, for tests."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from tests.ports import free_port


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def eventually(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except OSError:
            pass  # it starts
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class _Running:
    def __init__(self, folder: Path, command: list[str | Path]) -> None:
        self.log = (folder / f"{type(self).__name__.lower()}.log").open("w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.close()


class Prometheus(_Running):
    """Scrapes these ports of this machine. under: a command that executes it. port: its own, a free
    one if None. ``more``: parts of the configuration."""

    def __init__(
        self,
        folder: Path,
        ports: list[int],
        interval: str = "500ms",
        flags: tuple[str, ...] = (),
        under: tuple[str, ...] = (),
        port: int | None = None,
        **more: Any,
    ) -> None:
        self.port = port or free_port()
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "scrape_configs": [
                {
                    "job_name": "cap-exporter",
                    "honor_labels": True,
                    "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
                }
            ],
        } | more
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        super().__init__(
            folder,
            [
                *under,
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                *flags,
            ],
        )
        eventually(lambda: bool(get_json(f"{self.url}/api/v1/targets")), "Prometheus starts")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def query(self, expr: str) -> list[dict[str, Any]]:
        """An instant query's vector. Fails with Prometheus' own words."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        found: list[dict[str, Any]] = get_json(url)["data"]["result"]
        return found


class Alertmanager(_Running):
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        config = folder / "alertmanager.yml"
        route = {"receiver": "nobody", "group_wait": "100ms"}
        config.write_text(yaml.safe_dump({"route": route, "receivers": [{"name": "nobody"}]}))
        # Unpacked, not installed: its templates are shown where it looks for them, to it alone.
        share = Path(__file__).resolve().parent.parent.parent / ".tools/share"
        prefix: list[str | Path] = []
        if not Path("/usr/share/prometheus/alertmanager/default.tmpl").exists():
            mount = f"mount -t overlay -o lowerdir={share}:/usr/share overlay /usr/share"
            prefix = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
        super().__init__(
            folder,
            [
                *prefix,
                "prometheus-alertmanager",
                f"--config.file={config}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
            ],
        )

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get_json(f"http://127.0.0.1:{self.port}/api/v2/alerts")
        return found
