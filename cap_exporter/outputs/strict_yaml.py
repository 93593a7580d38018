# SPDX-License-Identifier: Apache-2.0
"""Reads YAML of which every key is known; what is wrong is named with its line."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

import yaml

from cap_exporter.config import ConfigError, load_yaml

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"


class Value:
    """A node of the file. Each reading raises ConfigError where it is of another kind."""

    def __init__(self, path: Path, name: str, node: yaml.Node) -> None:
        """name: for messages, e.g. ``tls_server_config.cert_file``."""
        self.path = path
        self.name = name
        self._node = node

    def error(self, text: str) -> ConfigError:
        line = self._node.start_mark.line + 1
        name = f"{self.name}: " if self.name else ""
        return ConfigError(f"{self.path}, line {line}: {name}{text}")

    def mapping(self, allowed: Collection[str] | None = None) -> dict[str, Value]:
        """Without what is null. allowed: the keys that there are; None: any."""
        if self._is_null:
            return {}
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error("must be a mapping")
        found: dict[str, Value] = {}
        seen = set()
        for key, node in self._node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            value = Value(self.path, f"{self.name}.{name}" if self.name else name, node)
            at = Value(self.path, value.name, key)
            if allowed is not None and name not in allowed:
                near = difflib.get_close_matches(name, allowed, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise at.error(f"unknown key; {hint}there are {', '.join(allowed)}")
            if name in seen:
                raise at.error("is there twice")
            seen.add(name)
            if not value._is_null:
                found[name] = value
        return found

    def text(self) -> str:
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.error("must be one value, not a list or mapping")
        return str(self._node.value)

    def one_of(self, allowed: Collection[str]) -> str:
        text = self.text()
        if text not in allowed:
            raise self.error(f"{text!r} is none of {', '.join(allowed)}")
        return text

    def flag(self) -> bool:
        if self._node.tag != _BOOL:
            raise self.error("must be true or false")
        return self.text().lower() in ("true", "yes", "on")

    def number(self) -> int:
        if self._node.tag != _INT or not self.text().isdigit():
            raise self.error("must be a whole number")
        return int(self.text())

    def items(self) -> list[Value]:
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error("must be a list")
        return [Value(self.path, self.name, node) for node in self._node.value]

    @property
    def _is_null(self) -> bool:
        return bool(self._node.tag == _NULL)


def read_yaml(path: Path, allowed: Collection[str]) -> dict[str, Value]:
    """The file's keys; an empty file has none. Raises ConfigError."""
    node = load_yaml(path, lambda text: yaml.compose(text, Loader=yaml.SafeLoader))
    if node is None:
        return {}
    return Value(path, "", node).mapping(allowed)
