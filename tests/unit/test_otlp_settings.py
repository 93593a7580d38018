# SPDX-License-Identifier: Apache-2.0
"""Where OTLP goes: our flags, the standard variables, defaults, and what is refused."""

from __future__ import annotations

import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.outputs.otlp_settings import (
    Flags,
    OtlpConfigError,
    OtlpSettings,
    SignalSettings,
    parse_headers,
    resolve,
)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
COLLECTOR = {ENDPOINT: "http://collector:4318"}


def logs(**environ: str) -> SignalSettings:
    found = resolve(Flags(), environ).logs
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("flags", "environ", "sent"),
    [
        ({}, {}, (False, False)),
        ({}, {ENDPOINT: "  "}, (False, False)),
        ({}, COLLECTOR, (True, True)),
        ({"endpoint": "http://c:4318"}, {}, (True, True)),
        ({}, {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c/logs"}, (True, False)),
        ({}, {"OTEL_METRICS_EXPORTER": "otlp"}, (False, True)),
        ({}, COLLECTOR | {"OTEL_LOGS_EXPORTER": "none"}, (False, True)),
        ({}, COLLECTOR | {"OTEL_METRICS_EXPORTER": "prometheus"}, (True, False)),
        ({}, COLLECTOR | {"OTEL_METRICS_EXPORTER": "prometheus, otlp"}, (True, True)),
        ({"logs": True}, {"OTEL_LOGS_EXPORTER": "none"}, (True, False)),
        ({"metrics": False}, COLLECTOR, (True, False)),
        ({"logs": True}, COLLECTOR | {"OTEL_SDK_DISABLED": "True"}, (False, False)),
        ({}, COLLECTOR | {"OTEL_SDK_DISABLED": "yes"}, (True, True)),
    ],
)
def test_nothing_is_sent_unless_somebody_said_where(
    flags: dict[str, Any], environ: dict[str, str], sent: tuple[bool, bool]
) -> None:
    found = resolve(Flags(**flags), environ)
    assert (found.logs is not None, found.metrics is not None) == sent
    assert bool(found) is any(sent)


@pytest.mark.parametrize(
    ("environ", "protocol", "endpoint", "insecure"),
    [
        (COLLECTOR, "http/protobuf", "http://collector:4318/v1/logs", True),
        ({ENDPOINT: "https://c/otlp/"}, "http/protobuf", "https://c/otlp/v1/logs", False),
        ({ENDPOINT: "http://collector:4317"}, "grpc", "http://collector:4317", True),
        ({ENDPOINT: "collector:4317"}, "grpc", "collector:4317", False),
        (
            {ENDPOINT: "collector:4317", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
            "grpc",
            "collector:4317",
            True,
        ),
        ({ENDPOINT: "https://c:443", PROTOCOL: "grpc"}, "grpc", "https://c:443", False),
        (
            {ENDPOINT: "http://c:4317", PROTOCOL: "http/protobuf"},
            "http/protobuf",
            "http://c:4317/v1/logs",
            True,
        ),
        (
            COLLECTOR | {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://logs:4318/own"},
            "http/protobuf",
            "http://logs:4318/own",
            True,
        ),
        ({"OTEL_LOGS_EXPORTER": "otlp"}, "http/protobuf", "http://localhost:4318/v1/logs", True),
        (
            {"OTEL_LOGS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"},
            "grpc",
            "http://localhost:4317",
            True,
        ),
        ({ENDPOINT: "http://[::1]:4317"}, "grpc", "http://[::1]:4317", True),
    ],
)
def test_endpoint_and_protocol(
    environ: dict[str, str], protocol: str, endpoint: str, insecure: bool
) -> None:
    found = logs(**environ)
    assert (found.protocol, found.endpoint, found.insecure) == (protocol, endpoint, insecure)


def test_the_command_line_wins_and_a_signal_s_own_variable_over_the_one_for_all(
    tmp_path: Path,
) -> None:
    general, own, flagged = (tmp_path / name for name in ("general", "own", "flagged"))
    for file in (general, own, flagged):
        file.write_text("pem")
    environ = COLLECTOR | {
        "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "b=2",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "4",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "deflate",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(general),
        "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE": str(own),
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    }
    found = resolve(Flags(), environ)
    assert found.interval == 5.0
    of = {"logs": found.logs, "metrics": found.metrics}
    for signal, values in {
        "logs": ({"b": "2"}, 4.0, "deflate", own),
        "metrics": ({"a": "1"}, 3.0, "gzip", general),
    }.items():
        one = of[signal]
        assert one is not None
        assert (one.headers, one.timeout, one.compression, one.certificate) == values
    flags = Flags(
        endpoint="http://flag:4318",
        headers="c=3",
        timeout=9.0,
        compression="none",
        certificate=flagged,
        interval=7.0,
    )
    asked = resolve(flags, environ | {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://own/"})
    assert asked.interval == 7.0
    assert asked.logs is not None
    assert asked.logs.endpoint == "http://flag:4318/v1/logs"
    assert asked.logs.headers == {"c": "3"}
    assert (asked.logs.timeout, asked.logs.compression) == (9.0, "none")
    assert asked.logs.certificate == flagged


def test_a_time_limit_in_seconds_as_the_sdk_has_it_or_milliseconds_as_the_specification() -> None:
    timeout = "OTEL_EXPORTER_OTLP_TIMEOUT"
    assert [logs(**COLLECTOR, **{timeout: text}).timeout for text in ("5", "0.5", "10000")] == [
        5.0,
        0.5,
        10.0,
    ]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({ENDPOINT: "collector:4318"}, r"OTEL_EXPORTER_OTLP_ENDPOINT.*http://collector:4318"),
        ({ENDPOINT: "ftp://c"}, "not an endpoint"),
        ({ENDPOINT: "http://c:port"}, "not an endpoint"),
        ({ENDPOINT: "http://"}, "not an endpoint"),
        ({ENDPOINT: "http://[::1"}, "not an endpoint"),
        (COLLECTOR | {PROTOCOL: "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL.*http/protobuf"),
        (COLLECTOR | {"OTEL_LOGS_EXPORTER": "console"}, "console is not an exporter.*otlp"),
        (COLLECTOR | {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "not a number above 0"),
        (COLLECTOR | {"OTEL_METRIC_EXPORT_INTERVAL": "-1"}, "INTERVAL.*above 0"),
        (COLLECTOR | {"OTEL_METRIC_EXPORT_INTERVAL": "inf"}, "INTERVAL.*above 0"),
        (COLLECTOR | {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "none or gzip or deflate"),
        (
            {ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"},
            "none or gzip$",
        ),
        (
            COLLECTOR | {"OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE": "/no/such.pem"},
            "METRICS_CERTIFICATE: cannot read /no/such.pem: No such file",
        ),
        (
            COLLECTOR | {"OTEL_EXPORTER_OTLP_CLIENT_KEY": "/dev/null"},
            "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused_by_name(environ: dict[str, str], said: str) -> None:
    with pytest.raises(OtlpConfigError, match=said):
        resolve(Flags(), environ)


def test_headers_are_percent_decoded_and_their_values_are_never_shown() -> None:
    assert parse_headers("H", "Authorization=Basic%20a%3D%3D, x = 1 ,,y=a=b") == {
        "authorization": "Basic a==",
        "x": "1",
        "y": "a=b",
    }
    for wrong in ("s3cret", "=s3cret", "a b=s3cret", "x=s3cret%0Ay", "x=s3cret\u00fc"):
        with pytest.raises(OtlpConfigError, match=r"^H: ") as caught:
            parse_headers("H", wrong)
        assert "s3cret" not in str(caught.value)


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    program = """
import sys
from cap_exporter.cli import run
from cap_exporter.cli.otlp_options import Otlp
from cap_exporter.outputs.otlp_settings import OtlpSettings
Otlp(OtlpSettings(), "node", kubernetes=False, symbol=lambda _: None).stop()
heavy = {"opentelemetry", "google", "grpc", "requests"} & {m.split(".")[0] for m in sys.modules}
sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


names = st.sampled_from(
    [
        ENDPOINT,
        PROTOCOL,
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_LOGS_EXPORTER",
        "OTEL_METRIC_EXPORT_INTERVAL",
    ]
)


@given(st.dictionaries(names, st.text(string.printable + "ü\udcff", max_size=30)))
def test_any_environment_is_settings_or_a_clear_error(environ: dict[str, str]) -> None:
    try:
        assert isinstance(resolve(Flags(), environ), OtlpSettings)
    except OtlpConfigError as error:
        assert str(error).startswith(("OTEL_", "--otlp"))  # noqa: PT017
