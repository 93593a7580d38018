# SPDX-License-Identifier: Apache-2.0
"""What the address of metrics and health answers."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from cap_exporter.outputs.exposition import Format, write_page
from cap_exporter.outputs.negotiation import accepts_gzip, wants_openmetrics
from cap_exporter.outputs.prometheus import Metrics

if TYPE_CHECKING:
    from starlette.requests import Request

#: Scrapes that are encoded at one time; others wait their turn.
PARALLEL_SCRAPES = 2

#: Level 1: half the size of a page costs a twentieth of what level 9 takes.
_GZIP_LEVEL = 1

#: The drain loop counts as stuck after this many intervals without a drain, at least 30 s.
_STUCK_INTERVALS = 5


class Readiness:
    """What /readyz says: ``ready`` tells whether counting works, ``notes`` what is missing."""

    def __init__(self, ready: Callable[[], bool], notes: Callable[[], list[str]]) -> None:
        self.ready = ready
        self.notes = notes


def is_stuck(seconds_since_drain: float, interval: float) -> bool:
    """Whether the drain loop hangs. interval: seconds between two drains."""
    return seconds_since_drain > max(30.0, _STUCK_INTERVALS * interval)


def metrics_routes(
    metrics: Metrics,
    seconds_since_drain: Callable[[], float],
    interval: Callable[[], float],
    readiness: Readiness,
) -> list[Route]:
    """/metrics, /healthz, /readyz. interval: seconds between two drains, as it is now."""
    # Made on first use: the event loop is that of the server's thread.
    turn: list[asyncio.Semaphore] = []

    async def scrape(request: Request) -> Response:
        if not turn:
            turn.append(asyncio.Semaphore(PARALLEL_SCRAPES))
        accept = request.headers.get("accept", "")
        form = Format.OPENMETRICS if wants_openmetrics(accept) else Format.TEXT
        compressed = accepts_gzip(request.headers.get("accept-encoding", ""))

        def encode() -> bytes:
            page = b"".join(write_page(metrics, form))
            return gzip.compress(page, _GZIP_LEVEL, mtime=0) if compressed else page

        async with turn[0]:
            body = await asyncio.to_thread(encode)
        headers = {"Content-Type": form.content_type, "Vary": "Accept, Accept-Encoding"}
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers)

    async def healthz(_request: Request) -> Response:
        since = seconds_since_drain()
        if is_stuck(since, interval()):
            return PlainTextResponse(f"no drain for {since:.0f} s\n", 503)
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        ready = readiness.ready()
        lines = ["ready" if ready else "not ready: the probe is not attached yet"]
        lines += readiness.notes()
        return PlainTextResponse("\n".join(lines) + "\n", 200 if ready else 503)

    async def landing(_request: Request) -> Response:
        return HTMLResponse(
            "<!doctype html><html lang=en><title>cap-exporter</title><h1>cap-exporter</h1>"
            '<p><a href="/metrics">Metrics</a> · <a href="/healthz">health</a> · '
            '<a href="/readyz">readiness</a></p></html>'
        )

    return [
        Route("/", landing),
        Route("/metrics", scrape),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]
