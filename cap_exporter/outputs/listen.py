# SPDX-License-Identifier: Apache-2.0
"""Listening addresses: ``[::]:10838``, ``:10838``, ``127.0.0.1:10838``, ``localhost:10838``."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket

_BACKLOG = 128


class ListenError(Exception):
    """The address cannot be listened on; the text names it and what to do."""


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of ``HOST:PORT``; an empty host means every address. Raises ListenError."""
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):(\d{1,5})", text.strip())
    if match is None or int(match[3]) > 65535:
        raise ListenError(
            f"{text!r} is no address to listen on: write [::]:10838, :10838 or 127.0.0.1:10838"
        )
    return match[1] if match[1] is not None else match[2], int(match[3])


def listen(text: str) -> socket.socket:
    """A listening TCP socket. Every address (``[::]`` or no host) means IPv6 and IPv4, or IPv4
    alone where the host has no IPv6. Raises ListenError."""
    host, port = parse_address(text)
    if host in ("", "::"):
        try:
            return _bound(socket.AF_INET6, ("::", port), text)
        except _NoFamily:
            host = "0.0.0.0"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {text}: {host!r} is no address of a host") from error
    for family, _, _, _, address in found:
        try:
            return _bound(family, address, text)
        except _NoFamily:
            continue
    raise ListenError(f"cannot listen on {text}: this host does not have that address")


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


class _NoFamily(Exception):
    """This host has no such address family, or not this address."""


def _bound(family: int, address: tuple[object, ...], text: str) -> socket.socket:
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _NoFamily from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NoFamily from error
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"{text} is in use: another exporter may be running. Stop it, or choose another "
                "address (--listen for the metrics, --page-listen for the page)"
            ) from error
        raise ListenError(f"cannot listen on {text}: {os.strerror(error.errno or 0)}") from error
    return listener
