# SPDX-License-Identifier: Apache-2.0
"""What a scraper asks for: Accept and Accept-Encoding (RFC 9110, sections 12.5.1 and 12.5.3)."""

from __future__ import annotations

from collections.abc import Iterator


def _preferences(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for item in header.split(","):
        name, *pairs = (part.strip().lower() for part in item.split(";"))
        parameters = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if name:
            yield name, parameters, quality


def wants_openmetrics(accept: str) -> bool:
    """OpenMetrics 1.0 where it is asked for and not less wanted than plain text."""
    openmetrics = text = 0.0
    for name, parameters, quality in _preferences(accept):
        if name == "application/openmetrics-text":
            if parameters.get("version", "1.0.0") in ("1.0.0", "1.0", "0.0.1"):
                openmetrics = max(openmetrics, quality)
        elif name == "text/plain":
            text = max(text, quality)
    return openmetrics > 0 and openmetrics >= text


def accepts_gzip(accept_encoding: str) -> bool:
    """``gzip`` or ``*``, unless with ``q=0``."""
    answer = False
    for name, _, quality in _preferences(accept_encoding):
        if name in ("gzip", "x-gzip"):
            return quality > 0
        if name == "*":
            answer = quality > 0
    return answer
