# SPDX-License-Identifier: Apache-2.0
"""Web configuration files that are wrong: the message names the key, the line and what is right."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.config import ConfigError
from cap_exporter.fleet.http_config import read_http_config
from cap_exporter.outputs.passwords import Passwords
from cap_exporter.outputs.rate import Bucket
from cap_exporter.outputs.web_config import RateLimit, WebConfig, read_web_config
from tests.e2e.web_config import WebFiles

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
VALUES = "deploy/helm/cap-exporter/values.yaml"
TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> WebFiles:
    return WebFiles(tmp_path_factory.mktemp("web"))


def read(files: WebFiles, text: str) -> WebConfig:
    files.config.write_text(text)
    return read_web_config(files.config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tls_config: {}", r"line 1: tls_config: unknown key; did you mean tls_server_config\?"),
        ("\nfoo: 1", r"line 2: foo: unknown key; there are tls_server_config, http_server_config"),
        (TLS + "  certfile: x", r"line 4: tls_server_config\.certfile: .* did you mean cert_file"),
        ("rate_limit: 1", r"line 1: rate_limit: must be a mapping"),
        ("- a", r"line 1: must be a mapping"),
        ("tls_server_config:\n  cert_file: x", r"line 2: tls_server_config: key_file is missing"),
        ("tls_server_config:\n  min_version: TLS13", r"cert_file is missing"),
        (TLS + "  cert: x", r"line 4: .*cert: cert_file is there as well"),
        (TLS + "  key_file: x", r"line 4: tls_server_config\.key_file: is there twice"),
        (TLS + "  min_version: TLS10", r"line 4: .*TLS10 is not spoken here: use TLS12 or TLS13"),
        (TLS + "  min_version: SSL3", r"'SSL3' is none of TLS12, TLS13"),
        (TLS + "  min_version: TLS13\n  max_version: TLS12", r"TLS13 is above max_version TLS12"),
        (TLS + "  cipher_suites: [RC4]", r"'RC4' is none of TLS_ECDHE_ECDSA_WITH_AES"),
        (TLS + "  cipher_suites: TLS_AES_128_GCM_SHA256", r"cipher_suites: must be a list"),
        (TLS + "  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]", r"only those of"),
        (TLS + "  curve_preferences: [X25519]", r"takes one curve, of CurveP256, CurveP384"),
        (TLS + "  curve_preferences: [CurveP256, CurveP384]", r"takes one curve"),
        (TLS + "  curve_preferences: [P256]", r"'P256' is none of CurveP256"),
        (TLS + "  prefer_server_cipher_suites: 1", r"must be true or false"),
        (TLS + "  client_ca_file: ca.pem", r"add client_auth_type: RequireAndVerifyClientCert"),
        (TLS + "  client_auth_type: RequireAndVerifyClientCert", r"needs client_ca_file"),
        (TLS + "  client_auth_type: RequireAnyClientCert", r"use RequireAndVerifyClientCert or"),
        (TLS + "  client_auth_type: RequestClientCert", r"use RequireAndVerifyClientCert or"),
        (TLS + "  client_auth_type: yes", r"'yes' is none of NoClientCert"),
        (TLS + "  client_allowed_sans: [a]", r"needs client_auth_type: RequireAndVerifyClientCert"),
        (
            TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: none.pem",
            r"client_ca: .*none\.pem: No such file",
        ),
        (
            TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca: no PEM",
            r"client_ca: is not PEM",
        ),
        ("tls_server_config: {cert_file: a.pem, key_file: key.pem}", r"a\.pem: No such file"),
        (
            "tls_server_config: {cert_file: key.pem, key_file: key.pem}",
            r"key\.pem, .*key\.pem: is not PEM",
        ),
        ("tls_server_config: {cert: nonsense, key: nonsense}", r"is not PEM"),
        ("tls_server_config: {cert_file: cert.pem, key_file: strange.pem}", r"not that of the cer"),
        ("tls_server_config: {cert_file: cert.pem, key_file: locked.pem}", r"encrypted"),
        (
            "http_server_config:\n  headers: {Server: x}",
            r"line 2: .*unknown key; there are Content",
        ),
        ("http_server_config:\n  headers: {X-Frame-Options: allow}", r"none of deny, sameorigin"),
        ('http_server_config:\n  headers: {X-XSS-Protection: "1\\r\\nX: y"}', r"one line of ASCII"),
        ("http_server_config: {http2: maybe}", r"http2: must be true or false"),
        ("basic_auth_users:\n  alice: secret", r"line 2: basic_auth_users\.alice: is no bcrypt"),
        ("basic_auth_users:\n  alice: " + HASH[:-1], r"is no bcrypt hash: make one with `htpasswd"),
        ("basic_auth_users:\n  'a:b': " + HASH, r"cannot have a colon"),
        ("basic_auth_users: [alice]", r"must be a mapping"),
        ("rate_limit: {interval: 1s}", r"burst must be 1 at least"),
        ("rate_limit: {interval: 1s, burst: x}", r"burst: must be a whole number"),
        ("rate_limit: {interval: 5, burst: 1}", r"5 has no unit: write e\.g\. 5s"),
        ("rate_limit: {interval: soon, burst: 1}", r"'soon' is not a duration"),
        ("a: [", r"line 1: not valid YAML"),
        ("a: b: c", r"line 1: not valid YAML"),
        ("[" * 10_000, r"not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(files: WebFiles, text: str, said: str) -> None:
    files.issue("other.pem", "strange.pem", "localhost")
    key = load_pem_private_key((files.folder / "key.pem").read_bytes(), None)
    (files.folder / "locked.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))
    )
    with pytest.raises(ConfigError, match=said) as raised:
        read(files, text)
    assert str(raised.value).startswith(str(files.config))
    assert "secret" not in str(raised.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*web\.yml: No such file"):
        read_web_config(tmp_path / "web.yml")
    (tmp_path / "web.yml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"web\.yml is not UTF-8"):
        read_web_config(tmp_path / "web.yml")


@pytest.mark.parametrize("text", ["", "# nothing", "tls_server_config:", "tls_server_config: {}"])
def test_what_says_nothing_is_plain_http(files: WebFiles, text: str) -> None:
    config = read(files, text)
    assert (config.tls, config.users, config.rate) == (None, {}, None)


def test_what_is_null_or_blank_is_left_out(files: WebFiles) -> None:
    config = read(
        files,
        TLS + "  client_ca_file:\n  client_auth_type: ''\n  client_allowed_sans:\n"
        "http_server_config: {headers: {X-Frame-Options: ''}}\n"
        "basic_auth_users:\nrate_limit: {interval: 0, burst: 0}\n",
    )
    assert config.tls is not None
    assert (config.headers, config.users, config.rate) == ({}, {}, None)


def test_the_sample_of_other_exporters_is_read(files: WebFiles) -> None:
    config = read(
        files,
        TLS + "  min_version: TLS12\n  prefer_server_cipher_suites: true\n"
        "http_server_config:\n  http2: true\n  headers:\n    X-Content-Type-Options: nosniff\n"
        f"basic_auth_users:\n  alice: {HASH}\n  bob: {HASH}\n"
        "rate_limit:\n  interval: 1m30s\n  burst: 2\n",
    )
    assert config.http2
    assert config.users == {b"alice": HASH.encode(), b"bob": HASH.encode()}
    assert config.rate == RateLimit(90.0, 2)
    assert config.files == tuple(files.folder / n for n in ("web.yml", "cert.pem", "key.pem"))


@given(
    st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"\n abk", max_size=40).map(str.encode)
)
def test_any_bytes_are_read_or_refused(files: WebFiles, raw: bytes) -> None:
    files.config.write_bytes(raw)
    with contextlib.suppress(ConfigError):
        read_web_config(files.config)


def test_what_the_documentation_shows_is_read(files: WebFiles) -> None:
    page = (Path(__file__).parents[2] / "docs/web-configuration.md").read_text()
    shown = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    ours = [text for text in shown if re.match(r"tls_server_config|basic_auth_users", text)]
    assert len(ours) == 3
    files.issue("tls.crt", "tls.key", "localhost")
    (files.folder / "clients-ca.crt").write_bytes(files.ca.read_bytes())
    (files.folder / "password").write_text("x")
    (files.folder / "ca.crt").write_bytes(files.ca.read_bytes())
    for text in ours:
        config = read(files, text)
        assert config.tls or config.users
    (client,) = [text for text in shown if text.startswith("tls_config")]
    files.config.write_text(client)
    assert read_http_config(files.config).headers["Authorization"]
    values = yaml.safe_load((Path(__file__).parents[2] / VALUES).read_text())
    (chart,) = [yaml.safe_load(text) for text in shown if text.startswith("webConfig")]
    assert chart["webConfig"].keys() <= values["webConfig"].keys()
    assert chart["podMonitor"].keys() <= values["podMonitor"].keys()


def test_a_bucket_fills_at_its_rate_and_not_beyond_its_burst() -> None:
    now = [0.0]
    bucket = Bucket(lambda: now[0])
    limit = RateLimit(0.5, 3)
    assert [bucket.take(limit) for _ in range(4)] == [True, True, True, False]
    now[0] = 0.6
    assert [bucket.take(limit) for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [bucket.take(limit) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(RateLimit(0.5, 1)) is False


async def _any_header(header: str) -> bool:
    passwords = Passwords()
    try:
        return await passwords.are_right({b"a": HASH.replace("$10$", "$04$").encode()}, header, "")
    finally:
        passwords.close()


@given(st.text(max_size=60) | st.binary(max_size=30).map(lambda raw: "Basic " + raw.hex()))
def test_any_header_is_no_right_password(header: str) -> None:
    assert asyncio.run(_any_header(header)) is False
