"""The call that a dead letter's body carries, and what an edit changes of it.

Pure. A task body is JSON, ``[args, kwargs, rest]``, where ``rest`` is Celery's own (callbacks, chain); so everything in
it must be what JSON can carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kombu.utils import json

__all__ = ["Call", "CallChange", "call_of"]


class Call(NamedTuple):
    """A task body: the arguments, and what Celery keeps beside them."""

    args: list[Any]
    kwargs: dict[str, Any]
    rest: Any

    def as_body(self) -> bytes:
        """Return the body that carries this call."""
        return str(json.dumps(list(self))).encode()


def call_of(body: bytes) -> Call | None:
    """Return the call in a body, None if it is no task call in JSON."""
    try:
        args, kwargs, rest = json.loads(body.decode("utf-8"))
    except (ValueError, TypeError):
        return None
    return Call(args, kwargs, rest) if isinstance(args, list) and isinstance(kwargs, dict) else None


@dataclass(frozen=True, kw_only=True)
class CallChange:
    """New arguments for a call.

    args, kwargs: replace all of that kind; None leaves them. set_args: single ones by position from 0, set_kwargs: by
    name; they are put in afterwards. A position just behind the last appends.
    """

    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    set_args: Mapping[int, Any] = field(default_factory=dict)
    set_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.args is not None and (isinstance(self.args, str | bytes) or not isinstance(self.args, Sequence)):
            raise ValueError(f"args must be a list, not {self.args!r}")
        if self.kwargs is not None and not isinstance(self.kwargs, Mapping):
            raise ValueError(f"kwargs must be an object with names, not {self.kwargs!r}")
        wrong = [name for name in (*(self.kwargs or ()), *self.set_kwargs) if not isinstance(name, str)]
        if wrong:
            raise ValueError(f"the name of a keyword argument must be text, not {wrong[0]!r}")
        if self.args is None and self.kwargs is None and not self.set_args and not self.set_kwargs:
            raise ValueError("nothing to change: give args, kwargs, or single ones of them")

    def applied_to(self, call: Call) -> Call:
        """Return the changed call.

        Raises ValueError for a position that does not exist, or a value that JSON in UTF-8 cannot carry.
        """
        new_args = list(call.args if self.args is None else self.args)
        for position, value in sorted(self.set_args.items()):
            if not 0 <= position <= len(new_args):
                raise ValueError(f"there is no argument {position}: the call has {len(new_args)}, counted from 0")
            new_args[position : position + 1] = [value]
        new_kwargs = {**(call.kwargs if self.kwargs is None else self.kwargs), **self.set_kwargs}
        try:
            # Half of a surrogate pair is JSON by its escape, but no header or log can show it.
            json.dumps([new_args, new_kwargs], ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError) as error:
            raise ValueError(f"a task body must be JSON in UTF-8: {error}") from error
        return Call(new_args, new_kwargs, call.rest)
