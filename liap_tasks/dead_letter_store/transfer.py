"""Dead letters as lines of JSON: export to a file, import from it, here or in another store.

One letter a line, an object with the letter's own names. The body is ``body`` when it is UTF-8 text and ``body_base64``
when it is not, so it comes back byte by byte. A letter keeps its id, and one that is there already is left as it is:
importing twice is importing once. So is one that was purged there, as long as its row tells of it (a letter that the
broker delivers again must not rise from the dead). A scheduled letter comes in as a dead one, for the store it was
exported from still retries it; one whose time is up is kept as long again.

Left out: the audit trail, which tells what people did in the store it belongs to.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from kombu.utils import json
from pydantic import TypeAdapter, ValidationError

from liap_tasks.dead_letter_store.letter import LAST_MOMENT, Letter, LetterFilter, LetterState
from liap_tasks.errors import DeadLetterImportError
from liap_tasks.metadata import MAX_REPLAYS

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["ImportReport", "as_line", "export_letters", "from_line", "import_letters"]

PAGE = 500
VERSION = 1
TIMES = ("died_at", "first_seen", "last_seen", "replayed_at", "due_at", "expires_at", "purged_at")
_letters: TypeAdapter[Letter] = TypeAdapter(Letter)


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did. imported: letters that are new here. known: letters that were here already."""

    imported: int
    known: int


def as_line(letter: Letter) -> str:
    """Return a letter as one line of JSON, without the line's end."""
    fields = asdict(letter)
    body: bytes = fields.pop("body")
    try:
        fields["body"] = body.decode("utf-8")
    except UnicodeDecodeError:
        fields["body_base64"] = base64.b64encode(body).decode("ascii")
    return str(json.dumps({"version": VERSION, **fields}))


def from_line(line: str) -> Letter:
    """Return the letter of a line. Raises ValueError that says what is wrong with it."""
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    version = fields.pop("version", None)
    if version != VERSION:
        raise ValueError(f"version is {version!r}; this program reads version {VERSION}")
    if ("body" in fields) == ("body_base64" in fields):
        raise ValueError("it needs either body or body_base64")
    try:
        if "body_base64" in fields:
            fields["body"] = base64.b64decode(fields.pop("body_base64"), validate=True)
        else:
            fields["body"] = fields["body"].encode("utf-8")
    except (binascii.Error, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"its body cannot be read: {error}") from error
    unknown = fields.keys() - Letter.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"nobody knows {', '.join(sorted(unknown))}")
    try:
        letter = _letters.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if letter.state not in set(LetterState):
        raise ValueError(f"there is no state {letter.state!r}")
    for name in TIMES:
        moment = getattr(letter, name)
        if moment is not None and not 0 <= moment <= LAST_MOMENT:
            raise ValueError(f"{name}: {moment!r} is no time")
    if not 0 <= letter.replays <= MAX_REPLAYS:
        raise ValueError(f"replays: {letter.replays} is no number of replays")
    return letter


def _arriving(letter: Letter, now: float) -> Letter:
    """Return the letter as it is put into a store now."""
    if letter.state == LetterState.SCHEDULED:
        letter = replace(letter, state=LetterState.DEAD, due_at=None)
    if letter.expires_at is not None and letter.expires_at <= now:
        letter = replace(letter, expires_at=now + max(0.0, letter.expires_at - letter.died_at))
    return letter


def export_letters(
    app: LiapApp, stream: IO[str], where: LetterFilter | None = None, *, progress: Callable[[int], None] | None = None
) -> int:
    """Write the chosen letters (default: all) to ``stream``, oldest first, and return how many."""
    number, after = 0, None
    while letters := app.dead_letter_store.list(where or LetterFilter(), limit=PAGE, after=after):
        stream.writelines(f"{as_line(letter)}\n" for letter in letters)
        number, after = number + len(letters), letters[-1].id
        if progress is not None:
            progress(number)
    return number


def import_letters(
    app: LiapApp, lines: Iterable[str], *, progress: Callable[[int], None] | None = None
) -> ImportReport:
    """Put the letters of exported lines into the store.

    Raises DeadLetterImportError naming the first bad line; the lines before it are imported, and importing all of them
    again after it was corrected does no harm.
    """
    store = app.dead_letter_store
    imported = read = 0
    for page in _pages(lines):
        good, bad = page
        imported += store.record([_arriving(letter, store.clock()) for letter in good])
        read += len(good)
        if progress is not None:
            progress(read)
        if bad is not None:
            raise bad
    return ImportReport(imported=imported, known=read - imported)


def _pages(lines: Iterable[str]) -> Iterator[tuple[list[Letter], DeadLetterImportError | None]]:
    """Read letters by the page; the last page has the error that ended the reading, if any."""
    page: list[Letter] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            page.append(from_line(line))
        except ValueError as error:
            yield page, DeadLetterImportError(number, str(error))
            return
        if len(page) == PAGE:
            yield page, None
            page = []
    yield page, None
