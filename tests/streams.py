"""Users in a closed loop who read streams to their end, or leave; each request's fate is told apart."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from kivactl.loadtest.sse import EventParser


@dataclass
class Fate:
    """What became of a request.

    Attributes:
        begun: Whether anything of the answer came.
        finished: Whether the answer came to its end as the protocol says.
        left: Whether the user went away.
        reason: Why it failed; empty when it did not.
        usage: What the engine counted.
        took_s: Time until its end.
    """

    begun: bool = False
    finished: bool = False
    left: bool = False
    reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def failed(self) -> bool:
        return not self.finished and not self.left


class Users:
    """Closed-loop users during a `with` block.

    Args:
        port: Of the gateway on this machine.
        ca: Whom to trust.
        token: Of the tenant.
        count: How many users.
        most: Requests after which they stop by themselves; None to go on until the block ends.
        streamed: Share of the requests that are streams.
        leaving: Share of the users' requests that they give up at a random moment.
        pause_s: Between an answer and the next request.
        model: What they ask.
        seed: For their choices.
    """

    def __init__(
        self,
        port: int,
        ca: Path,
        token: str,
        *,
        count: int = 16,
        most: int | None = None,
        streamed: float = 1.0,
        leaving: float = 0.0,
        pause_s: float = 0.0,
        model: str = "tiny",
        seed: int = 1,
    ) -> None:
        self.url, self.ca, self.token, self.count, self.most = f"https://127.0.0.1:{port}/v1/completions", ca, token, count, most
        self.streamed, self.leaving, self.pause_s, self.model, self.seed = streamed, leaving, pause_s, model, seed
        self.fates: list[Fate] = []
        self.started = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.most is None:
            self._stop.set()
        self._thread.join(timeout=400)

    def until(self, requests: int) -> None:
        """Wait until so many more requests have come to their end."""
        goal, end_s = len(self.fates) + requests, time.monotonic() + 300
        while len(self.fates) < goal:
            assert time.monotonic() < end_s, f"only {len(self.fates)} of {goal} requests ended"
            time.sleep(0.05)

    @property
    def failed(self) -> list[Fate]:
        return [fate for fate in self.fates if fate.failed]

    @property
    def lost(self) -> Counter[str]:
        """Requests that failed before anything of their answer came, by reason: those a gateway could have saved."""
        return Counter(fate.reason for fate in self.failed if not fate.begun)

    @property
    def slowest_s(self) -> float:
        return max(fate.took_s for fate in self.fates)

    async def _all(self) -> None:
        context = ssl.create_default_context(cafile=str(self.ca))
        await asyncio.gather(*(self._user(context, random.Random(self.seed * 1000 + number)) for number in range(self.count)))

    async def _user(self, context: ssl.SSLContext, rng: random.Random) -> None:
        client = self._client(context)
        while not self._stop.is_set() and (self.most is None or self.started < self.most):
            self.started += 1
            fate, start_s, is_usable = Fate(), time.monotonic(), False
            patience_s = rng.uniform(0.01, 0.4) if rng.random() < self.leaving else None
            try:
                async with asyncio.timeout(patience_s):
                    await self._ask(client, rng, fate)
            except TimeoutError:
                fate.left = not fate.finished
            except (httpx.HTTPError, ValueError) as error:
                fate.reason = fate.reason or repr(error)
            else:
                is_usable = fate.finished
            fate.took_s = time.monotonic() - start_s
            self.fates.append(fate)
            if not is_usable:
                # httpx keeps a place among its connections for a request that was given up between connecting and sending, or behind its last event.
                await client.aclose()
                client = self._client(context)
            await asyncio.sleep(self.pause_s)
        await client.aclose()

    def _client(self, context: ssl.SSLContext) -> httpx.AsyncClient:
        """Of one user, who has one connection."""
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx.AsyncClient(verify=context, timeout=120, limits=limits, headers={"authorization": f"Bearer {self.token}"}, trust_env=False)

    async def _ask(self, client: httpx.AsyncClient, rng: random.Random, fate: Fate) -> None:
        words = " ".join(rng.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(rng.randint(3, 40)))
        body: dict[str, Any] = {"model": self.model, "prompt": words, "max_tokens": rng.randint(4, 32), "ignore_eos": True}
        if rng.random() >= self.streamed:
            answer = await client.post(self.url, json=body)
            fate.begun = answer.status_code == 200
            fate.finished = answer.status_code == 200
            fate.reason = "" if fate.finished else f"{answer.status_code} {answer.text[:200]}"
            fate.usage = answer.json().get("usage", {}) if fate.finished else {}
            return
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        async with client.stream("POST", self.url, json=body) as answer:
            if answer.status_code != 200:
                fate.reason = f"{answer.status_code} {(await answer.aread())[:200]!r}"
                return
            parser = EventParser()
            async for piece in answer.aiter_bytes():
                for event in parser.feed(piece):
                    if event == b"[DONE]":
                        fate.finished = True
                        continue
                    fate.begun = True
                    fate.usage = json.loads(event).get("usage") or fate.usage
            fate.reason = "" if fate.finished else "the stream ended without an end"
