"""The bytes of a journal's file: a header, then blocks with checksums. Pure functions.

    header  magic (16) | version u16 | reserved u16 | number of the file u32 | salt (8) | crc32 of these u32
    block   mark (4) | crc32 u32 | length u64 | payload

All numbers little-endian. A block is what one commit wrote: it is there as a whole or not at all. Mark and checksum are
made with the salt, random bytes of this journal that no publisher knows: after damage the next good block is found by
looking for the mark, and the body of a message, whatever is in it, is never taken for a block. The salt is also kept
beside the files (directory.py), so that a header is never all that knows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct, error
from zlib import crc32

__all__ = [
    "HEADER_SIZE",
    "HEAD_SIZE",
    "VERSION",
    "Block",
    "Damage",
    "Header",
    "block_head",
    "pack_header",
    "read_blocks",
    "unpack_header",
]

MAGIC = b"liap-tasks log\r\n"
VERSION = 1

_HEADER = Struct("<16sHHI8sI")
_HEAD = Struct("<4sIQ")
_LENGTH = Struct("<Q")
HEADER_SIZE = _HEADER.size
HEAD_SIZE = _HEAD.size


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself."""

    version: int
    number: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """A good block: its payload is ``data[start:end]`` of the file."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no good block: ``data[start:end]`` of the file; ``end`` is that of the file for a torn tail."""

    start: int
    end: int


def pack_header(number: int, salt: bytes) -> bytes:
    """Return the header of a file."""
    plain = _HEADER.pack(MAGIC, VERSION, 0, number, salt, 0)[:-4]
    return plain + crc32(plain).to_bytes(4, "little")


def unpack_header(data: bytes) -> Header | None:
    """Return the header of a file, None where it is damaged or missing; any version is returned."""
    try:
        magic, version, _, number, salt, checksum = _HEADER.unpack_from(data)
    except error:
        return None
    if magic != MAGIC or checksum != crc32(data[: HEADER_SIZE - 4]):
        return None
    return Header(version, number, salt)


def block_head(payload: bytes, salt: bytes) -> bytes:
    """Return what stands before a payload."""
    length = _LENGTH.pack(len(payload))
    return _HEAD.pack(salt[:4], crc32(payload, crc32(length, crc32(salt))), len(payload))


def read_blocks(data: bytes, salt: bytes) -> Iterator[Block | Damage]:
    """Iterate over the blocks of a file, and over what is between them where it is damaged."""
    view = memoryview(data)
    offset = HEADER_SIZE
    while offset < len(data):
        block = _block_at(data, view, offset, salt)
        if block is None:
            begin = offset
            block = _next_block(data, view, begin, salt)
            yield Damage(begin, len(data) if block is None else block.start - HEAD_SIZE)
            if block is None:
                return
        yield block
        offset = block.end


def _block_at(data: bytes, view: memoryview, offset: int, salt: bytes) -> Block | None:
    start = offset + HEAD_SIZE
    if start > len(data):
        return None
    mark, checksum, length = _HEAD.unpack_from(data, offset)
    if mark != salt[:4] or length > len(data) - start:
        return None
    end = start + length
    if checksum != crc32(view[start:end], crc32(_LENGTH.pack(length), crc32(salt))):
        return None
    return Block(start, end)


def _next_block(data: bytes, view: memoryview, offset: int, salt: bytes) -> Block | None:
    while (offset := data.find(salt[:4], offset + 1)) >= 0:
        block = _block_at(data, view, offset, salt)
        if block is not None:
            return block
    return None
