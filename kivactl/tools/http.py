"""Speaks to a platform's OpenAI-compatible endpoint, and turns each way of being refused into one sentence.

Only commands that dial out import this module: httpx takes a tenth of a second.
"""

from __future__ import annotations

import json
import math
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx

from kivactl.errors import KivaError, NotReadyError, PreconditionError, ToolError, UsageError
from kivactl.stack.endpoint import Endpoint

_CONNECT_TIMEOUT_S = 5.0
_OTHER_URL = "--url https://HOST:PORT/v1"


class GatewayClient:
    """Asks a platform the way its users do. Made by `open_client`."""

    def __init__(self, endpoint: Endpoint, client: httpx.Client) -> None:
        self._endpoint = endpoint
        self._client = client

    def models(self) -> list[str]:
        """The names of the models it serves.

        Raises:
            KivaError: It does not answer, or refuses.
        """
        with self._sent("GET", "/models") as response:
            body = _json(response.read())
        data = body.get("data") if isinstance(body, dict) else None
        if not isinstance(data, list):
            raise ToolError(
                f"{self._endpoint.url}/models does not answer as an OpenAI-compatible endpoint does", _hint(self._endpoint, "kivactl status", _OTHER_URL)
            )
        return [str(model["id"]) for model in data if isinstance(model, dict) and "id" in model]

    def chat(
        self, prompt: str, *, max_tokens: int | None = None, temperature: float | None = None, stream: bool = True, within_s: float = math.inf
    ) -> Iterator[str]:
        """Ask one question.

        Args:
            prompt: What the user says.
            max_tokens: Longest answer; the engine's default when absent.
            temperature: 0..2; the model's default when absent.
            stream: Whether the answer comes piece by piece, or as one.
            within_s: Longest time until the end of an answer that comes piece by piece, in seconds.

        Yields:
            The pieces of the answer, never empty.

        Raises:
            KivaError: It does not answer, refuses, or breaks off.
        """
        deadline_s = time.monotonic() + within_s
        given = {"max_tokens": max_tokens, "temperature": temperature}
        body = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": stream,
            **{key: value for key, value in given.items() if value is not None},
        }
        with self._sent("POST", "/chat/completions", body) as response:
            if stream:
                try:
                    yield from self._pieces(response, deadline_s)
                except TimeoutError as error:
                    sentence = f"{self._endpoint.url} did not end its answer within {within_s:g} s"
                    raise NotReadyError(sentence, _hint(self._endpoint, "kivactl logs")) from error
            else:
                answer = _json(response.read())
                text = answer["choices"][0]["message"].get("content") if isinstance(answer, dict) and answer.get("choices") else None
                if text:
                    yield str(text)

    def complete(self, prompt: str, *, max_tokens: int) -> int:
        """Let the model go on with a text, which needs no chat template.

        Args:
            prompt: The text.
            max_tokens: Tokens to generate, at most.

        Returns:
            Tokens generated, at least one.

        Raises:
            KivaError: It does not answer, refuses, or generates nothing.
        """
        body = {"model": self._endpoint.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        with self._sent("POST", "/completions", body) as response:
            answer = _json(response.read())
        usage = answer.get("usage") if isinstance(answer, dict) else None
        tokens = int(usage.get("completion_tokens", 0)) if isinstance(usage, dict) else 0
        if tokens < 1:
            raise ToolError(f"the engine of '{self._endpoint.model}' answers but generates nothing", _hint(self._endpoint, "kivactl logs"))
        return tokens

    def prompt_tokens(self, prompt: str) -> int | None:
        """How many tokens a prompt is, with all that the engine puts around it; None where it does not count.

        Raises:
            KivaError: It does not answer, or refuses.
        """
        body = {"model": self._endpoint.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "temperature": 0}
        with self._sent("POST", "/chat/completions", body) as response:
            answer = _json(response.read())
        usage = answer.get("usage") if isinstance(answer, dict) else None
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    def _pieces(self, response: httpx.Response, deadline_s: float) -> Iterator[str]:
        finished, data = False, None
        for data in _events(response, deadline_s):
            if data == "[DONE]":
                return
            chunk = _json(data.encode())
            if not isinstance(chunk, dict) or chunk.get("error") or chunk.get("object") == "error":
                raise ToolError(f"the engine of '{self._endpoint.model}' broke off its answer: {_message(chunk)}", _hint(self._endpoint, "kivactl logs"))
            for choice in chunk.get("choices") or []:
                finished = finished or bool(choice.get("finish_reason"))
                text = (choice.get("delta") or {}).get("content")
                if text:
                    yield str(text)
        content_type = response.headers.get("content-type", "")
        if data is None and "text/event-stream" not in content_type:
            sentence = f"{self._endpoint.url} answers with no stream of events (content-type '{content_type}')"
            raise ToolError(sentence, _hint(self._endpoint, "kivactl logs", _OTHER_URL))
        if not finished:
            raise ToolError(f"the engine of '{self._endpoint.model}' broke off its answer", _hint(self._endpoint, "kivactl logs"))

    @contextmanager
    def _sent(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[httpx.Response]:
        headers = {"authorization": f"Bearer {self._endpoint.token.reveal()}"}
        try:
            with self._client.stream(method, self._endpoint.url + path, json=body, headers=headers) as response:
                if response.status_code >= 400:
                    response.read()
                    raise refusal_for(self._endpoint, response.status_code, response.content, response.headers.get("retry-after"))
                yield response
        except httpx.TransportError as error:
            raise fault_for(self._endpoint, error) from error


@contextmanager
def open_client(endpoint: Endpoint, *, timeout_s: float = 60.0) -> Iterator[GatewayClient]:
    """Open connections to an endpoint.

    Args:
        endpoint: Whom to ask.
        timeout_s: Longest silence while an answer is awaited or read, in seconds.

    Raises:
        PreconditionError: The file with the authority to trust is missing or broken.
    """
    try:
        context = ssl.create_default_context(cafile=endpoint.ca)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else "it holds no certificate"
        raise PreconditionError(
            f"the authority to trust cannot be read from {endpoint.ca}: {reason}", _hint(endpoint, "kivactl provision", "--ca FILE")
        ) from error
    timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
    # Not the environment's proxies, netrc and authorities: the endpoint is the platform's own.
    with httpx.Client(verify=context, timeout=timeout, trust_env=False) as client:
        yield GatewayClient(endpoint, client)


def fault_for(endpoint: Endpoint, error: httpx.TransportError) -> KivaError:
    """The error for an endpoint that gives no whole answer."""
    hint = partial(_hint, endpoint)
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        verification = next(cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError))
        trusted = f"the authority in {endpoint.ca}" if endpoint.ca else "any authority of this system"
        sentence = f"the certificate of {endpoint.url} is not vouched for by {trusted}: {verification.verify_message}"
        return PreconditionError(sentence, hint("kivactl status", "--ca FILE"))
    if any(isinstance(cause, ssl.SSLError) for cause in causes) and isinstance(error, httpx.ConnectError):
        return PreconditionError(f"{endpoint.url} does not speak TLS as expected: {error}", hint("kivactl status", _OTHER_URL))
    match error:
        case httpx.ConnectTimeout():
            return PreconditionError(f"{endpoint.url} cannot be reached within {_CONNECT_TIMEOUT_S:g} s", hint("kivactl status", _ask_by_hand(endpoint)))
        case httpx.ConnectError():
            return PreconditionError(f"nothing answers at {endpoint.url}: {_last_text(causes)}", hint("kivactl up", _ask_by_hand(endpoint)))
        case httpx.TimeoutException():
            return NotReadyError(f"{endpoint.url} took the request but did not answer in time", hint("kivactl status"))
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return UsageError(f"{endpoint.url} cannot be asked: {error}")
        case _:
            return ToolError(f"{endpoint.url} broke off the connection: {error}", hint("kivactl logs"))


def refusal_for(endpoint: Endpoint, status: int, body: bytes, retry_after: str | None = None) -> KivaError:
    """The error for a status of 400 and above, with what the platform says about it."""
    hint, said = partial(_hint, endpoint), _message(_json(body))
    match status:
        case 401 | 403:
            return PreconditionError(f"{endpoint.url} does not accept the token: {said}", hint("kivactl status", "--token-file FILE"))
        case 404 if _code(body) == "model_not_found" or "model" in said.lower():
            return UsageError(f"{endpoint.url} serves no model named '{endpoint.model}'", hint("kivactl status", "--model NAME"))
        case 404:
            return UsageError(f"{endpoint.url} is not the address of an OpenAI-compatible endpoint: {said}", hint("kivactl status", _OTHER_URL))
        case 429:
            when = f"; try again in {retry_after} s" if retry_after else ""
            return PreconditionError(f"{endpoint.url} has had too many requests from this token{when}", hint("kivactl status"))
        case 502 | 503 | 504:
            return NotReadyError(f"no engine of '{endpoint.model}' answers at the moment: {said}", hint("kivactl status"))
        case _ if status < 500:
            return UsageError(f"{endpoint.url} refuses the request with status {status}: {said}")
        case _:
            return ToolError(f"the engine of '{endpoint.model}' failed with status {status}: {said}", hint("kivactl logs"))


def _hint(endpoint: Endpoint, own: str, foreign: str = "") -> str:
    """The next command: of the platform's own, or, where an endpoint was named by hand, what to name otherwise."""
    return foreign if endpoint.is_foreign else own


def _ask_by_hand(endpoint: Endpoint) -> str:
    return f"curl -v {endpoint.url}/models"


def _events(response: httpx.Response, deadline_s: float) -> Iterator[str]:
    """The data of each event. By bytes, since httpx's lines also end at U+2028 and its like, which answers may hold.

    Raises:
        TimeoutError: Something still comes when the monotonic clock is past the deadline; httpx only looks at silence.
    """
    rest = b""
    for received in response.iter_bytes():
        if time.monotonic() > deadline_s:
            raise TimeoutError
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip().decode(errors="replace")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace").strip()


def _message(body: Any) -> str:
    """The sentence in an error body, without its full stop; the beginning of whatever else it is."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    text = message if isinstance(message, str) else json.dumps(error)
    return text.strip().rstrip(".")[:300] or "it gives no reason"


def _code(body: bytes) -> str:
    parsed = _json(body)
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return str(error.get("code")) if isinstance(error, dict) else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _last_text(causes: list[BaseException]) -> str:
    systems = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    return systems[-1].lower() if systems else str(causes[0])
