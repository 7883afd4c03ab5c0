"""ASGI middleware for the engine: holds the status and headers of an answer until its first body bytes exist.

vLLM sends status and headers before it has a token. From then on no proxy can try the request on another replica, so
everything queued on a dying replica would fail. Held back, a request that has not begun to stream is still whole in the
gateway's hands.
"""

from __future__ import annotations

from kivactl.stack.asgi import App, Message, Receive, Scope, Send


class HoldStart:
    """Wraps an ASGI application; the order of messages stays, only the first waits for the second."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP passes unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                held.append(message)
                return
            if held and message["type"] == "http.response.body":
                if not message.get("body") and message.get("more_body", False):
                    return
                await send(held.pop())
            await send(message)

        await self._app(scope, receive, hold)
