# SPDX-License-Identifier: Apache-2.0
"""Basic authentication (RFC 7617) against bcrypt hashes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
from collections import Counter, OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

#: Answers that are remembered, right and wrong ones apart: computing one takes some 60 ms.
_REMEMBERED = 100

#: Computations that wait; of these from one client's address.
_WAITING = 32
_WAITING_OF_ONE = 4

#: What bcrypt looks at; as other implementations, Go's among them, cut a longer one.
_LONGEST = 72


class TooManyPasswords(Exception):
    """More are waiting to be looked at than is allowed."""


class Passwords:
    """Hashes are computed one at a time, outside the event loop, in which all else is called."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._waiting: Counter[str] = Counter()
        self._worker = ThreadPoolExecutor(1, "passwords")

    async def are_right(self, users: Mapping[bytes, bytes], header: str, client: str) -> bool:
        """users: name → hash. header: Authorization. client: its address. An unknown user's
        takes as long as a wrong one. Raises TooManyPasswords."""
        found = _credentials(header)
        if found is None:
            return False
        user, password = found
        known = user in users
        # The slowest: what it costs must not tell who is known.
        hashed = users[user] if known else max(users.values(), key=lambda one: one[4:6])
        token = self._token(user, hashed, password)
        if token in self._right:
            self._right.move_to_end(token)
            return True
        if token in self._wrong:
            return False
        if token in self._pending:
            return await asyncio.shield(self._pending[token])
        if self._waiting.total() >= _WAITING or self._waiting[client] >= _WAITING_OF_ONE:
            raise TooManyPasswords
        task = asyncio.ensure_future(self._compute(token, password, hashed, known, client))
        self._pending[token] = task
        return await asyncio.shield(task)

    async def _compute(
        self, token: bytes, password: bytes, hashed: bytes, known: bool, client: str
    ) -> bool:
        self._waiting[client] += 1
        try:
            loop = asyncio.get_running_loop()
            equal = await loop.run_in_executor(self._worker, _matches, password, hashed)
        finally:
            del self._pending[token]
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
        right = known and equal
        kept = self._right if right else self._wrong
        kept[token] = None
        if len(kept) > _REMEMBERED:
            kept.popitem(last=False)
        return right

    def _token(self, *parts: bytes) -> bytes:
        """Stands for these, without keeping a password."""
        text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, text, "sha256")

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


def _matches(password: bytes, hashed: bytes) -> bool:
    import bcrypt  # only where there are passwords

    try:
        return bcrypt.checkpw(password[:_LONGEST], hashed)
    except ValueError:  # older versions: a password with a NUL
        return False
