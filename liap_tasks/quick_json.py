"""Writing a body as kombu writes it, in half the time: its JSON encoder is made once, not for each body.

The other way is :mod:`transports.received`'s. A serializer that is another one, or that somebody has registered in the
place of kombu's, and whatever the encoder refuses, is left to kombu.
"""

from __future__ import annotations

from typing import Any

from kombu.serialization import dumps, registry  # type: ignore[attr-defined]  # registry is not in the stubs
from kombu.utils import json as kombu_json

__all__ = ["encode"]

NAME = "json"
_encode_json = kombu_json.JSONEncoder().encode


def encode(body: Any, serializer: str) -> tuple[str, str, str | bytes]:
    """Return content type, encoding and data as ``kombu.serialization.dumps`` does; raises what that raises."""
    if serializer == NAME:
        content_type, content_encoding, encoder = registry._encoders[NAME]
        if encoder is kombu_json.dumps:
            try:
                return content_type, content_encoding, _encode_json(body)
            except Exception:  # noqa: BLE001 - kombu meets it again, and raises it in its way
                pass
    data: tuple[str, str, str | bytes] = dumps(body, serializer)
    return data
