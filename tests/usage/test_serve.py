"""What an engine answers to who fetches its record: whole lines, of the right file, from the right place."""

from __future__ import annotations

import asyncio
import json
import re
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_lines import append, count_line

from kivactl.usage import serve
from kivactl.usage.count import CountUsage, Record
from kivactl.usage.serve import FILE, FROM, PATH, Files


@pytest.fixture
def record(tmp_path):
    return tmp_path / "usage.jsonl"


def lines(first, last):
    return "".join(count_line(f"r{number}") for number in range(first, last))


def ask(app, query=b"", method="GET", path=PATH, **state):
    """Status, headers and body of an answer."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": [], "app": SimpleNamespace(state=SimpleNamespace(**state))}
    asyncio.run(app(scope, None, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, b"".join(message.get("body", b"") for message in sent[1:])


async def engine(scope, receive, send):
    await send({"type": "http.response.start", "status": 404, "headers": [(b"from", b"engine")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def environment(monkeypatch, record):
    monkeypatch.setenv("KIVA_USAGE_LOG", str(record))
    monkeypatch.setenv("KIVA_REPLICA", "chat/0.5b-0")
    monkeypatch.setenv("KIVA_MODEL", "chat")
    monkeypatch.setenv("KIVA_USAGE_SERVED", "1")


def test_nothing_counted_yet(record):
    assert Files(record, "m-0").answer("", 0) == serve.Answer("", 0, b"")
    append(record, count_line()[:20])
    assert Files(record, "m-0").answer("", 0) == serve.Answer("", 0, b"")


def test_whole_lines_only_and_then_what_follows(record):
    append(record, lines(0, 2), count_line("r2")[:30])
    files = Files(record, "m-0")
    first = files.answer("", 0)
    assert first.lines.decode() == lines(0, 2)
    assert re.fullmatch("m-0-[0-9a-f]{24}", first.file)
    append(record, count_line("r2")[30:])
    then = files.answer(first.file, len(first.lines))
    assert (then.file, then.start, then.lines.decode()) == (first.file, len(first.lines), count_line("r2"))
    assert files.answer(first.file, record.stat().st_size) == serve.Answer(first.file, record.stat().st_size, b"")


def test_a_piece_is_no_larger_than_said(record):
    append(record, lines(0, 40))
    files, read, file = Files(record, "m-0", piece_bytes=1000), b"", ""
    while (answer := files.answer(file, len(read))).lines:
        assert len(answer.lines) <= 1000
        read, file = read + answer.lines, answer.file
    assert read.decode() == lines(0, 40)


def test_after_a_file_set_aside_comes_the_next(record):
    append(record, lines(0, 3))
    files = Files(record, "m-0")
    first = files.answer("", 0)
    serve.set_aside(record)
    assert files.answer(first.file, len(first.lines)) == serve.Answer(first.file, len(first.lines), b"")
    append(record, lines(3, 5))
    then = files.answer(first.file, len(first.lines))
    assert (then.file != first.file, then.start, then.lines.decode()) == (True, 0, lines(3, 5))
    assert files.answer(first.file, 0).lines == first.lines


@pytest.mark.parametrize("stub", ["\n", '{"at": "2026\n', "\n\n"])
def test_files_that_begin_with_what_a_full_disk_left_of_a_line_are_told_apart(record, stub):
    files, read, names = Files(record, "m-0"), "", set()
    for number in range(3):
        append(record, stub, count_line(f"r{number}"))
        serve.set_aside(record)
    append(record, stub, count_line("r3"))
    answer = files.answer("", 0)
    while answer.file not in names:
        names.add(answer.file)
        read += answer.lines.decode()
        answer = files.answer(answer.file, len(answer.lines))
    assert (len(names), read) == (4, "".join(f"{stub}{count_line(f'r{number}')}" for number in range(4)))


def test_a_clock_that_was_set_back_changes_no_order_and_loses_no_file(record, monkeypatch):
    for number in range(serve.KEPT_ASIDE + 2):
        monkeypatch.setattr(serve.time, "time_ns", lambda number=number: 10**18 - number // 2)  # twice the same, then earlier
        append(record, count_line(f"r{number}"))
        serve.set_aside(record)
    aside = sorted(serve.aside_of(record), key=lambda path: int(path.suffix[1:]))
    assert [json.loads(path.read_text())["request_id"] for path in aside] == [f"r{number}" for number in range(2, serve.KEPT_ASIDE + 2)]


def test_of_a_file_it_has_not_it_begins_with_the_oldest(record):
    append(record, lines(0, 3))
    serve.set_aside(record)
    append(record, lines(3, 5))
    answer = Files(record, "m-0").answer("m-0-000000000000000000000000", 77)
    assert (answer.start, answer.lines.decode()) == (0, lines(0, 3))


@pytest.mark.parametrize("start", [1, 10**9])
def test_a_place_that_is_no_beginning_of_a_line_is_the_files_beginning(record, start):
    append(record, lines(0, 3))
    files = Files(record, "m-0")
    answer = files.answer(files.answer("", 0).file, start)
    assert (answer.start, answer.lines.decode()) == (0, lines(0, 3))


def test_the_oldest_files_set_aside_go(record):
    for number in range(serve.KEPT_ASIDE + 3):
        append(record, lines(number, number + 1))
        serve.set_aside(record)
    kept = sorted(serve.aside_of(record))
    assert [path.read_text() for path in kept] == [lines(number, number + 1) for number in range(3, serve.KEPT_ASIDE + 3)]


def test_the_record_begins_a_new_file_when_it_is_large(record):
    kept = Record(str(record), set_aside_bytes=60)
    for number in range(5):
        kept.append({"request_id": f"r{number}"})
    assert len(serve.aside_of(record)) == 1
    assert Files(record, "m-0").answer("", 0).lines.count(b"\n") == 4
    assert Record(str(record), None).append({"request_id": "r5"}) is None


@given(parts=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12), every=st.integers(1, 3), piece_bytes=st.integers(250, 1200))
def test_who_keeps_asking_gets_each_line_once(tmp_path_factory, parts, every, piece_bytes):
    record = tmp_path_factory.mktemp("served") / "usage.jsonl"
    files, place, read, written = Files(record, "m-0", piece_bytes), ("", 0), b"", ""

    def catch_up():
        nonlocal place, read
        while True:
            answer = files.answer(*place)
            if answer.lines or answer.file != place[0]:
                place, read = (answer.file, answer.start + len(answer.lines)), read + answer.lines
            else:
                return

    for turn, (count, aside) in enumerate(parts):
        more = "".join(count_line(f"r{turn}-{number}") for number in range(count))
        if more:
            append(record, more)
            written += more
        if turn % every == 0:
            catch_up()
        if aside and record.exists():
            catch_up()  # no more than KEPT_ASIDE files behind
            serve.set_aside(record)
    catch_up()
    assert read.decode() == written


def test_the_answer_says_of_which_file_and_from_where(environment, record):
    app = CountUsage(engine)
    append(record, lines(0, 2))
    status, headers, body = ask(app)
    assert (status, headers[FROM], body.decode()) == (200, "0", lines(0, 2))
    assert headers[FILE].startswith("chat-0-5b-0-")
    assert headers["content-length"] == str(len(body))
    status, headers, body = ask(app, f"file={headers[FILE]}&from={len(body)}".encode())
    assert (status, headers[FROM], body) == (200, str(len(lines(0, 2))), b"")


@pytest.mark.parametrize(("method", "query"), [("POST", b""), ("GET", b"from=-1"), ("GET", b"from=x"), ("GET", b"from=%C2%B2"), ("GET", b"from=" + b"9" * 40)])
def test_what_is_no_question(environment, record, method, query):
    if method == "POST":
        assert ask(serve.ServeUsage(engine, str(record), "m-0"), query, method)[0] == 400
    else:
        assert ask(CountUsage(engine), query, method)[0] == 400


def test_what_cannot_be_read_is_said(environment, record):
    record.mkdir()
    status, headers, body = ask(CountUsage(engine))
    assert (status, headers[FILE], body) == (503, "", b"")


def test_only_when_told_to(environment, record, monkeypatch):
    monkeypatch.delenv("KIVA_USAGE_SERVED")
    append(record, lines(0, 2))
    assert ask(CountUsage(engine))[1] == {"from": "engine"}
    assert CountUsage(engine)._record._set_aside_bytes is None


def test_other_paths_are_the_engines(environment):
    assert ask(CountUsage(engine), path="/kiva/usages")[1] == {"from": "engine"}


def test_an_engine_that_has_ended_answers_a_little_longer_once(environment, monkeypatch):
    ended, slept = [], []
    client = SimpleNamespace(shutdown=lambda timeout: ended.append(timeout) or "done")
    monkeypatch.setattr(time, "sleep", slept.append)
    app = CountUsage(engine)
    ask(app, engine_client=client)
    ask(app, engine_client=client)
    assert [client.shutdown(timeout=5), client.shutdown(timeout=0)] == ["done", "done"]
    assert (ended, slept) == ([5, 0], [serve.OUTLIVES_S])


def test_an_engine_that_ends_in_another_way_serves_all_the_same(environment, record, caplog):
    append(record, lines(0, 1))
    assert ask(CountUsage(engine), engine_client=object())[2].decode() == lines(0, 1)
    assert "ends in another way" in caplog.text


def test_lines_are_json_that_the_meter_reads(record):
    append(record, lines(0, 1))
    assert json.loads(Files(record, "m-0").answer("", 0).lines)["request_id"] == "r0"
