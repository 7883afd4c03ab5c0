"""What all tests share: no time limits on generated cases, a clean environment, the command line as a function."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("kivactl", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("kivactl"), max_examples=20)  # after every change; all 100 are part of `make test`
settings.load_profile("kivactl")

# Thousands of tests are a million objects, and looking through them for garbage again and again took a fifth of the time.
gc.set_threshold(100_000, 20, 50)

# Whoever is started in the background (`pytest &`, nohup) ignores Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """The tests stay until the end: the collector need not look at them any more."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Transcript:
    """What a command line left behind."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests reaches them."""
    for name in [name for name in os.environ if name.startswith(("KIVACTL_", "_KIVACTL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def kivactl(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Transcript]:
    """Run a command line in this process, in the folder `tmp_path`."""
    from kivactl.cli.boundary import run

    monkeypatch.chdir(tmp_path)

    def transcript(*argv: str) -> Transcript:
        capsys.readouterr()
        code = run(argv)
        captured = capsys.readouterr()
        return Transcript(code, captured.out, captured.err)

    return transcript


@pytest.fixture
def completed(kivactl: Callable[..., Transcript], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Transcript]:
    """What bash is offered for a line that is not finished, asked in this process, in the folder `tmp_path`."""

    def transcript(line: str, environment: dict[str, str] | None = None) -> Transcript:
        with monkeypatch.context() as patched:
            asked = {"_KIVACTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
            for name, value in {**asked, **(environment or {})}.items():
                patched.setenv(name, value)
            return kivactl()

    return transcript


@pytest.fixture
def kivactl_process(tmp_path: Path) -> Callable[..., Transcript]:
    """Run a command line as a process of its own, in the folder `tmp_path`."""

    def transcript(*argv: str, environment: dict[str, str] | None = None) -> Transcript:
        done = subprocess.run(
            [sys.executable, "-m", "kivactl", *argv],
            cwd=tmp_path,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        return Transcript(done.returncode, done.stdout, done.stderr)

    return transcript


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `localhost` and 127.0.0.1 that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    _openssl("req", "-x509", *_P256, "-nodes", "-subj", "/CN=localhost", "-days", "2", "-addext", names, "-keyout", key, "-out", certificate)
    return certificate, key


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A private key (PEM) that signs tokens."""
    path = tmp_path_factory.mktemp("keys") / "signing.key"
    _openssl("genpkey", "-algorithm", *_P256[1:], "-out", path)
    return path.read_bytes()


_P256 = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
