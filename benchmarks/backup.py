"""Measures what a backup costs: kivactl's adapter of restic against `tar | zstd` and against copying, and a second backup of the same data.

Run: .venv/bin/python benchmarks/backup.py [--sizes 1GiB,2GiB,4GiB] [--rounds 3] [--folder FOLDER] [--json FILE]

The data is made by a seed: half of it compresses to half its size (hexadecimal digits), half not at all (random bytes); a tenth lies in files of 4 to 64 KiB,
the rest in files of 64 MiB. All contenders take turns in each round, beginning with another one; each writes into an empty folder,
and `sync` is part of its time, so that what only reached memory does not count as saved. Figures are medians with the least and the
greatest; ratios are of the same round.

  first     kivactl: an encrypted, deduplicated, compressed copy in a new repository (making the repository is not counted: it happens once).
  second    kivactl: the same data once more, unchanged.
  tar+zstd  `tar --create | zstd -T0 -3`: compressed, neither encrypted nor incremental. Needs zstd: apt-get install zstd.
  copy      `cp --archive`: neither.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parents[1])]

from kivactl.plan import Status  # noqa: E402
from kivactl.spec.quantities import format_bytes, parse_bytes  # noqa: E402
from kivactl.stack.secret import Secret  # noqa: E402
from kivactl.tools.restic import Restic  # noqa: E402

NAMES = ("first", "second", "tar+zstd", "copy")
LARGE_BYTES = 64 * 2**20
TARGET_RATIO = 0.05
"""What a second backup of unchanged data may take of the first."""

Times = Mapping[str, float]


def main() -> None:
    options = _options()
    for program, advice in (("restic", "apt-get install restic"), ("zstd", "apt-get install zstd"), ("tar", "apt-get install tar")):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing; get it with: {advice}")
    rounds: dict[int, list[Times]] = {}
    stored: dict[int, dict[str, int]] = {}
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="kiva-bench-", dir=options.folder) as name:
            folder = Path(name)
            make_data(folder / "data", size, options.seed)
            rounds[size] = []
            for number in range(options.rounds):
                times, stored[size] = _round(folder, number)
                rounds[size].append(times)
                said = ", ".join(f"{name} {times[name]:.1f} s" for name in NAMES)
                print(f"{format_bytes(size)}, round {number + 1}: {said}; load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    version = subprocess.run(["restic", "version"], check=True, capture_output=True, text=True).stdout.split()[1]
    print(f"\nrestic {version}, {len(os.sched_getaffinity(0))} cores, {options.rounds} rounds: .venv/bin/python {' '.join(_command(options))}\n")
    print(table(rounds, stored))
    if options.json:
        figures = {str(size): {"rounds": list(times), "stored": stored[size]} for size, times in rounds.items()}
        options.json.write_text(json.dumps(figures, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2GiB", help="of the data, such as 1GiB,2GiB,4GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; room for four times the data is needed")
    parser.add_argument("--json", type=Path, help="file for the time of every round")
    options = parser.parse_args()
    try:
        options.sizes = [parse_bytes(text) for text in options.sizes.split(",")]
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def _command(options: argparse.Namespace) -> list[str]:
    return ["benchmarks/backup.py", "--sizes", ",".join(map(format_bytes, options.sizes)), "--rounds", str(options.rounds)]


def plan_data(size: int, seed: int) -> list[tuple[str, int, bool]]:
    """Name, size and whether it compresses, of every file; the sizes add up to the whole."""
    chance = random.Random(seed)
    files: list[tuple[str, int, bool]] = []
    left, number = size // 10, 0
    while left > 0:
        length = min(left, chance.randrange(4 * 2**10, 64 * 2**10))
        files.append((f"small/{number // 500}/{number}", length, number % 2 == 0))
        left, number = left - length, number + 1
    left, number = size - size // 10, 0
    while left > 0:
        length = min(left, LARGE_BYTES)
        files.append((f"large/{number}", length, number % 2 == 0))
        left, number = left - length, number + 1
    return files


def make_data(folder: Path, size: int, seed: int) -> None:
    chance = random.Random(seed)
    for name, length, compresses in plan_data(size, seed):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            left = length
            while left:
                part = min(left, 2**20)
                content = chance.randbytes(part // 2 + 1).hex().encode()[:part] if compresses else chance.randbytes(part)
                file.write(content)
                left -= len(content)


def _round(folder: Path, number: int) -> tuple[dict[str, float], dict[str, int]]:
    data, times, stored = folder / "data", {}, {}
    contenders: list[tuple[str, Callable[[Path], None]]] = [
        ("kivactl", lambda to: times.update(_backed_up(data, to))),
        ("tar+zstd", lambda to: times.update({"tar+zstd": _timed(lambda: _tar(data, to))})),
        ("copy", lambda to: times.update({"copy": _timed(lambda: _run("cp", "--archive", str(data), str(to / "copy")))})),
    ]
    turn = number % len(contenders)
    for name, act in contenders[turn:] + contenders[:turn]:
        to = folder / "to"
        to.mkdir()
        os.sync()  # what others wrote is not ours to wait for
        act(to)
        stored[name] = sum(path.stat().st_size for path in to.rglob("*") if path.is_file() and "cache" not in path.relative_to(to).parts)
        shutil.rmtree(to)
    return times, stored


def _backed_up(data: Path, to: Path) -> dict[str, float]:
    store = Restic(str(to / "repository"), Secret("of the benchmark"), to / "cache")
    store.make()
    os.sync()

    def once() -> None:
        if not store.exists or list(store.backup(data, ("benchmark",)))[-1].status is not Status.DONE:
            sys.exit("the backup failed")

    return {"first": _timed(once), "second": _timed(once)}


def _tar(data: Path, to: Path) -> None:
    with (to / "data.tar.zst").open("wb") as file:
        tar = subprocess.Popen(["tar", "--create", "--directory", str(data), "."], stdout=subprocess.PIPE)
        subprocess.run(["zstd", "-q", "-T0", "-3"], stdin=tar.stdout, stdout=file, check=True)
        if tar.wait():
            sys.exit("tar failed")


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


def _timed(act: Callable[[], None]) -> float:
    began = time.monotonic()
    act()
    os.sync()
    return time.monotonic() - began


def ratios(rounds: Sequence[Times], name: str, other: str) -> tuple[float, float, float]:
    """Median, least and greatest of one's time over the other's of the same round."""
    values = [times[name] / times[other] for times in rounds]
    return median(values), min(values), max(values)


def table(rounds: Mapping[int, Sequence[Times]], stored: Mapping[int, Mapping[str, int]]) -> str:
    """A Markdown table: a row for each size."""
    lines = [
        "| data | first backup | stored | tar + zstd | stored | first : tar + zstd | copy | first : copy | second backup | second : first |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size, times in rounds.items():
        first, tar, copy, second = (_spread([one[name] for one in times], "s") for name in ("first", "tar+zstd", "copy", "second"))
        part, least, most = (100 * value for value in ratios(times, "second", "first"))
        met = "" if part / 100 <= TARGET_RATIO else f", above the target of {TARGET_RATIO:.0%}"
        cells = [format_bytes(size), first, format_bytes(stored[size]["kivactl"]), tar, format_bytes(stored[size]["tar+zstd"])]
        cells += [f"{ratios(times, 'first', 'tar+zstd')[0]:.2f}", copy, f"{ratios(times, 'first', 'copy')[0]:.2f}", second]
        cells.append(f"{part:.1f} % ({least:.1f} - {most:.1f}){met}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], unit: str) -> str:
    return f"{median(values):.1f} {unit} ({min(values):.1f} - {max(values):.1f})"


if __name__ == "__main__":
    main()
