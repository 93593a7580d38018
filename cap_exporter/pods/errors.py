# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us and the API server: one class for each way to react."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cap_exporter.pods.state import Phase
from cap_exporter.pods.untrusted import integer, mapping, objects, text


class ApiError(Exception):
    """Something is wrong. The text says what, and what to do where there is something to do."""

    reason = "other"
    """Names the kind in metrics: one of a few words."""
    phase = Phase.UNREACHABLE
    """What the watch's state is while this lasts."""
    list_again = False
    """Whether events may have been missed, so that only a new list tells what there is."""
    wait: float | None = None
    """Seconds for which the server asked to be left alone."""


class NoConfiguration(ApiError):
    """It is not known how to reach an API server."""

    reason = "no_configuration"
    phase = Phase.NO_CONFIGURATION


class Unauthorized(ApiError):
    """401: the server does not know us. A token that was exchanged looks like this."""

    reason = "unauthorized"
    phase = Phase.UNAUTHORIZED


class Forbidden(ApiError):
    """403: we may not."""

    reason = "forbidden"
    phase = Phase.FORBIDDEN


class NotFound(ApiError):
    """404: something answers that serves no pods."""

    reason = "not_found"
    phase = Phase.NOT_FOUND


class Expired(ApiError):
    """410: the server has forgotten what came after our resource version. Part of normal life."""

    reason = "expired"
    phase = Phase.LISTING
    list_again = True


class VersionTooNew(ApiError):
    """The server has not got as far as our resource version: another one, or a restored one."""

    reason = "version_too_new"
    list_again = True


class VersionWentBack(ApiError):
    """An event's resource version is below an earlier one: the server's data was set back."""

    reason = "version_went_back"
    list_again = True


class Throttled(ApiError):
    """429: too many requests, or the server is still filling its caches."""

    reason = "throttled"


class ServerFault(ApiError):
    """5xx, or any status that means nothing to us."""

    reason = "server_error"


class ConnectFailed(ApiError):
    """No connection: refused, no route, no such name, or no answer in time."""

    reason = "connect"


class TlsFailed(ApiError):
    """The two sides do not trust each other."""

    reason = "tls"


class Interrupted(ApiError):
    """The connection broke while data was to come."""

    reason = "reset"


class TimedOut(ApiError):
    """Nothing came for longer than anything takes."""

    reason = "timeout"


class Garbage(ApiError):
    """What came is not what the API speaks."""

    reason = "garbage"


class TooLong(ApiError):
    """One object is longer than the API can store."""

    reason = "too_long"
    list_again = True


class EndedAtOnce(ApiError):
    """A watch that the server closed without having sent anything."""

    reason = "ended_at_once"


class Unexpected(ApiError):
    """A mistake of this program."""

    reason = "internal"


_RIGHTS = "the exporter's service account needs get, list and watch on pods in all namespaces"


def error_of_status(
    code: int, status: object, *, retry_after: str | None = None, now: float = 0.0
) -> ApiError:
    """The error for an HTTP status, or for the ``code`` of a Status object in a watch.

    status: the Status object (meta/v1) if there is one. retry_after: the header of that name, in
    seconds or as a date, which counts from `now` (seconds since the epoch).
    """
    body = mapping(status)
    said = text(body.get("message")) or text(body.get("reason"))
    suffix = f": {said}" if said else ""
    details = mapping(body.get("details"))
    error: ApiError
    # kubernetes apimachinery pkg/api/errors: IsTooLargeResourceVersion
    causes = {text(cause.get("reason")) for cause in objects(details.get("causes"))}
    if "ResourceVersionTooLarge" in causes:
        error = VersionTooNew(f"the API server is behind what it told before{suffix}")
    elif code == 401:
        error = Unauthorized(f"the API server does not accept the credentials (401){suffix}")
    elif code == 403:
        error = Forbidden(f"not allowed (403): {_RIGHTS}{suffix}")
    elif code == 404:
        error = NotFound(
            f"no pods at this address (404): is it that of a Kubernetes API server?{suffix}"
        )
    elif code == 410:
        error = Expired(f"the API server asks for a new list (410){suffix}")
    elif code == 429:
        error = Throttled(f"the API server asks to be left alone (429){suffix}")
    else:
        error = ServerFault(f"the API server answered {code}{suffix}")
    error.wait = _seconds(retry_after, now)
    if error.wait is None:
        seconds = integer(details.get("retryAfterSeconds"))
        error.wait = float(seconds) if seconds is not None and 0 <= seconds < 1e9 else None
    return error


def _seconds(retry_after: str | None, now: float) -> float | None:
    """RFC 9110, 10.2.3: a number of seconds, or a date."""
    if not retry_after:
        return None
    value = retry_after.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.fromtimestamp(now, UTC)).total_seconds())
