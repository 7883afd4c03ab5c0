"""Draws what a command shows on a terminal as an SVG picture: `python docs/picture.py OUT.svg COMMAND ARGUMENT...`."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 110
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg"><style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}</style><defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


def main() -> None:
    """Record, draw, write."""
    out, *argv = sys.argv[1:]
    Path(out).write_text(drawn(argv, final_screen(recorded(argv))))


def drawn(argv: list[str], screen: str) -> str:
    """The picture of a screen; tokens are secrets and folders private, also in pictures."""
    here = Path.cwd()
    screen = re.sub(r"eyJ[\w.-]+", "eyJhbGciOiJFUzI1NiIs...", screen)
    screen = screen.replace(str(here), "~/kivactl").replace(f" {here.name} ", " kivactl ").replace(f" {here.name}:", " kivactl:").replace(str(Path.home()), "~")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Text("$ " + " ".join(argv), style="bold"))
    console.print(Text.from_ansi(screen))
    return console.export_svg(title="kivactl", code_format=FORMAT)


def recorded(argv: list[str]) -> str:
    """All that a command writes to its terminal."""
    chunks: list[bytes] = []

    def read(descriptor: int) -> bytes:
        chunks.append(os.read(descriptor, 65536))
        return chunks[-1]

    os.environ.update(COLUMNS=str(WIDTH), LINES="50", TERM="xterm-256color")
    pty.spawn(argv, read)
    return b"".join(chunks).decode()


def final_screen(stream: str) -> str:
    """What stays on the screen: lines that were overwritten by moving up are gone, colours stay."""
    lines: list[str] = []
    for line in stream.replace("\r\n", "\n").split("\n"):
        ups = sum(int(count or 1) for count in re.findall(r"\x1b\[(\d*)A", line))
        if ups:
            del lines[-ups:]
        text = re.sub(r"\x1b\[\??\d*[A-HJKhlsu]", "", line).split("\r")[-1]
        lines.append(text)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
