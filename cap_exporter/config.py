# SPDX-License-Identifier: Apache-2.0
"""The configuration file: YAML with one key per command-line option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ConfigError(Exception):
    """The file cannot be used; the text names the file, the key and what would be right."""


def read_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Option values by parameter name (``drain_interval``). Keys may be written with dashes or
    underscores. Raises ConfigError."""
    document = load_yaml(path)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must be a mapping of options to values, e.g. `listen: ':10838'`")
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
            raise ConfigError(f"{path}: unknown key {key!r}{hint}")
        if isinstance(value, dict):
            raise ConfigError(f"{path}: the value of {key!r} must not be a mapping")
        values[name] = value
    return values


def load_yaml(path: Path, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """The file's one document. Raises ConfigError, without a word of what the file says: it may
    hold secrets."""
    try:
        return load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ConfigError(f"{path}{where}: not valid YAML: {problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not valid YAML: too deep") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: a date or number that is none") from error


def for_command(command: click.Command, values: dict[str, Any]) -> dict[str, Any]:
    """The values as the command's options take them: a YAML list is as good as ``a,b``."""
    several = {param.name for param in command.params if param.multiple}
    return {
        name: ",".join(map(str, value))
        if isinstance(value, list) and name not in several
        else value
        for name, value in values.items()
    }


def parse_duration(text: str) -> float:
    """Seconds of ``5s``, ``250ms``, ``1h30m``, ``2d`` or a plain number. Raises ValueError."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|[smhd]))+", text):
        raise ValueError(f"{text!r} is not a duration: write e.g. 5s, 250ms, 10m or 1h30m")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
