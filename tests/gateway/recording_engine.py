"""A stand-in for an engine on a Unix socket or at `HOST:PORT`: writes down every byte it is sent, and answers as the request's body wishes.

Arguments: the socket, the file of the record. The body's `stand_in` is an object with `do`:
`answer` (at once; the default), `sleep` (`for_s`, then answer), `stream` (`events`, `gap_s`), `hold` (one event, and another when the
file `until` is there), `die` (drop the connection),
`die-mid-stream` (after `events`), `never` (no answer), `status` (`status`, `headers`).
"""

import asyncio
import json
import os
import sys
from pathlib import Path

LONGEST_HEAD_BYTES = 16 * 2**20
KEPT_BODY_BYTES = 64 * 2**10

socket, record = sys.argv[1:]


def note(entry):
    with Path(record).open("a") as file:
        file.write(json.dumps(entry) + "\n")


async def body_of(reader, headers):
    """The body as the headers say it is long; names are lower-case."""
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        while (await reader.readline()).strip():
            pass
        return body
    return await reader.readexactly(int(headers.get("content-length", 0)))


def head(status, *headers):
    return f"HTTP/1.1 {status} X\r\n{''.join(f'{name}: {value}{chr(13)}{chr(10)}' for name, value in headers)}\r\n".encode()


def answer(content, status=200, headers=()):
    body = json.dumps(content).encode()
    return head(status, ("content-type", "application/json"), ("content-length", len(body)), *headers) + body


def completion(model):
    message = {"role": "assistant", "content": "Berlin"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "text": "Berlin"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage, "pid": os.getpid()}


def event(model, index, text):
    delta = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [delta], "number": index}
    data = f"data: {json.dumps(chunk)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


async def respond(writer, wish, model):
    """Do as wished; False when the connection is to be dropped."""
    match wish.get("do", "answer"):
        case "die":
            return False
        case "never":
            await asyncio.sleep(3600)
        case "status":
            error = {"message": "as you wish", "type": "stand_in", "param": None, "code": wish["status"]}
            writer.write(answer({"error": error}, wish["status"], wish.get("headers", {}).items()))
        case "hold":
            writer.write(head(200, ("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked")) + event(model, 0, "first "))
            await writer.drain()
            while not Path(wish["until"]).exists():
                await asyncio.sleep(0.02)
            writer.write(event(model, 1, "last") + b"0\r\n\r\n")
        case "stream" | "die-mid-stream" as kind:
            writer.write(head(200, ("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked")))
            for index in range(wish.get("events", 3)):
                writer.write(event(model, index, f"word{index} "))
                await writer.drain()
                await asyncio.sleep(wish.get("gap_s", 0))
            if kind == "die-mid-stream":
                return False
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        case other:
            await asyncio.sleep(wish.get("for_s", 0) if other == "sleep" else 0)
            writer.write(answer(completion(model)))
    await writer.drain()
    return True


async def serve(reader, writer):
    try:
        while True:
            first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
            pairs = [[name.lower(), value.strip()] for name, _, value in (line.partition(":") for line in lines)]
            headers = dict(pairs)
            if headers.get("user-agent", "").startswith("Envoy/HC"):
                writer.write(answer({}))
                continue
            method, path, _ = first.split(" ", 2)
            body = await body_of(reader, headers)
            note({"method": method, "path": path, "headers": pairs, "body": body[:KEPT_BODY_BYTES].decode("latin-1"), "body_bytes": len(body)})
            try:
                content = json.loads(body)
            except ValueError:
                content = {}
            content = content if isinstance(content, dict) else {}
            if not await respond(writer, content.get("stand_in") or {}, content.get("model")):
                writer.transport.abort()
                return
    except asyncio.IncompleteReadError as rest:
        if rest.partial:
            note({"method": "?", "path": "?", "headers": [], "body": rest.partial.decode("latin-1"), "body_bytes": len(rest.partial)})
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main():
    if socket.startswith("/"):
        server = await asyncio.start_unix_server(serve, socket, limit=LONGEST_HEAD_BYTES)
    else:
        host, _, port = socket.rpartition(":")
        server = await asyncio.start_server(serve, host, int(port), limit=LONGEST_HEAD_BYTES)
    async with server:
        await server.serve_forever()


asyncio.run(main())
