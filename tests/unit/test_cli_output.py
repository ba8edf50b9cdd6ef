"""watari.cli.output: one JSON value, or tables; errors with a next step; no control characters."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from watari import errors
from watari.cli.output import Column, Format, Output, clean, facts, requested_format

COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("SIZE", lambda row: str(row["size"]), right=True),
    Column("PROBLEM", lambda row: row["problem"]),
)
ROWS = [
    {"name": "web-1", "size": 12, "problem": ""},
    {"name": "db-1", "size": 3456, "problem": ""},
]


def output(chosen: Format, columns: int = 80) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    consoles = [
        Console(file=file, width=columns, markup=False, highlight=False, emoji=False)
        for file in (out, err)
    ]
    return Output(chosen, *consoles), out, err


def test_a_list_is_one_json_array() -> None:
    printer, out, err = output(Format.JSON)
    printer.rows(ROWS, COLUMNS, "nothing")
    assert json.loads(out.getvalue()) == ROWS
    assert not err.getvalue()


def test_an_empty_list_is_an_empty_array_for_programs_and_a_sentence_for_people() -> None:
    printer, out, _ = output(Format.JSON)
    printer.rows([], COLUMNS, "There is nothing.")
    assert json.loads(out.getvalue()) == []
    printer, out, _ = output(Format.TABLE)
    printer.rows([], COLUMNS, "There is nothing.")
    assert out.getvalue() == "There is nothing.\n"


def test_a_table_leaves_out_columns_that_are_empty_in_every_row() -> None:
    printer, out, _ = output(Format.TABLE)
    printer.rows(ROWS, COLUMNS, "nothing")
    header, _, first, second = out.getvalue().rstrip().splitlines()
    assert header.split() == ["NAME", "SIZE"]
    assert first.split() == ["web-1", "12"]
    assert second.split() == ["db-1", "3456"]


def test_a_long_id_is_folded_in_a_narrow_terminal_and_never_cut() -> None:
    printer, out, _ = output(Format.TABLE, columns=24)
    vm_id = "19870ff3-0ced-445a-a015-9f668f322995"
    printer.rows([{"id": vm_id}], (Column("ID", lambda row: row["id"]),), "nothing")
    assert vm_id in "".join(out.getvalue().split())


def test_a_narrow_terminal_gets_no_optional_columns_and_a_wide_one_does() -> None:
    columns = (
        Column("NAME", lambda row: row["name"]),
        Column("ID", lambda row: row["name"] * 6, optional=True),
    )
    for width, titles in ((30, ["NAME"]), (60, ["NAME", "ID"])):
        printer, out, _ = output(Format.TABLE, columns=width)
        printer.rows(ROWS, columns, "nothing")
        assert out.getvalue().splitlines()[0].split() == titles


def test_notes_and_sentences_are_for_people_only() -> None:
    printer, out, err = output(Format.JSON)
    printer.say("hello")
    printer.note("hello")
    printer.show(facts([("name", "value")]))
    with printer.working("working") as step:
        step("still")
    assert not out.getvalue()
    assert not err.getvalue()


def test_a_program_gets_an_error_as_one_object_on_stderr() -> None:
    printer, out, err = output(Format.JSON)
    printer.error(errors.NotFound("VM_NOT_FOUND", "no web-1", hint="watari vm list", vm="web-1"))
    assert not out.getvalue()
    assert json.loads(err.getvalue()) == {
        "error": {
            "reason": "VM_NOT_FOUND",
            "code": "NOT_FOUND",
            "message": "no web-1",
            "hint": "watari vm list",
            "retryable": False,
            "metadata": {"vm": "web-1"},
        }
    }


def test_a_person_reads_what_happened_and_what_to_do_next() -> None:
    printer, out, err = output(Format.TABLE)
    printer.error(errors.NotFound("VM_NOT_FOUND", "no web-1", hint="watari vm list"))
    assert not out.getvalue()
    assert err.getvalue() == "Error: no web-1\nNext: watari vm list\n"


def test_an_event_is_one_line() -> None:
    printer, out, _ = output(Format.JSON)
    printer.event({"a": 1, "text": "two\nlines"})
    printer.event({"a": 2})
    assert [json.loads(line)["a"] for line in out.getvalue().splitlines()] == [1, 2]


@given(st.text())
def test_cleaned_text_drives_no_terminal(text: str) -> None:
    assert all(char.isprintable() or char == "\n" for char in clean(text))


def test_an_escape_sequence_in_a_name_is_made_harmless() -> None:
    printer, out, _ = output(Format.TABLE)
    printer.rows([{"name": "a\x1b[2Jb"}], (Column("NAME", lambda row: row["name"]),), "nothing")
    assert "\x1b" not in out.getvalue()
    assert "a\N{REPLACEMENT CHARACTER}[2Jb" in out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["vm", "list", "-o", "json"], Format.JSON),
        (["vm", "list", "-ojson"], Format.JSON),
        (["vm", "list", "--output=json", "--nonsense"], Format.JSON),
        (["vm", "list", "--output", "json"], Format.JSON),
        (["vm", "list", "-o", "table"], Format.TABLE),
        (["vm", "show", "json"], Format.TABLE),
        (["vm", "list", "-o"], Format.TABLE),
        ([], Format.TABLE),
    ],
)
def test_the_format_is_known_before_the_command_line_is_understood(
    arguments: list[str], chosen: Format
) -> None:
    assert requested_format(arguments) is chosen
