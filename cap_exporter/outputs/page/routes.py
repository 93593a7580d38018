# SPDX-License-Identifier: Apache-2.0
"""What the page's address answers to people: the list, one container, the feed. All of it GET,
none of it changes anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cap_exporter.event_hub import EventHub
from cap_exporter.outputs.page.container import container_view, moment
from cap_exporter.outputs.page.feed import feed
from cap_exporter.outputs.page.node import Node
from cap_exporter.outputs.page.overview import PER_PAGE, Query, find, overview
from cap_exporter.outputs.page.rendering import asset, render
from cap_exporter.top.model import key_of

if TYPE_CHECKING:
    from starlette.requests import Request

_HEADERS = {"Cache-Control": "no-store"}

_ASSETS = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def page_routes(
    node: Node, profiles: Callable[[], Mapping[str, Any]], hub: EventHub
) -> list[Route]:
    """profiles: the document of all profiles (profiles.profile.document)."""

    def shared() -> dict[str, Any]:
        return {
            "node": node.name,
            # A page that is read again more often tells a person no more.
            "interval": round(1000 * max(0.5, node.interval)),
            "now": moment(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())),
        }

    def first(parameters: Mapping[str, str]) -> Response:
        view = overview(profiles()["containers"], Query.of(parameters))
        return _html(
            "overview.html",
            view=view,
            per_page=PER_PAGE,
            facts=node.facts(),
            events=feed(hub.recent()),
            **shared(),
        )

    def container(parameters: Mapping[str, str]) -> Response:
        everyone = profiles()["containers"]
        profile = find(everyone, parameters)
        if profile is None:
            asked = next((parameters[n] for n in ("id", "container") if parameters.get(n)), "")
            return _html("missing.html", 404, asked=asked, **shared())
        return _html(
            "container.html",
            view=container_view(profile, everyone, node.history),
            state=node.state(),
            events=feed(hub.recent(), key_of(profile)),
            feed_url=f"/feed?{urlencode(parameters)}",
            **shared(),
        )

    def part(parameters: Mapping[str, str]) -> Response:
        of = None
        if parameters:
            profile = find(profiles()["containers"], parameters)
            if profile is None:
                return _html("missing.html", 404, asked="", **shared())
            of = key_of(profile)
        return _html("feed.html", events=feed(hub.recent(), of))

    def answer(make: Callable[[Mapping[str, str]], Response]) -> Callable[..., Any]:
        async def route(request: Request) -> Response:
            return await asyncio.to_thread(make, request.query_params)

        return route

    async def static(request: Request) -> Response:
        name = request.url.path.removeprefix("/")
        return Response(asset(name), media_type=_ASSETS[name], headers=_HEADERS)

    return [
        Route("/", answer(first)),
        Route("/container", answer(container)),
        Route("/feed", answer(part)),
        *(Route(f"/{name}", static) for name in _ASSETS),
    ]


def _html(template: str, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(render(template, **values), status, _HEADERS)
