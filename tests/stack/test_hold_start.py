"""The middleware: nothing leaves before the first body bytes, and nothing is lost or reordered."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from kivactl.stack.hold_start import HoldStart


def sent(messages, kind="http"):
    out = []

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
            out.append("|")

    async def send(message):
        out.append(message)

    asyncio.run(HoldStart(app)({"type": kind}, None, send))
    return out


START = {"type": "http.response.start", "status": 200}


def body(content, more=True):
    return {"type": "http.response.body", "body": content, "more_body": more}


def test_the_start_waits_for_the_first_bytes():
    assert sent([START, body(b""), body(b"a"), body(b"", more=False)]) == ["|", "|", START, body(b"a"), "|", body(b"", more=False), "|"]


def test_an_empty_answer_still_ends():
    assert sent([START, body(b"", more=False)]) == ["|", START, body(b"", more=False), "|"]


def test_other_protocols_pass():
    assert sent([{"type": "websocket.accept"}], kind="websocket") == [{"type": "websocket.accept"}, "|"]


@given(st.lists(st.binary(max_size=3)))
def test_no_byte_is_lost(chunks):
    messages = [START, *[body(chunk) for chunk in chunks], body(b"", more=False)]
    out = [message for message in sent(messages) if message != "|"]
    assert out[0] == START
    assert b"".join(message["body"] for message in out[1:]) == b"".join(chunks)
    assert out[-1]["more_body"] is False
