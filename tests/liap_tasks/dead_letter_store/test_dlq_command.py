"""``celery dlq`` through click: what each command does, says and answers with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from liap_tasks import LiapApp
from liap_tasks.commands.dlq import dlq
from liap_tasks.dead_letter_store import LetterFilter
from tests.liap_tasks.dead_letter_store.letters import task_letter
from tests.liap_tasks.dead_letter_store.test_replay import refuse

Dlq = Callable[..., Result]
AT = 1_700_000_000.0


@pytest.fixture
def app(new_app: Callable[..., LiapApp], tmp_path: Path) -> Iterator[LiapApp]:
    """An app with three letters, whose task queue exists: l1, l2 of one task, l3 scheduled, undecodable and old."""
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")
    with app.connection_for_write() as connection, connection.channel() as channel:
        app.amqp.queues[app.conf.task_default_queue].bind(channel).declare()
    app.dead_letter_store.record(
        [
            task_letter(app, "l1", args=("r1", 3), kwargs={"player": "p1"}, attempts=2, correlation_id="game-7"),
            task_letter(app, "l2", args=("r2",)),
            task_letter(
                app,
                "l3",
                task="tests.old",
                died_at=AT,
                reason="undecodable",
                exception=None,
                message=None,
                traceback=None,
                headers={"x-death": [{"queue": "old", "time": datetime(2026, 1, 2, tzinfo=UTC)}]},
                body=b"\xff\x00\xfe",
                state="scheduled",
                due_at=4e9,
            ),
        ]
    )
    yield app
    app.dead_letter_store.close()


@pytest.fixture
def dlq_of() -> Callable[[Any], Dlq]:
    """Run commands with an app, as ``celery -A app dlq`` does."""

    def of(app: Any) -> Dlq:
        def run(*arguments: str, **options: Any) -> Result:
            context = CLIContext(app=app, no_color=True, workdir=None)
            result = CliRunner().invoke(dlq, arguments, obj=context, **options)
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            return result

        return run

    return of


@pytest.fixture
def run(dlq_of: Callable[[Any], Dlq], app: LiapApp) -> Dlq:
    return dlq_of(app)


def states(app: LiapApp) -> dict[str, str]:
    return {letter.id: letter.state for letter in app.dead_letter_store.list(LetterFilter(ids=("l1", "l2", "l3")))}


def only_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip()]
    return line


# -- looking ---------------------------------------------------------------------------------------------------


def test_list_shows_letters_oldest_first(run: Dlq) -> None:
    listed = run("list")
    assert listed.exit_code == 0
    head, *rows = listed.stdout.splitlines()
    assert head.split() == ["id", "state", "reason", "task", "queue", "age", "error"]
    assert [row.split()[0] for row in rows] == ["l3", "l1", "l2"]
    assert "CardTableError: no table" in rows[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--task", "tests.task"], ["l1", "l2"]),
        (["--reason", "undecodable"], ["l3"]),
        (["--from-queue", "nowhere"], []),
        (["--older-than", "1d"], ["l3"]),
        (["--newer-than", "2h"], ["l1", "l2"]),
        (["--error", "card"], ["l1", "l2"]),
        (["--correlation-id", "game-7"], ["l1"]),
        (["--state", "scheduled"], ["l3"]),
        (["l2", "l3"], ["l3", "l2"]),
        (["--task", "tests.task", "--task", "tests.old", "--limit", "2"], ["l3", "l1"]),
        (["--after", "l3"], ["l1", "l2"]),
    ],
)
def test_every_filter_chooses(run: Dlq, options: list[str], expected: list[str]) -> None:
    listed = run("list", "--json", *options)
    assert [letter["id"] for letter in json.loads(listed.stdout)] == expected
    assert listed.exit_code == (0 if expected else 1)


def test_a_full_page_tells_how_to_go_on(run: Dlq) -> None:
    assert "--after l1" in run("list", "--limit", "2").stderr


def test_nothing_matched_is_said_and_answered_with_1(run: Dlq) -> None:
    for command in (["list"], ["replay"], ["purge", "--yes"], ["cancel"], ["export"]):
        ended = run(*command, "--task", "tests.nobody")
        assert ended.exit_code == 1, command
        assert only_line(ended.stderr) == "no dead letter matches"


def test_show_tells_the_whole_story(run: Dlq) -> None:
    shown = run("show", "l1")
    assert shown.exit_code == 0
    for told in (
        *("retries_exhausted", "tests.task", "task-l1", "game-7", '["r1", 3]', '{"player": "p1"}'),
        *("attempt 1", "attempt 2", "2023-11-14 22:13:21", "CardTableError: no table", "Traceback (most recent"),
    ):
        assert told in shown.stdout


def test_show_prints_what_it_cannot_read_without_harm(run: Dlq, app: LiapApp) -> None:
    app.dead_letter_store.record([task_letter(app, "evil", message="\x1b[2J", traceback="a\x1b]0;title\x07\nb")])
    assert "3 bytes" in run("show", "l3").stdout
    shown = run("show", "evil").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_show_for_machines_has_everything(run: Dlq) -> None:
    letter = json.loads(run("show", "l1", "--json").stdout)
    assert (letter["args"], letter["kwargs"]) == (["r1", 3], {"player": "p1"})
    assert [attempt["number"] for attempt in letter["attempts"]] == [1, 2]
    assert letter["headers"]["task"] == "tests.task"
    assert letter["audit"] == []


def test_times_among_the_headers_are_plain_json(run: Dlq) -> None:
    letter = json.loads(run("show", "l3", "--json").stdout)
    assert letter["headers"]["x-death"] == [{"queue": "old", "time": "2026-01-02T00:00:00+00:00"}]


def test_lineage_is_shown_in_both_directions(run: Dlq, app: LiapApp) -> None:
    app.dead_letter_store.record([task_letter(app, "l1-again", replayed_from="l1", replays=1)])
    assert json.loads(run("show", "l1", "--json").stdout)["replayed_as"] == "l1-again"
    assert "came back as    l1-again" in run("show", "l1").stdout
    assert "replayed from   l1" in run("show", "l1-again").stdout


def test_stats_count_by_everything(run: Dlq) -> None:
    stats = json.loads(run("stats", "--json").stdout)
    assert stats["total"] == 3
    assert stats["by_state"] == {"dead": 2, "scheduled": 1}
    assert stats["by_reason"] == {"retries_exhausted": 2, "undecodable": 1}
    assert stats["by_task"] == {"tests.task": 2, "tests.old": 1}
    assert stats["oldest"] == AT
    told = run("stats").stdout
    assert "tests.task 2, tests.old 1" in told


def test_stats_of_what_a_filter_chooses(run: Dlq) -> None:
    stats = json.loads(run("stats", "--json", "--task", "tests.task").stdout)
    assert (stats["total"], stats["by_reason"], stats["by_state"]) == (2, {"retries_exhausted": 2}, {"dead": 2})
    assert stats["oldest"] > AT
    assert run("stats", "--task", "tests.nobody").exit_code == 0


# -- replay ----------------------------------------------------------------------------------------------------


def test_replay_sends_and_tells(run: Dlq, app: LiapApp) -> None:
    ended = run("replay", "--task", "tests.task", "--rate", "0")
    assert ended.exit_code == 0
    assert "2 of 2" in ended.stdout
    assert "tests.task 2" in ended.stdout
    assert states(app) == {"l1": "replayed", "l2": "replayed", "l3": "scheduled"}


def test_a_letter_that_was_replayed_already_is_not_sent_again(run: Dlq) -> None:
    assert run("replay", "l1").exit_code == 0
    again = run("replay", "l1")
    assert again.exit_code == 1
    assert only_line(again.stderr) == "nothing to replay: l1 is replayed"


def test_replay_for_machines_is_the_report(run: Dlq) -> None:
    report = json.loads(run("replay", "--all", "--json").stdout)
    assert (report["matched"], report["replayed"], report["stopped"], report["came_back"]) == (3, 3, None, {})


def test_a_dry_run_shows_and_changes_nothing(run: Dlq, app: LiapApp) -> None:
    ended = run("replay", "--all", "--dry-run")
    assert ended.exit_code == 0
    assert "would be replayed" in ended.stdout
    assert "retries_exhausted 2, undecodable 1" in ended.stdout
    assert "replayed" not in states(app).values()


@pytest.mark.parametrize("command", ["replay", "purge", "cancel"])
def test_a_forgotten_filter_does_not_mean_everything(run: Dlq, app: LiapApp, command: str) -> None:
    ended = run(command)
    assert ended.exit_code == 2
    assert "--all" in ended.stderr
    assert states(app) == {"l1": "dead", "l2": "dead", "l3": "scheduled"}


def test_a_replay_that_is_stopped_says_why_and_answers_with_1(run: Dlq, app: LiapApp) -> None:
    letters = [task_letter(app, f"many{number}") for number in range(20)]
    again = [task_letter(app, f"{letter.id}-again", replayed_from=letter.id, died_at=4e9) for letter in letters]
    app.dead_letter_store.record([*letters, *again])
    ended = run("replay", "--task", "tests.task", "--rate", "0", "--stop-at-errors", "80")
    assert ended.exit_code == 1
    assert "stopped: CardTableError came back for 20 of 22" in ended.stderr


def test_a_replay_names_what_cannot_be_sent_and_answers_with_1(
    run: Dlq, app: LiapApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "l1")
    ended = run("replay", "--task", "tests.task", "--rate", "0")
    assert ended.exit_code == 1
    assert "1 of 2" in ended.stdout
    assert "l1: UnicodeEncodeError" in ended.stdout
    assert states(app) == {"l1": "dead", "l2": "replayed", "l3": "scheduled"}


# -- changing --------------------------------------------------------------------------------------------------


def test_edit_changes_the_call_and_show_tells_who_did_it(run: Dlq, app: LiapApp) -> None:
    ended = run("edit", "l1", "--set-arg", "1=4")
    assert ended.exit_code == 0, ended.stderr
    letter = json.loads(run("show", "l1", "--json").stdout)
    assert (letter["args"], letter["kwargs"]) == (["r1", 4], {"player": "p1"})
    (entry,) = letter["audit"]
    assert "@" in entry["who"]
    assert entry["at"] > AT
    assert (entry["before"]["args"], entry["after"]["args"]) == (["r1", 3], ["r1", 4])
    shown = run("show", "l1").stdout
    assert f"by {entry['who']}" in shown
    assert '    args: ["r1", 3] -> ["r1", 4]\n' in shown
    assert "kwargs: " not in shown  # it has not changed
    assert "headers: " not in shown
    assert letter["headers"]["argsrepr"] == "('r1', 4)"  # what logs and monitors show when it is replayed


def test_edit_sets_an_argument_by_name(run: Dlq) -> None:
    edited = json.loads(run("edit", "l1", "--set-kwarg", 'player="p2=3"', "--json").stdout)
    assert (edited["args"], edited["kwargs"]) == (["r1", 3], {"player": "p2=3"})


def test_edit_replaces_all_arguments(run: Dlq) -> None:
    edited = json.loads(run("edit", "l1", "--args", "[1]", "--kwargs", "{}", "--json").stdout)
    assert (edited["args"], edited["kwargs"]) == ([1], {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing to change"),
        (["--args", "{}"], "no JSON list"),
        (["--kwargs", "[]"], "no JSON object"),
        (["--args", "[r1]"], "text needs its quotes"),
        (["--set-arg", "x=1"], "POSITION=JSON"),
        (["--set-kwarg", "player"], "NAME=JSON"),
    ],
)
def test_a_wrong_edit_is_a_usage_error(run: Dlq, options: list[str], said: str) -> None:
    ended = run("edit", "l1", *options)
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_an_edit_that_the_letter_cannot_take_is_refused(run: Dlq, app: LiapApp) -> None:
    @app.task(shared=False, name="tests.task")
    def task(room: str, piles: int, player: str) -> None: ...

    for letter, option, said in (
        ("l1", "5=1", "no argument 5"),
        ("l1", "2=1", "tests.task does not take that"),
        ("l3", "0=1", "no task call"),
    ):
        ended = run("edit", letter, "--set-arg", option)
        assert ended.exit_code == 1
        assert said in only_line(ended.stderr)


def test_purge_wants_a_yes(run: Dlq, app: LiapApp) -> None:
    refused = run("purge", "l1")
    assert refused.exit_code == 1
    assert "confirm with --yes" in only_line(refused.stderr)
    assert states(app)["l1"] == "dead"
    assert run("purge", "l1", "--yes").exit_code == 0
    assert "l1" not in states(app)
    assert json.loads(run("purge", "--all", "--yes", "--json").stdout) == {"purged": 2}


def test_cancel_ends_the_automatic_retries(run: Dlq, app: LiapApp) -> None:
    assert json.loads(run("cancel", "--all", "--json").stdout) == {"cancelled": 1}
    assert states(app)["l3"] == "dead"
    assert run("cancel", "--all").exit_code == 1


# -- moving ----------------------------------------------------------------------------------------------------


def test_letters_come_through_export_and_import_byte_by_byte(
    run: Dlq, app: LiapApp, new_app: Callable[..., LiapApp], dlq_of: Callable[[Any], Dlq], tmp_path: Path
) -> None:
    file = tmp_path / "letters.jsonl"
    assert "3 exported" in run("export", "--output", str(file)).stderr
    assert run("export").stdout == file.read_text()

    other = new_app(dlq_store_url=f"sqlite:///{tmp_path}/other.sqlite3")
    there = dlq_of(other)
    assert "3 imported, 0 were there already" in there("import", str(file)).stderr
    assert json.loads(there("import", "-", "--json", input=file.read_text()).stdout) == {"imported": 0, "known": 3}
    for letter_id in ("l1", "l2", "l3"):
        before, after = app.dead_letter_store.get(letter_id), other.dead_letter_store.get(letter_id)
        assert after.body == before.body
        assert (after.headers, after.properties, after.attempts) == (before.headers, before.properties, before.attempts)
        assert (after.task, after.died_at, after.correlation_id) == (before.task, before.died_at, before.correlation_id)
    assert other.dead_letter_store.get("l3").state == "dead"  # the store it came from still retries it
    other.dead_letter_store.close()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "no JSON"),
        ("[]", "no JSON object"),
        ('{"version": 9, "body": ""}', "version is 9"),
        ('{"version": 1}', "either body or body_base64"),
        ('{"version": 1, "body_base64": "%%", "id": "x", "reason": "manual", "died_at": 1}', "cannot be read"),
        ('{"version": 1, "body": "", "id": "x", "reason": "manual"}', "died_at"),
        ('{"version": 1, "body": "", "id": "x", "reason": "manual", "died_at": NaN}', "died_at"),
        (f'{{"version": 1, "body": "", "id": "x", "reason": "manual", "died_at": 1, "replays": {2**70}}}', "replays"),
        ('{"version": 1, "body": "", "id": "x", "reason": "manual", "died_at": 1, "due_at": 1e300}', "due_at"),
        ('{"version": 1, "body": "", "id": "x", "reason": "manual", "died_at": 1, "state": "odd"}', "no state 'odd'"),
        ('{"version": 1, "body": "", "id": "x", "reason": "manual", "died_at": 1, "colour": "red"}', "colour"),
    ],
)
def test_a_bad_line_is_named_and_those_before_it_are_imported(
    run: Dlq, app: LiapApp, tmp_path: Path, line: str, said: str
) -> None:
    (good,) = run("export", "l1").stdout.splitlines()
    file = tmp_path / "letters.jsonl"
    file.write_text(f"{good.replace('l1', 'l9')}\n\n{line}\n")
    ended = run("import", str(file))
    assert ended.exit_code == 1
    assert "line 3" in only_line(ended.stderr)
    assert said in ended.stderr
    assert app.dead_letter_store.get("l9").task == "tests.task"


# -- what can be wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["show", "l7"], ["edit", "l7", "--args", "[]"], ["replay", "l7"], ["list", "l1", "l7"]]
)
def test_an_unknown_id_is_one_line(run: Dlq, command: list[str]) -> None:
    ended = run(*command)
    assert ended.exit_code == 1
    assert "'l7'" in only_line(ended.stderr)


@pytest.mark.parametrize("options", [["--older-than", "2"], ["--reason", "bad"], ["--state", "odd"], ["--queue", "q"]])
def test_a_bad_filter_is_a_usage_error(run: Dlq, options: list[str]) -> None:
    assert run("list", *options).exit_code == 2


@pytest.mark.parametrize("option", ["--rate", "--stop-at-errors"])
@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_a_pace_or_a_share_that_is_no_number_is_a_usage_error(run: Dlq, option: str, number: str) -> None:
    assert run("replay", "--all", f"{option}={number}").exit_code == 2


def test_a_store_that_is_off_is_one_line(new_app: Callable[..., LiapApp], dlq_of: Callable[[Any], Dlq]) -> None:
    ended = dlq_of(new_app(dlq_store_url="none"))("list")
    assert ended.exit_code == 1
    line = only_line(ended.stderr)
    assert "DLQ_STORE_URL='none' is not allowed" in line
    assert "none, " not in line  # what is refused is not among what is allowed


def test_looking_makes_no_store_in_the_wrong_folder(
    new_app: Callable[..., LiapApp], dlq_of: Callable[[Any], Dlq], tmp_path: Path
) -> None:
    run = dlq_of(new_app(dlq_store_url=f"sqlite:///{tmp_path}/nobody.sqlite3"))
    for command in (["list"], ["show", "l1"], ["stats"], ["replay", "--all"], ["purge", "l1"], ["export"]):
        ended = run(*command)
        assert ended.exit_code == 1
        assert "there is no dead-letter store at" in only_line(ended.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["sqlite:///{folder}/broken.sqlite3", "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"]
)
def test_a_database_that_is_away_is_one_line(
    new_app: Callable[..., LiapApp], dlq_of: Callable[[Any], Dlq], tmp_path: Path, url: str
) -> None:
    (tmp_path / "broken.sqlite3").write_bytes(b"no database" * 100)
    ended = dlq_of(new_app(dlq_store_url=url.format(folder=tmp_path)))("stats")
    assert ended.exit_code == 1
    assert "the dead-letter store cannot be used" in only_line(ended.stderr)


def test_a_broker_that_is_away_is_one_line_and_frees_the_letters(
    new_app: Callable[..., LiapApp], dlq_of: Callable[[Any], Dlq], tmp_path: Path
) -> None:
    app = new_app(
        message_queue_url="amqp://guest:guest@127.0.0.1:1//", dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3"
    )
    app.dead_letter_store.record([task_letter(app, "l1")])
    ended = dlq_of(app)("replay", "l1")
    assert ended.exit_code == 1
    assert "broker" in only_line(ended.stderr)
    (claimed,) = app.dead_letter_store.claim(LetterFilter(), claimant="another", lease=1)
    assert claimed.id == "l1"
    app.dead_letter_store.close()


def test_an_app_of_plain_celery_is_told_what_is_needed(dlq_of: Callable[[Any], Dlq]) -> None:
    with Celery("plain", set_as_current=False) as plain:
        ended = dlq_of(plain)("list")
    assert ended.exit_code == 2
    assert "create_app" in ended.stderr
