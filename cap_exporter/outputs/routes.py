# SPDX-License-Identifier: Apache-2.0
"""What the exporter answers over HTTP: metrics, health, profiles, and a page for people."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from cap_exporter.ledger import Ledger
from cap_exporter.outputs.exposition import Format, write_page
from cap_exporter.outputs.negotiation import accepts_gzip, wants_openmetrics
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.profiles.profile import document

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
        if since > max(30.0, _STUCK_INTERVALS * interval()):
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


def page_routes(ledger: Ledger) -> list[Route]:
    """A page"""

    async def page(_request: Request) -> Response:
        return HTMLResponse(await asyncio.to_thread(lambda: _page(ledger)))

    async def style(_request: Request) -> Response:
        return Response(_STYLE, media_type="text/css")

    return [Route("/", page), Route("/style.css", style)]


_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.4 system-ui,sans-serif;margin:2rem}"
    "table{border-collapse:collapse}th,td{text-align:left;vertical-align:top;"
    "padding:.3rem .8rem;border-bottom:1px solid #8886}.denied{font-weight:bold}"
)


def _page(ledger: Ledger) -> str:
    rows = []
    for one in document(ledger.accounts())["containers"]:
        background = sum(sum(of.values()) for of in one["background"].values())
        cells = (one["namespace"], one["pod"], one["container"])
        rows.append(
            "<tr>"
            + "".join(f"<td>{escape(cell) or '-'}</td>" for cell in cells)
            + f"<td>{_counts(one['used'])}</td><td class=denied>{_counts(one['denied'])}</td>"
            + f"<td>{background}</td></tr>"
        )
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>cap-exporter</title>"
        '<link rel=stylesheet href="/style.css"></head>'
        "<body><h1>Capability checks on this host</h1>"
        "<p>Background checks say nothing about what a workload needs: the runtime's set-up, the "
        'kernel\'s probing. As JSON: <a href="/api/v1/profiles">/api/v1/profiles</a></p>'
        "<table><thead><tr><th scope=col>Namespace<th scope=col>Pod<th scope=col>Container"
        "<th scope=col>Used<th scope=col>Denied<th scope=col>Background</tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></body></html>"
    )


def _counts(of: dict[str, int]) -> str:
    return "<br>".join(f"{escape(name)} {count}" for name, count in of.items()) or "-"
