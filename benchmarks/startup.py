"""Prints the time of each phase of `up`: cold (no prepared model, no certificates), warm (model prepared), and repeated.

Run: .venv/bin/python benchmarks/startup.py [--port PORT]

Every figure is wall-clock seconds of a whole `kivactl` process in one run on this machine; the last column is the ratio
to the cold figure of the same phase.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = ("provision", "deploy", "deploy again", "chat", "status", "up again", "down")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4090, help="port of the gateway while measuring")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kiva-bench-"))
    try:
        spec = folder / "kiva.yaml"
        kivactl(folder, "init", "--name", "bench")
        text = spec.read_text().replace("port: 4000", f"port: {options.port}")
        if f"port: {options.port}" not in text:
            sys.exit("the spec that init writes has no 'port: 4000' to replace")
        spec.write_text(text)
        overlay = folder / "kiva.bench.yaml"
        overlay.write_text(f"storage:\n  cache: {folder / 'cache'}\n")
        cold = measured(folder)
        shutil.rmtree(folder / ".kiva")
        warm = measured(folder)
    finally:
        subprocess.run([sys.executable, "-m", "kivactl", "--env", "bench", "down", "--yes"], cwd=folder, check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'phase':<16}{'cold':>10}{'warm':>10}{'warm/cold':>12}")
    for phase in PHASES:
        print(f"{phase:<16}{cold[phase]:>9.2f}s{warm[phase]:>9.2f}s{warm[phase] / cold[phase]:>12.2f}")
    print(f"{'sum to serve':<16}{cold['provision'] + cold['deploy']:>9.2f}s{warm['provision'] + warm['deploy']:>9.2f}s")


def measured(folder: Path) -> dict[str, float]:
    """Seconds of each phase, in order; the platform is down before and after."""
    commands = {
        "provision": ["provision", "--yes"],
        "deploy": ["deploy", "--yes"],
        "deploy again": ["deploy", "--yes"],
        "chat": ["chat", "What is the capital of Germany?"],
        "status": ["status"],
        "up again": ["up", "--yes"],
        "down": ["down", "--yes"],
    }
    return {phase: kivactl(folder, "--env", "bench", *commands[phase]) for phase in PHASES}


def kivactl(folder: Path, *arguments: str) -> float:
    """Seconds of one command; ends the benchmark when it fails."""
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-m", "kivactl", *arguments], cwd=folder, check=False, capture_output=True, text=True)
    took_s = time.monotonic() - began
    if result.returncode != 0:
        sys.exit(f"kivactl {' '.join(arguments)} failed with {result.returncode}:\n{result.stderr}")
    return took_s


if __name__ == "__main__":
    main()
