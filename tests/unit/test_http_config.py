# SPDX-License-Identifier: Apache-2.0
"""Prometheus' client configuration: what is read from it, and what is said of a wrong one."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from cap_exporter.fleet.http_config import HttpConfig, HttpConfigError, read_http_config


def read(folder: Path, text: str) -> HttpConfig:
    path = folder / "http.yml"
    path.write_text(text)
    return read_http_config(path)


def basic(login: str) -> str:
    return "Basic " + b64encode(login.encode()).decode()


def test_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "tenant").write_text("team-b\n")
    found = read(
        tmp_path,
        """
        authorization: {type: Token, credentials_file: token}
        http_headers:
          X-Scope-OrgID: {values: [team-a], files: [tenant]}
        tls_config:
          ca_file: ca.pem
          cert_file: /etc/client.pem
          key_file: client.key
          server_name: prometheus.example
          insecure_skip_verify: true
        proxy_url: http://proxy:3128
        follow_redirects: true
        """,
    )
    assert found == HttpConfig(
        {"Authorization": "Token secret", "X-Scope-OrgID": "team-a, team-b"},
        tmp_path / "ca.pem",
        Path("/etc/client.pem"),
        tmp_path / "client.key",
        "prometheus.example",
        True,
        "http://proxy:3128",
    )


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("bearer_token: x", "Bearer x"),
        ("bearer_token_file: file", "Bearer from a file"),
        ("authorization: {credentials: x}", "Bearer x"),
        ("basic_auth: {username: me, password: a:ö}", basic("me:a:ö")),
        ("basic_auth: {username: me, password_file: file}", basic("me:from a file")),
    ],
)
def test_ways_to_log_in(tmp_path: Path, text: str, header: str) -> None:
    (tmp_path / "file").write_text("from a file\n")
    assert read(tmp_path, text).headers == {"Authorization": header}


def test_an_empty_file_is_no_configuration(tmp_path: Path) -> None:
    assert read(tmp_path, "") == HttpConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "it must be a mapping"),
        ("a: {", "not valid YAML"),
        ("basic_auht: {}", "unknown key basic_auht; did you mean basic_auth?"),
        ("tls_config: {cafile: x}", "unknown key tls_config.cafile; did you mean ca_file?"),
        ("oauth2: {client_id: x}", "oauth2 is not supported: get a token"),
        ("tls_config: [x]", "tls_config must be a mapping"),
        ("tls_config: {cert_file: x}", "both cert_file and key_file"),
        ("tls_config: {insecure_skip_verify: 'yes'}", "must be true or false"),
        ("basic_auth: {username: 7}", "username must be a word in quotes"),
        ("basic_auth: {username: a, password_file: none}", "password_file: cannot read"),
        ("basic_auth: {username: a, password: b, password_file: c}", "not both"),
        ("{basic_auth: {username: a}, bearer_token: b}", "at most one of"),
        ("authorization: {type: basic, credentials: x}", "use basic_auth"),
        ('bearer_token: "a\\r\\nX: y"', "one line of ASCII"),
        ("http_headers: {X: {values: y}}", "http_headers.X.values must be a list"),
        ("http_headers: [X]", "must be a mapping of names"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_right(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(HttpConfigError, match=r"http\.yml") as caught:
        read(tmp_path, text)
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HttpConfigError, match=r"cannot read .*/none: No such file"):
        read_http_config(tmp_path / "none")
