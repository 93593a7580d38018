# SPDX-License-Identifier: Apache-2.0
"""/api/v1/profiles and /api/v1/advice, with the schemas of their answers, and what all routes
answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cap_exporter.profiles.advice import advise_all
from cap_exporter.profiles.merge import by_workload

if TYPE_CHECKING:
    from starlette.requests import Request

#: Query parameters that choose, and the fields they are of.
_FILTERS = ("namespace", "pod", "container", "workload", "workload_kind")


def profile_routes(profiles: Callable[[], Mapping[str, Any]]) -> list[Route]:
    """profiles: the document of all profiles (profiles.profile.document)."""

    def chosen(query: Mapping[str, str]) -> list[dict[str, Any]]:
        return [
            one
            for one in profiles()["containers"]
            if all(one[name] == query[name] for name in _FILTERS if name in query)
        ]

    async def all_profiles(request: Request) -> Response:
        if problem := _unknown(request):
            return problem
        found = await asyncio.to_thread(chosen, request.query_params)
        return _json({"containers": found})

    async def advice(request: Request) -> Response:
        if problem := _unknown(request):
            return problem

        def make() -> dict[str, Any]:
            wanted = [
                one for one in chosen(request.query_params) if one["container_id"] or one["pod"]
            ]
            return advise_all(by_workload(wanted))

        return _json(await asyncio.to_thread(make))

    async def schema(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in SCHEMAS:
            return PlainTextResponse(f"schemas: {', '.join(SCHEMAS)}\n", 404)
        return JSONResponse(load_schema(name), headers=_HEADERS)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(load_openapi(), headers=_HEADERS)

    return [
        Route("/api/v1/profiles", all_profiles),
        Route("/api/v1/advice", advice),
        Route("/api/v1/schemas/{name}", schema),
        Route("/api/v1/openapi.json", openapi),
    ]


SCHEMAS = ("profile", "advice", "event")

_HEADERS = {"Cache-Control": "no-store"}


def load_schema(name: str) -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of one of SCHEMAS."""
    return _load(f"{name}.schema.json")


def load_openapi() -> dict[str, Any]:
    """What both addresses answer (OpenAPI 3.1)."""
    return _load("openapi.json")


def _load(file: str) -> dict[str, Any]:
    text = resources.files("cap_exporter").joinpath("schemas", file).read_text()
    document: dict[str, Any] = json.loads(text)
    return document


def _json(document: object) -> Response:
    return Response(json.dumps(document), media_type="application/json", headers=_HEADERS)


def _unknown(request: Request) -> Response | None:
    for name in request.query_params:
        if name not in _FILTERS:
            text = f"unknown parameter {name!r}; there are {', '.join(_FILTERS)}\n"
            return PlainTextResponse(text, 400)
    return None
