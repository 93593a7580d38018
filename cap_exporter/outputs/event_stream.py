# SPDX-License-Identifier: Apache-2.0
"""/api/v1/events: server-sent events (WHATWG HTML, section 9.2), one JSON object each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cap_exporter.event_hub import EventHub, TooManyReaders

if TYPE_CHECKING:
    from starlette.requests import Request

#: A comment is sent after this time without events, seconds: proxies and readers see it lives.
HEARTBEAT = 15.0

_MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store"}


def event_routes(hub: EventHub) -> list[Route]:
    """``?recent=1`` starts with the events that are kept; a Last-Event-ID with those after it."""

    async def events(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=_MEDIA_TYPE, headers=_HEADERS)
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isdigit() else 0 if request.query_params.get("recent") else None

        def wake() -> None:
            # The server may have ended since.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(news.set)

        try:
            reader = hub.join(wake, after)
        except TooManyReaders as error:
            return PlainTextResponse(f"{error}\n", 503, headers={"Retry-After": "30"})

        async def stream() -> AsyncIterator[str]:
            lost = 0
            try:
                yield ": cap-exporter events\n\n"
                while True:
                    news.clear()  # before looking: what comes meanwhile sets it again
                    for number, record in reader.take():
                        yield f"id: {number}\ndata: {json.dumps(record)}\n\n"
                    if reader.lost > lost:
                        lost = reader.lost
                        yield f"event: lost\ndata: {lost}\n\n"
                    try:
                        await asyncio.wait_for(news.wait(), HEARTBEAT)
                    except TimeoutError:
                        yield ": still here\n\n"
            finally:
                hub.leave(reader)

        return StreamingResponse(stream(), media_type=_MEDIA_TYPE, headers=_HEADERS)

    return [Route("/api/v1/events", events)]
