"""Frames: a length of four bytes (big endian), then one msgpack array of so many bytes.

A reader never holds more than one unfinished frame, and refuses a length above its bound before the frame arrives.
Text that is not UTF-8, an array that is none, bytes behind the value, an extension type: each is a
:class:`FrameError`, after which the stream cannot be trusted any more.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import Any

import msgpack

__all__ = ["DEFAULT_FRAME_MAX", "FrameError", "FrameReader", "pack_frame"]

#: Bytes a frame may have unless the broker is told otherwise.
DEFAULT_FRAME_MAX = 32 * 1024 * 1024

_length = Struct(">I")
_pack = msgpack.packb
_unpack = msgpack.unpackb


class FrameError(Exception):
    """What came in is not a frame; the text says why."""


def pack_frame(fields: tuple[Any, ...]) -> bytes:
    """Return one frame. fields: None, bool, int, float, str, bytes and lists and dicts of them."""
    payload: bytes = _pack(fields)
    return _length.pack(len(payload)) + payload


class FrameReader:
    """Cut a stream of bytes into frames. limit: bytes a frame may have."""

    __slots__ = ("_needed", "_unfinished", "begun", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.begun = 0  # frames so far that did not come in whole at once
        self._unfinished = bytearray()
        self._needed = 0  # bytes of the unfinished frame, as far as they are known

    @property
    def unfinished(self) -> int:
        """Bytes of a frame that has not come in whole."""
        return len(self._unfinished)

    def feed(self, data: bytes | memoryview) -> Generator[list[Any], None, None]:
        """Yield each frame that ``data`` completes, in order; raises FrameError.

        ``data`` may be changed once the frames are read to the end, or closed: what was not read then comes first in
        the next call, for which ``b""`` will do.
        """
        unfinished = self._unfinished
        if unfinished:
            unfinished += data
            if len(unfinished) < self._needed:
                return
            data = bytes(unfinished)
            unfinished.clear()
        view = memoryview(data)
        position, end = 0, len(view)
        self._needed = 4
        try:
            while end - position >= 4:
                (length,) = _length.unpack_from(view, position)
                if length > self.limit:
                    raise FrameError(f"a frame of {length} bytes; at most {self.limit} are taken")
                following = position + 4 + length
                if following > end:
                    self._needed = 4 + length
                    break
                fields = _fields(view[position + 4 : following])
                position = following
                yield fields
        finally:
            if position < end:
                unfinished += view[position:]
                self.begun += 1


def _refuse_extension(code: int, data: bytes) -> Any:
    raise FrameError(f"a frame with a value of extension type {code}")


def _fields(payload: memoryview) -> list[Any]:
    try:
        fields = _unpack(payload, strict_map_key=False, ext_hook=_refuse_extension)
    except FrameError:
        raise
    except Exception as error:
        raise FrameError(f"a frame that is not msgpack: {error}") from error
    if type(fields) is not list or not fields:
        raise FrameError("a frame that is not an array")
    return fields
