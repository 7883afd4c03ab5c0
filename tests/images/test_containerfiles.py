"""What every Containerfile keeps to: pinned bases, nothing fetched by address, no secrets, user 1000, labels."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "images"
NAMES = ["engine-cpu", "gateway", "tools"]
LABELS = ("title", "description", "licenses", "version", "revision")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
SECRET = re.compile(r"(?i)(token|passw|secret|api_?key|credential)")


def instructions(text):
    """Pairs of instruction and what follows it, lines joined."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    return [(word.upper(), " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def faults(text):
    found, given, stages, user = [], {}, set(), ""
    every = instructions(text)
    for word, rest in every:
        match word:
            case "ARG" | "ENV":
                for name, _, value in (pair.partition("=") for pair in re.findall(r'[A-Za-z_]+=(?:"[^"]*"|\S*)|^\w+$', rest)):
                    given[name] = value.strip('"')
                    if SECRET.search(name):
                        found.append(f"a secret: {name}")
            case "FROM":
                image, _, stage = rest.partition(" AS ")
                resolved = re.sub(r"\$\{(\w+)\}", lambda match: given.get(match[1], ""), image)
                if resolved not in stages and not DIGEST.search(resolved):
                    found.append(f"no digest: {image}")
                stages.add(stage)
                user = ""
            case "USER":
                user = rest
            case "ADD":
                found.append(f"ADD: {rest}")
            case "COPY" if "." in rest.split():
                found.append("COPY of everything")
            case "RUN" | "COPY" if user == "1000:1000":
                found.append(f"{word} after USER")
        if word in {"RUN", "COPY"} and re.search(r"https?://|\bcurl\b|\bwget\b|\bsudo\b", rest):
            found.append(f"fetched by address: {rest}")
        if word == "RUN" and "apt-get install" in rest and "--no-install-recommends" not in rest:
            found.append("recommended packages")
        if word in {"CMD", "ENTRYPOINT"} and not rest.startswith("["):
            found.append(f"{word} through a shell")
    if user != "1000:1000":
        found.append(f"user: {user or 'root'}")
    labels = " ".join(rest for word, rest in every if word == "LABEL")
    return found + [f"no label {name}" for name in LABELS if f"org.opencontainers.image.{name}=" not in labels]


@pytest.mark.parametrize("name", NAMES)
def test_each_keeps_to_them(name):
    assert faults((IMAGES / name / "Containerfile").read_text()) == []


def test_there_is_no_other():
    assert sorted(path.parent.name for path in IMAGES.glob("*/Containerfile")) == NAMES


GOOD = (IMAGES / "tools" / "Containerfile").read_text()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("USER 1000:1000", "USER root"), "user: root"),
        (("USER 1000:1000", ""), "user: root"),
        (("@sha256:" + 64 * "0", ":latest"), "no digest: ${BASE}"),
        (("FROM ${BASE} AS packages", "FROM python:3.11"), "no digest: python:3.11"),
        (("ARG VERSION=0", "ARG HF_TOKEN\nARG VERSION=0"), "a secret: HF_TOKEN"),
        (("HOME=/tmp", 'HOME=/tmp DB_PASSWORD="x"'), "a secret: DB_PASSWORD"),
        (("COPY requirements.txt /build/requirements.txt", "ADD https://example.org/x /x"), "ADD: https://example.org/x /x"),
        (("COPY requirements.txt /build/requirements.txt", "COPY . /build"), "COPY of everything"),
        (("COPY requirements.txt /build/requirements.txt", "RUN curl -o /x example.org"), "fetched by address: curl -o /x example.org"),
        (("COPY requirements.txt /build/requirements.txt", "RUN apt-get install -y gcc"), "recommended packages"),
        (("USER 1000:1000", "USER 1000:1000\nRUN true"), "RUN after USER"),
        (("org.opencontainers.image.revision", "revision"), "no label revision"),
        (('CMD ["python3", "-m", "kivactl", "--help"]', "CMD kivactl --help"), "CMD through a shell"),
    ],
)
def test_whoever_does_not_is_found_out(change, fault):
    assert change[0] in GOOD
    assert fault in faults(GOOD.replace(*change))


def test_the_gateway_starts_envoy_and_has_what_holds_its_end():
    text = instructions((IMAGES / "gateway/Containerfile").read_text())
    assert ("ENTRYPOINT", '["/usr/local/bin/envoy"]') in text
    assert ("COPY", "--chmod=0755 drain /usr/local/bin/drain") in text
    assert (IMAGES / "gateway/drain").stat().st_mode & 0o111


@pytest.mark.parametrize("script", ["build", "gateway/drain"])
def test_scripts_are_sound(script):
    subprocess.run(["bash", "-n", IMAGES / script], check=True, timeout=20)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", IMAGES / script], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("words", [["--help"], ["engine-gpu"]])
def test_the_build_says_how_it_is_called(words):
    done = subprocess.run([IMAGES / "build", *words], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Builds the images")
    assert "--base REF" in done.stderr
    assert "set -e" not in done.stderr
