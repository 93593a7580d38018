# SPDX-License-Identifier: Apache-2.0
"""Asks a running exporter."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

DEFAULT_URL = "http://127.0.0.1:10839"


class NoAnswer(Exception):
    """There is no exporter at this address, or something else; the text says which."""


def ask_exporter(url: str, timeout: float = 10.0) -> dict[str, Any]:
    """/api/v1/profiles. Raises NoAnswer."""
    address = url.rstrip("/") + "/api/v1/profiles"
    try:
        with urllib.request.urlopen(address, timeout=timeout) as answer:
            document = json.load(answer)
    except (OSError, HTTPException, ValueError) as error:
        raise NoAnswer(f"no answer from {address}: {getattr(error, 'reason', error)}") from error
    if not isinstance(document, dict) or not isinstance(document.get("containers"), list):
        raise NoAnswer(f"{address} is no cap-exporter: its answer has no containers")
    return document


def follow_events(url: str, recent: bool) -> Iterator[dict[str, Any]]:
    """Server-sent events of /api/v1/events, for ever: a connection that breaks is made again and
    goes on where it was. Raises NoAnswer where the first one can't be made."""
    last = ""
    connected = False
    delay = 1.0
    while True:
        address = url.rstrip("/") + "/api/v1/events" + ("?recent=1" if recent else "")
        headers = {"Last-Event-ID": last} if last else {}
        request = urllib.request.Request(address, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                connected, delay = True, 1.0
                for raw in answer:
                    line = raw.decode("utf-8", "replace").rstrip("\n")
                    if line.startswith("id: "):
                        last = line[4:]
                    elif line.startswith("data: {"):
                        yield json.loads(line[6:])
        except (OSError, HTTPException, ValueError) as error:
            if not connected:
                reason = getattr(error, "reason", error)
                raise NoAnswer(f"no answer from {address}: {reason}") from error
        time.sleep(delay)
        delay = min(delay * 2, 30.0)
