# SPDX-License-Identifier: Apache-2.0
"""Certificates, passwords and web configuration files for tests."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import bcrypt
import trustme
import yaml

PASSWORD = "correct horse"


def hash_of(password: str | bytes, cost: int = 4) -> str:
    raw = password.encode() if isinstance(password, str) else password
    return bcrypt.hashpw(raw, bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str | bytes) -> str:
    """The header Authorization."""
    raw = password.encode() if isinstance(password, str) else password
    return "Basic " + base64.b64encode(user.encode() + b":" + raw).decode()


class WebFiles:
    """A folder with ``web.yml`` and certificates of an authority of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "web.yml"
        self.ca = folder / "ca.pem"
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.renew()

    def renew(self) -> None:
        """A new server certificate, ``cert.pem`` and ``key.pem``."""
        self.issue("cert.pem", "key.pem", "localhost", "127.0.0.1")

    def issue(self, cert: str, key: str, *names: str) -> None:
        leaf = self.authority.issue_cert(*names)
        leaf.private_key_pem.write_to_path(str(self.folder / key))
        (self.folder / cert).write_bytes(b"".join(one.bytes() for one in leaf.cert_chain_pems))

    def write(self, **sections: Any) -> Path:
        self.config.write_text(yaml.safe_dump(sections))
        return self.config

    def write_tls(self, **more: Any) -> Path:
        """With TLS; ``more`` goes to tls_server_config."""
        return self.write(tls_server_config={"cert_file": "cert.pem", "key_file": "key.pem"} | more)

    def client(self, name: str = "") -> ssl.SSLContext:
        """A client that trusts the authority, with a certificate of this name."""
        context = ssl.create_default_context(cafile=self.ca)
        if name:
            self.issue("client.pem", "client-key.pem", name)
            context.load_cert_chain(self.folder / "client.pem", self.folder / "client-key.pem")
        return context
