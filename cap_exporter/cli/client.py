# SPDX-License-Identifier: Apache-2.0
"""Asks a running exporter."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
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
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise NoAnswer(f"no answer from {address}: {getattr(error, 'reason', error)}") from error
    if not isinstance(document, dict) or not isinstance(document.get("containers"), list):
        raise NoAnswer(f"{address} is no cap-exporter: its answer has no containers")
    return document
