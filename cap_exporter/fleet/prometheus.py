# SPDX-License-Identifier: Apache-2.0
"""Asks a Prometheus, or what speaks its HTTP API (Thanos, Mimir, VictoriaMetrics):
https://prometheus.io/docs/prometheus/latest/querying/api/."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.exceptions import SSLError as TlsError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from cap_exporter.fleet.http_config import HttpConfig, HttpConfigError
from cap_exporter.fleet.site import BadUrl, Site, reason_of, words_of
from cap_exporter.terminal import printable

#: What servers say when a query would read too much at once or take too long: Prometheus
#: promql/engine.go (ErrTooManySamples, ErrQueryTimeout, v3.5), Mimir's and Thanos' limits
#: (err-mimir-…; store limits), VictoriaMetrics' -search.max… flags.
_TOO_BIG = (
    "too many samples",
    "too many points",
    "timed out",
    "timeout",
    "deadline exceeded",
    "err-mimir-max",
    "exceeds limit",
    "exceeded the limit",
    "exceeds the limit",
    "limit exceeded",
    "exceed the limit",
    "-search.max",
    "too long query",
    "too large",
)


class PrometheusError(Exception):
    """No use of the answer; the text says what is wrong and what to do."""


class TooBig(PrometheusError):
    """The server refuses so much at once: ask for less."""


class Series(NamedTuple):
    """One series of an answer."""

    labels: dict[str, str]
    samples: list[tuple[float, float]]
    """Time, in seconds since the epoch, and value; ascending."""


class Prometheus:
    """One server. Not for several threads at once."""

    def __init__(self, url: str, config: HttpConfig | None = None, timeout: float = 150.0) -> None:
        """url: with the path prefix before /api, if any, and with user:password if it must be.
        timeout: of one query, in seconds; servers give up after two minutes by default.
        Raises PrometheusError."""
        try:
            site = Site(url, config)
        except BadUrl as error:
            raise PrometheusError(
                f"{url!r} is no address: write e.g. http://prometheus:9090"
            ) from error
        except HttpConfigError as error:
            raise PrometheusError(str(error)) from error
        self.url = site.url.removesuffix("/api/v1")
        """Without password."""
        self.warnings: set[str] = set()
        """What it said beside its answers: that some of its stores are away, …"""
        self._timeout = timeout
        self._headers = site.headers
        self._pool = site.pool

    def query(self, expr: str, time: float) -> list[Series]:
        """The vector, or the matrix, that the expression gives at this time (seconds since the
        epoch). Raises PrometheusError; TooBig where a part of it may go."""
        data = self._ask("query", {"query": expr, "time": f"{time:.3f}"})
        kind, result = data.get("resultType"), data.get("result")
        if kind not in ("vector", "matrix") or not isinstance(result, list):
            raise PrometheusError(f"{self.url} is no Prometheus: its answer has no vector")
        try:
            return [_series(one) for one in result]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise PrometheusError(f"{self.url} is no Prometheus: {error!r}") from error

    def _ask(self, what: str, fields: dict[str, str]) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{what}"
        body = urlencode(fields, quote_via=quote)
        try:
            answer = self._request("POST", address, body)
            if answer.status in (405, 501):  # as Prometheus' own client does
                answer = self._request("GET", f"{address}?{body}", None)
        except HTTPError as error:
            raise self._no_answer(error) from error
        text = answer.data.decode("utf-8", "replace")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict) and document.get("status") == "success":
            data = document.get("data")
            if isinstance(data, dict):
                self._note(document)
                return data
        raise self._refused(answer, document if isinstance(document, dict) else {}, text)

    def _note(self, document: dict[str, Any]) -> None:
        warnings = document.get("warnings")
        if isinstance(warnings, list):
            self.warnings.update(printable(str(one)) for one in warnings)
        if document.get("isPartial") is True:  # VictoriaMetrics' word for it
            self.warnings.add("the answer is partial")

    def _request(self, method: str, address: str, body: str | None) -> urllib3.BaseHTTPResponse:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        return self._pool.request(
            method,
            address,
            body=body,
            headers=headers,
            redirect=False,
            retries=urllib3.Retry(
                2,
                connect=0,
                read=0,
                status_forcelist=(429, 502),
                backoff_factor=0.3,
                allowed_methods=None,
                raise_on_status=False,
            ),
            timeout=urllib3.Timeout(connect=10, read=self._timeout),
        )

    def _no_answer(self, error: HTTPError) -> PrometheusError:
        reason = reason_of(error)
        if isinstance(reason, TlsError):
            return PrometheusError(
                f"no TLS with {self.url}: {words_of(reason)}. Its authority is given as "
                "tls_config.ca_file, a client's certificate as cert_file and key_file, in the file "
                "of --prometheus-http-config"
            )
        if isinstance(reason, Urllib3TimeoutError) and "Connect" not in type(reason).__name__:
            return TooBig(f"{self.url} gave no answer in {self._timeout:g} s")
        return PrometheusError(f"no answer from {self.url}: {words_of(reason)}")

    def _refused(
        self, answer: urllib3.BaseHTTPResponse, document: dict[str, Any], text: str
    ) -> PrometheusError:
        status = answer.status
        words = printable(" ".join(str(document.get("error") or text[:300]).split()))
        if 300 <= status < 400:
            where = printable(answer.headers.get("Location", "elsewhere").partition("?")[0])
            return PrometheusError(
                f"{self.url} redirects to {where}: a log-in page, or the address has changed"
            )
        if status in (401, 403):
            what = "wants to know who asks" if status == 401 else "does not allow it"
            return PrometheusError(
                f"{self.url} {what} (HTTP {status}: {words or 'no reason given'}): "
                "--prometheus-http-config names a file with basic_auth or authorization"
            )
        low = words.lower()
        if status in (400, 413, 422, 429, 500, 503, 504) and (
            status in (413, 504) or any(part in low for part in _TOO_BIG)
        ):
            return TooBig(f"{self.url} gives up (HTTP {status}): {words}")
        if document.get("status") == "error":
            return PrometheusError(f"{self.url} refuses the query (HTTP {status}): {words}")
        if status >= 500 or status == 429:
            return PrometheusError(f"{self.url} cannot answer now (HTTP {status}): {words}")
        return PrometheusError(
            f"{self.url} is no Prometheus: HTTP {status} from /api/v1/query. The address goes up "
            "to /api, e.g. http://thanos:9090 or https://mimir/prometheus"
        )


def _series(one: dict[str, Any]) -> Series:
    samples = one["values"] if "values" in one else [one["value"]]
    labels = {str(name): str(value) for name, value in one["metric"].items()}
    return Series(labels, [(float(time), float(value)) for time, value in samples])
