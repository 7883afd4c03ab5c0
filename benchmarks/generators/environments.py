"""The environments of the generators: each below the cache folder, made when it is missing, nothing but packages from an index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CACHE = Path("~/.cache/kivactl/benchmarks").expanduser()

PACKAGES: Mapping[str, tuple[str, str]] = {
    "aiperf": ("0.13.0", "3.10"),
    "genai-bench": ("0.0.5", "3.10"),
    "guidellm": ("0.8.1", "3.10"),
    "inference-endpoint": ("0.1.0", "3.12"),
    "inference-perf": ("0.7.0", "3.12"),
}
"""Version, and the oldest Python it runs on. What is not here lives beside this Python."""

NOT_INDEXED: Mapping[str, str] = {"inference-endpoint": "git+https://github.com/mlcommons/endpoints@ea3327530376fef63d706f4105612e17c2c80a8d"}
"""Where that is which no index has. Its environment may also be made by hand, from a copy: `pip install FOLDER` in CACHE/inference-endpoint."""

QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "AIPERF_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Nobody is told of a run, and nothing is fetched for it."""


class MissingError(Exception):
    """A generator cannot be had here; says why."""


def programs_of(package: str | None, cache: Path) -> Path:
    """The folder with a package's programs, installed if need be.

    Raises:
        MissingError: It cannot be installed.
    """
    if package is None:
        return Path(sys.executable).parent
    version, oldest = PACKAGES[package]
    folder = cache / package
    if version_in(folder, package) != version:
        _install(folder, NOT_INDEXED.get(package, f"{package}=={version}"), _python(oldest))
    return folder / "bin"


def version_in(folder: Path, package: str) -> str | None:
    """The version of a package in an environment; None when it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        return None
    asks = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", asks], check=False, capture_output=True, text=True)
    return done.stdout.strip() or None


def _python(oldest: str) -> str:
    """A Python that is new enough: this one or one on PATH, also where pyenv keeps them."""
    wanted = tuple(int(part) for part in oldest.split("."))
    if sys.version_info[:2] >= wanted:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(wanted[1], wanted[1] + 4)]
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for name in names:
        kept = sorted(root.glob(f"3.*/bin/{name}"))
        for candidate in (shutil.which(name), *kept):
            # pyenv's shims are there for every version and run none that is not chosen.
            if candidate and subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
                return str(candidate)
    raise MissingError(f"needs Python {oldest}, which is not here")


def _install(folder: Path, requirement: str, python: str) -> None:
    print(f"{folder.name}: installing {requirement} into {folder}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([python, "-m", "venv", "--clear", folder], check=False, capture_output=True, text=True)
    if done.returncode == 0:
        done = subprocess.run([folder / "bin" / "pip", "install", "-q", requirement], check=False, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise MissingError(f"{requirement} cannot be installed: {said[-1] if said else 'no reason given'}")


def tokenizer_in(folder: Path) -> Path:
    """A tiny tokenizer with its chat template, made on the spot; the generators need one to make prompts."""
    made = folder / "tokenizer"
    if not (made / "tokenizer_config.json").exists():
        maker = Path(__file__).parents[2] / "tests" / "tiny_model.py"
        subprocess.run([sys.executable, maker, made], check=True, capture_output=True)
        # The engine it pretends to belong to takes long prompts.
        config = made / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 131_072}))
    return made
