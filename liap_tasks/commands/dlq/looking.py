"""``dlq list``, ``dlq show`` and ``dlq stats``: they only look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from liap_tasks.commands.dlq.app import store_of
from liap_tasks.commands.dlq.as_json import audit_as_json, letter_as_json
from liap_tasks.commands.dlq.filters import chooses_letters
from liap_tasks.commands.dlq.output import age, as_text, counts, moment, remark, say_json, say_pairs, say_table
from liap_tasks.dead_letter_store import AuditEntry, Letter, LetterFilter
from liap_tasks.dead_letter_store.call import call_of

__all__ = ["list_letters", "show", "stats"]

KINDS = ("state", "reason", "task", "queue")
ERROR_SHOWN = 80


@click.command("list")
@chooses_letters()
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--after", metavar="ID", help="Go on behind this letter.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def list_letters(context: click.Context, where: LetterFilter, limit: int, after: str | None, as_json: bool) -> None:
    """List dead letters, oldest first."""
    store = store_of(context)
    letters = store.list(where, limit=limit, after=after)
    if as_json:
        say_json([letter_as_json(letter) for letter in letters])
    elif letters:
        now = store.clock()
        say_table(("id", "state", "reason", "task", "queue", "age", "error"), [_row(letter, now) for letter in letters])
        if len(letters) == limit:
            remark(f"these are the first {limit}; the next: --after {letters[-1].id}")
    else:
        remark("no dead letter matches")
    if not letters:
        context.exit(1)


@click.command()
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def show(context: click.Context, letter_id: str, as_json: bool) -> None:
    """Show one dead letter: its call, error, attempts, lineage and who changed it."""
    store = store_of(context)
    letter = store.get(letter_id)
    audit = store.audit(letter_id)
    if as_json:
        say_json({**letter_as_json(letter, whole=True), "audit": [audit_as_json(entry) for entry in audit]})
    else:
        say_pairs(_told(letter, audit))


@click.command()
@chooses_letters()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def stats(context: click.Context, where: LetterFilter, as_json: bool) -> None:
    """Count the dead letters: by reason, task, queue and state, and how old the oldest is."""
    store = store_of(context)
    statistics = store.stats(None if where == LetterFilter() else where)
    if as_json:
        say_json(asdict(statistics))
        return
    say_pairs(
        [
            ("waiting", f"{statistics.total:,}"),
            ("oldest", "-" if statistics.oldest is None else age(store.clock() - statistics.oldest)),
            *((f"by {name}", counts(getattr(statistics, f"by_{name}")) or "-") for name in KINDS),
        ]
    )


def _row(letter: Letter, now: float) -> tuple[str, ...]:
    error = letter.exception or letter.detail
    if letter.exception and letter.message:
        error = f"{letter.exception}: {letter.message}"
    died = age(now - letter.died_at)
    return letter.id, letter.state, letter.reason, letter.task or "-", letter.queue, died, _first_line(error)


def _told(letter: Letter, audit: Sequence[AuditEntry]) -> list[tuple[str, str]]:
    call = call_of(letter.body)
    told = [
        ("id", letter.id),
        ("state", letter.state),
        ("reason", f"{letter.reason}: {letter.detail}" if letter.detail else letter.reason),
        ("task", letter.task or "-"),
        ("task id", letter.task_id or "-"),
        ("queue", letter.queue or "-"),
        ("dead since", moment(letter.died_at)),
        ("correlation id", letter.correlation_id or "-"),
    ]
    if call is None:
        told.append(("body", f"{letter.size:,} bytes of {letter.content_type or 'unknown type'}: {letter.body[:80]!r}"))
    else:
        told += [("args", as_text(call.args)), ("kwargs", as_text(call.kwargs))]
    if letter.exception is not None:
        told.append(("error", f"{letter.exception}: {letter.message or ''}".rstrip(": ")))
    for attempt in letter.attempts:
        what = f"{attempt.get('error', '')}: {attempt.get('message', '')}".strip(": ")
        told.append((f"attempt {attempt.get('number', '?')}", f"{moment(attempt.get('at'))}  {what}"))
    told += [
        ("replayed from", letter.replayed_from or "-"),
        ("replayed", moment(letter.replayed_at) + (f" by run {letter.replay_id}" if letter.replay_id else "")),
        ("came back as", letter.replayed_as or "-"),
        ("retry due", moment(letter.due_at)),
        ("kept until", moment(letter.expires_at)),
    ]
    for entry in audit:
        told.append((f"{entry.action} {moment(entry.at)}", f"by {entry.who}\n{_changes(entry)}"))
    if letter.traceback:
        told.append(("traceback", letter.traceback))
    return told


def _changes(entry: AuditEntry) -> str:
    told = audit_as_json(entry)
    before, after = told["before"], told["after"]
    # An edited call has its new arguments in its headers, too.
    changed = [
        name for name in after if before.get(name) != after[name] and not (name == "headers" and "args" in after)
    ]
    return "\n".join(f"{name}: {as_text(before.get(name))} -> {as_text(after[name])}" for name in changed)


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= ERROR_SHOWN else f"{line[: ERROR_SHOWN - 1]}…"
