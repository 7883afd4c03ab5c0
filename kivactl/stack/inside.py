"""What of the platform runs inside the engine to serve requests: one ASGI middleware made of small ones, in the right order.

vLLM: `--middleware kivactl.stack.inside.Inside --middleware kivactl.usage.count.CountUsage`. The middleware named last is the
outermost. Counting stands outermost, so that it does not see the probes that `Generating` makes.
"""

from __future__ import annotations

from kivactl.stack.asgi import App, Receive, Scope, Send
from kivactl.stack.generating import Generating
from kivactl.stack.hold_start import HoldStart
from kivactl.stack.priority import Priority


class Inside:
    """From outside to inside: proof of generation, priority, held start."""

    def __init__(self, app: App) -> None:
        self._app: App = Generating(Priority(HoldStart(app)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        await self._app(scope, receive, send)
