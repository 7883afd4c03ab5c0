"""Hostile clients with bodies that are too large, no JSON, or JSON that two readers might read differently."""

from __future__ import annotations

import gzip
import json

import pytest

pytestmark = pytest.mark.real

GOOD = b'{"model": "m", "messages": []}'
LIMIT_BYTES = 2**20
TEN_MB = 10_000_000


def of_size(count):
    return b'{"model": "m", "messages": ["%s"]}' % (b"x" * (count - len(b'{"model": "m", "messages": [""]}')))


def test_ten_megabytes_with_their_length_are_refused(untouched):
    with untouched.connect() as connection:
        connection.send(untouched.head(headers=[("content-type", "application/json"), ("content-length", str(TEN_MB))]))
        connection.send_what_is_taken(of_size(TEN_MB))
        connection.answer().refuses(413, "request_too_large")


def test_ten_megabytes_in_chunks_are_refused(untouched):
    body = of_size(TEN_MB)
    pieces = (body[start : start + 100_000] for start in range(0, TEN_MB, 100_000))
    with untouched.connect() as connection:
        connection.send(untouched.head(headers=[("content-type", "application/json"), ("transfer-encoding", "chunked")]))
        connection.send_what_is_taken(b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces))
        connection.answer().refuses(413, "request_too_large")


def test_ten_megabytes_without_a_token_are_refused_before_they_are_read(untouched):
    with untouched.connect() as connection:
        connection.send(untouched.head(headers=[("content-type", "application/json"), ("content-length", str(TEN_MB))], tenant=None))
        connection.answer().refuses(401)


def test_the_limit_is_exact(unharmed):
    before = len(unharmed.received)
    assert unharmed.ask(of_size(LIMIT_BYTES)).status == 200
    unharmed.ask(of_size(LIMIT_BYTES + 1)).refuses(413, "request_too_large")
    assert [entry["body_bytes"] for entry in unharmed.received[before:]] == [LIMIT_BYTES]


def test_a_client_that_asks_first_is_told_to_go_on(unharmed):
    with unharmed.connect() as connection:
        connection.send(unharmed.head(headers=[("content-type", "application/json"), ("content-length", str(len(GOOD))), ("expect", "100-continue")]))
        assert connection.head()[0] == "HTTP/1.1 100 Continue"
        connection.send(GOOD)
        assert connection.answer().status == 200


NO_JSON = {
    "empty": b"",
    "blank": b"   ",
    "no JSON": b"hello",
    "half an object": b'{"model": "m"',
    "half a text": b'{"model": "m',
    "two objects": GOOD + GOOD,
    "something behind": GOOD + b" x",
    "something before": b"x " + GOOD,
    "last comma": b'{"model": "m",}',
    "single quotes": b"{'model': 'm'}",
    "keys without quotes": b'{model: "m"}',
    "comment": b'{"model": "m" /* secret */}',
    "NaN": b'{"model": "m", "temperature": NaN}',
    "Infinity": b'{"model": "m", "temperature": -Infinity}',
    "number with a zero before": b'{"model": "m", "n": 01}',
    "tab in a text": b'{"model": "m", "x": "a\tb"}',
    "NUL before": b"\0" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32-le"),
    "UTF-7": b'+AHs-"model": "m"+AH0-',
    "invalid UTF-8 in the model": b'{"model": "m\xff"}',
    "invalid UTF-8 elsewhere": b'{"model": "m", "x": "\xc3\x28"}',
    "overlong UTF-8": b'{"model": "\xc1\xad"}',
    "surrogate in UTF-8": b'{"model": "m", "x": "\xed\xa0\x80"}',
    "half a surrogate pair": b'{"model": "m", "x": "\\ud800"}',
    "list": b'["model", "m"]',
    "list of objects": b"[" + GOOD + b"]",
    "text": b'"m"',
    "number": b"1",
    "null": b"null",
    "object without keys": b"{}",
    "model missing": b'{"messages": []}',
    "model elsewhere": b'{"x": {"model": "m"}}',
    "model in another case": b'{"Model": "m"}',
    "model null": b'{"model": null}',
    "model a list": b'{"model": ["m"]}',
    "model an object": b'{"model": {"model": "m"}}',
    "compressed": gzip.compress(GOOD),
    "form": b"model=m&messages=",
    "multipart": b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n',
    "YAML": b"model: m\n",
    "XML": b"<model>m</model>",
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_names_no_model_in_json_is_refused(untouched, name):
    error = untouched.ask(NO_JSON[name]).refuses(400, "missing_model")
    assert "content-type: application/json" in error["message"]


@pytest.mark.parametrize(
    "model",
    [
        0,
        1,
        -1,
        1.5,
        10**30,
        True,
        False,
        " ",
        "M",
        "m ",
        " m",
        "m\n",
        "m\0",
        "m\u200b",
        "\uff4d",
        "*",
        ".*",
        "m|secret",
        "m,secret",
        "../m",
        "m/../secret",
        "engine-m",
        "m-0",
        "x" * 100,
        "\U0001f600",
    ],
    ids=lambda model: repr(model)[:20],
)
def test_a_model_that_the_platform_has_not_is_refused(untouched, model):
    untouched.ask({"model": model, "messages": []}).refuses(404, "model_not_found")


@pytest.mark.parametrize("model", ["", "x" * 10_000, "\U0001f600" * 1000], ids=["empty", "long", "long in UTF-8"])
def test_a_model_that_is_no_name_is_refused(untouched, model):
    answer = untouched.ask({"model": model, "messages": []})
    answer.refuses(answer.status, {400: "missing_model", 404: "model_not_found"}[answer.status])


@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/json",
        "json",
        "",
        "application/json-patch+json",
        "image/png",
        None,
    ],
)
def test_another_content_type_is_refused(untouched, media):
    untouched.ask(GOOD, media=media).refuses(400, "missing_model")


@pytest.mark.parametrize("media", ["application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"])
def test_json_is_json_however_it_is_written(unharmed, media):
    assert unharmed.ask(GOOD, media=media).status == 200


TWO_READINGS = {
    "behind a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "NUL behind": GOOD + b"\0",
    "another object behind a NUL": GOOD + b'\0{"model": "secret"}',
    "twice, the forbidden one last": b'{"model": "m", "model": "secret"}',
    "twice, the forbidden one first": b'{"model": "secret", "model": "m"}',
    "twice, one escaped, last": b'{"model": "m", "\\u006dodel": "secret"}',
    "twice, one escaped, first": b'{"\\u006dodel": "secret", "model": "m"}',
    "three times": b'{"model": "m", "model": "secret", "model": "m"}',
    "escaped value": b'{"model": "\\u0073ecret"}',
    "a number last": b'{"model": "secret", "model": 1}',
    "null last": b'{"model": "secret", "model": null}',
    "null first": b'{"model": null, "model": "secret"}',
    "a list last": b'{"model": "m", "model": ["secret"]}',
    "an object last": b'{"model": "m", "model": {"model": "secret"}}',
    "nested": b'{"x": {"model": "secret"}, "model": "m"}',
    "nested, behind": b'{"model": "m", "x": {"model": "secret"}}',
    "behind a NUL": b'{"model": "m\\u0000secret"}',
    "key with a NUL": b'{"model\\u0000": "m", "model": "secret"}',
    "behind much": b'{"x": "' + b"y" * 500_000 + b'", "model": "m", "model": "secret"}',
}


def model_for_engine(body):
    """What an engine takes for the model; None when it refuses the body as no JSON."""
    try:
        return json.loads(body)["model"]
    except ValueError:
        return None


@pytest.mark.parametrize("name", TWO_READINGS)
@pytest.mark.parametrize("media", ["application/json", "application/json; charset=utf-16", "application/json, application/json"])
def test_the_gateway_reads_the_model_as_the_engine_does(unharmed, name, media):
    """Python's reader, which engines use, takes the last of equal keys; the tenant may use `m` only."""
    before = {engine: len(entry.received) for engine, entry in unharmed.engines.items()}
    answer = unharmed.ask(TWO_READINGS[name], media=media)
    received = {engine: entry.received[before[engine] :] for engine, entry in unharmed.engines.items()}
    assert received["secret-0"] == []
    for entry in received["m-0"]:
        assert entry["body"].encode("latin-1") == TWO_READINGS[name]
        assert model_for_engine(TWO_READINGS[name]) in {"m", None}
    if answer.status != 200:
        assert answer.status in {400, 403, 404}
        answer.refuses(answer.status)


DEEP = 100_000
HEAVY = {
    "lists in lists": b'{"model": "m", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "objects in objects": b'{"model": "m", "x": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "lists without end": b"[" * 500_000,
    "objects without end": b'{"a":' * 150_000,
    "the model deep down": b'{"a":' * DEEP + b'"m"' + b"}" * DEEP,
    "many keys": json.dumps({"model": "m", **{f"key{number}": 0 for number in range(50_000)}}).encode(),
    "many equal keys": b'{"model": "m"' + b', "model": "m"' * 50_000 + b"}",
    "a long number": b'{"model": "m", "n": ' + b"9" * 500_000 + b"}",
    "a huge exponent": b'{"model": "m", "n": 1e999999999}',
    "a long key": b'{"model": "m", "' + b"k" * 900_000 + b'": 1}',
    "many escapes": b'{"model": "m", "x": "' + b"\\u0041" * 100_000 + b'"}',
    "many backslashes": b'{"model": "m", "x": "' + b"\\\\" * 400_000 + b'"}',
    "quotes without end": b'"' * 900_000,
}


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_json_does_no_harm(unharmed, name):
    before = len(unharmed.received)
    answer = unharmed.ask(HEAVY[name])
    received = unharmed.received[before:]
    if answer.status == 200:
        assert [entry["body_bytes"] for entry in received] == [len(HEAVY[name])]
    else:
        answer.refuses(answer.status)
        assert answer.status in {400, 404}
        assert received == []


def test_many_heavy_requests_at_once_do_no_harm(unharmed):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: unharmed.ask(HEAVY["lists in lists"], timeout_s=60), range(48)))
    assert {answer.status for answer in answers} <= {200, 400, 503}
    assert unharmed.serves()
