"""The arguments of a call by name, whether they were given by position, by keyword or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["arguments_of"]


def arguments_of(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return the arguments of a call with their defaults; only those called ``names`` if they are given.

    Raises TypeError for arguments that do not fit ``function``, ValueError for a name that is no argument of it.
    """
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    if names is None:
        return dict(bound.arguments)
    for name in names:
        if name not in bound.arguments:
            raise ValueError(f"{name!r} is no argument of {function.__name__}; it has {', '.join(bound.arguments)}")
    return {name: bound.arguments[name] for name in names}
