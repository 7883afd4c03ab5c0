"""Arrivals to replay: when, how long the prompt, how long the answer; from a file of JSON lines.

Ours are `{"at": seconds, "prompt_tokens": n, "output_tokens": n}`; Mooncake's published traces are read as they are.

Source: https://github.com/kvcache-ai/Mooncake (`timestamp` in milliseconds, `input_length`, `output_length`)
"""

from __future__ import annotations

import json
from pathlib import Path

Arrival = tuple[float, int, int]


def read_trace(path: Path, speed: float = 1.0) -> list[Arrival]:
    """Read a trace.

    Args:
        path: The file.
        speed: 2 replays it in half the time.

    Returns:
        Seconds from the first arrival, tokens of the prompt and of the answer (0: not told), by time.

    Raises:
        ValueError: A line is no arrival; the message names it.
        OSError: The file cannot be read.
    """
    found: list[Arrival] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(_arrival(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            msg = f"{path}:{number}: is no arrival: a line of JSON with 'at' in seconds, or 'timestamp' in milliseconds"
            raise ValueError(msg) from None
    if not found:
        msg = f"{path}: holds no arrival"
        raise ValueError(msg)
    found.sort()
    first_s = found[0][0]
    return [((at_s - first_s) / speed, prompt, output) for at_s, prompt, output in found]


def _arrival(fields: dict[str, float]) -> Arrival:
    at_s = float(fields["at"]) if "at" in fields else float(fields["timestamp"]) / 1e3
    prompt = int(fields.get("prompt_tokens", fields.get("input_length", 0)))
    output = int(fields.get("output_tokens", fields.get("output_length", 0)))
    if not at_s >= 0 or prompt < 0 or output < 0 or at_s == float("inf"):
        raise ValueError
    return at_s, prompt, output
