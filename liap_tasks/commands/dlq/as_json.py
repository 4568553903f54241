"""A dead letter as the commands print it for machines: its fields by their names, times in POSIX seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from liap_tasks.dead_letter_store import AuditEntry, Letter
from liap_tasks.dead_letter_store.call import call_of

__all__ = ["audit_as_json", "letter_as_json"]

LONG = ("traceback", "headers", "properties", "attempts")


def letter_as_json(letter: Letter, *, whole: bool = False) -> dict[str, Any]:
    """Return the letter with its args and kwargs (None if its body is no task call) in place of its body.

    whole: with traceback, attempts, headers and properties too. ``dlq export`` writes the body itself.
    """
    fields = asdict(letter)
    if not whole:
        for name in LONG:
            del fields[name]
    return _with_call(fields)


def audit_as_json(entry: AuditEntry) -> dict[str, Any]:
    """Return what was done by hand, a changed body as the args and kwargs in it."""
    return {**asdict(entry), "before": _with_call(entry.before), "after": _with_call(entry.after)}


def _with_call(fields: Mapping[str, Any]) -> dict[str, Any]:
    if "body" not in fields:
        return dict(fields)
    call = call_of(fields["body"])
    args, kwargs = (None, None) if call is None else (call.args, call.kwargs)
    return {**{name: value for name, value in fields.items() if name != "body"}, "args": args, "kwargs": kwargs}
