# SPDX-License-Identifier: Apache-2.0
"""A web configuration file that is read again when it, or a certificate it names, changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cap_exporter.config import ConfigError
from cap_exporter.outputs.web_config import WebConfig, read_web_config
from cap_exporter.reload import Signature, signature_of

log = logging.getLogger(__name__)

#: How often it is looked at, seconds, while requests come.
_LOOK = 1.0


class WebConfigFile:
    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """path: None for plain HTTP. Raises ConfigError."""
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._seen: dict[Path, Signature | None] = {}
        self._config = WebConfig()
        if path is not None:
            self._config = read_web_config(path)
            self._seen = self._signatures()
            if self._config.http2:
                log.info("%s: http2: HTTP/1.1 is spoken here", path)

    def current(self) -> WebConfig:
        """As the files are now; where they can't be used, as they were."""
        now = self._clock()
        if self._path is None or now - self._looked < _LOOK:
            return self._config
        self._looked = now
        signatures = self._signatures()
        if signatures == self._seen:
            return self._config
        self._seen = signatures
        try:
            found = read_web_config(self._path)
            self._refuse_to_open(self._path, found)
        except ConfigError as error:
            log.error("the web configuration stays as it was: %s", error)
        else:
            self._config = found
            # Of files that were known: as before they were read.
            self._seen = self._signatures() | {
                f: signatures[f] for f in found.files if f in signatures
            }
            log.info("%s was read again", self._path)
        return self._config

    def _refuse_to_open(self, path: Path, found: WebConfig) -> None:
        """A file that is being written may be empty for a moment."""
        for name, was, now in (
            ("tls_server_config", self._config.tls, found.tls),
            ("basic_auth_users", self._config.users, found.users),
        ):
            if was and not now:
                raise ConfigError(f"{path}: {name} is gone; to do without takes a restart")

    def _signatures(self) -> dict[Path, Signature | None]:
        return {file: signature_of(file) for file in self._config.files}
