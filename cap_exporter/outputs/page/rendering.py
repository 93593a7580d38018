# SPDX-License-Identifier: Apache-2.0
"""Templates → HTML: escaped, and what a reader would not see is spelled out."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from cap_exporter.terminal import printable

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = resources.files(__package__)


def render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)


def asset(name: str) -> bytes:
    """One of static/."""
    return _FOLDER.joinpath("static", name).read_bytes()


@cache
def _environment() -> Environment:
    # Here: it takes memory that an exporter without readers has no use for.
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: _FOLDER.joinpath("templates", name).read_text("utf-8")),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda number: f"{number:,}"
    environment.filters["bare"] = lambda name: name.removeprefix("CAP_")
    environment.filters["lines"] = _lines
    return environment


def _visible(value: Any) -> Any:
    # Markup is made by a template, not by a container.
    return printable(value) if type(value) is str else value


def _lines(text: str) -> Any:
    """A text of several lines, e.g. a manifest."""
    from markupsafe import escape

    return escape("\n".join(map(printable, text.split("\n"))))
