"""What the load generator's process is told to do: the scenario and the endpoint, without the token.

It lies in the run's folder as `scenario.json`; the token goes by an environment variable, so that it is in no file and
in no command line. Plain dataclass, no pydantic: the generator starts faster without it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kivactl.loadtest.prompts import prompt_for

FOLDER_VARIABLE = "KIVA_LOADTEST_FOLDER"
TOKEN_VARIABLE = "KIVA_LOADTEST_TOKEN"  # noqa: S105  # a name, not a token


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run of a load test. `seed` is always set; the rest is as in the scenario and the endpoint."""

    name: str
    url: str
    ca: str | None
    model: str
    concurrency: int
    warm_up_s: float
    duration_s: float
    timeout_s: float
    max_tokens: int
    temperature: float
    seed: int
    prompts: tuple[str, ...]
    prompt_words: int | None

    def prompt(self, index: int) -> str:
        """The prompt of the request with this number."""
        return prompt_for(self.prompts, self.prompt_words, self.seed, index)

    def request_body(self, index: int) -> bytes:
        """The encoded request with this number."""
        return json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": self.prompt(index)}],
                "max_tokens": self.max_tokens,
                "temperature": self.temperature,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()

    def to_json(self) -> str:
        """The assignment as indented JSON."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one run."""

    path: Path

    @property
    def scenario(self) -> Path:
        return self.path / "scenario.json"

    @property
    def records(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def end(self) -> Path:
        """Once this file is there the users ask nothing new, and the generator ends when what is under way is answered."""
        return self.path / "end"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.md"


def parse_assignment(text: str) -> Assignment:
    """Read what `to_json` wrote."""
    fields = json.loads(text)
    return Assignment(**{**fields, "prompts": tuple(fields["prompts"])})
