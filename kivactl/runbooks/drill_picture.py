"""What a drill looked like: its requests, health and moments as a picture in a language; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kivactl.loadtest.record import Record
from kivactl.runbooks.figures import SERVING, Look, Story
from kivactl.tools.plot import Bars, Dots, Moment, Strip, Timeline, bins

_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "subtitle": "{users} users in a closed loop on '{model}'; run {run}",
        "from_fault": "Time since the fault (s)",
        "from_begin": "Time since the load began (s)",
        "rate": "Requests per second",
        "answered": "answered",
        "failed": "failed",
        "times": "Time to first\ntoken (s)",
        "token": "answered",
        "gone": "failed, time to failure",
        "serving": "serving",
        "not serving": "not serving",
        "fault": "fault",
        "noticed": "noticed, +{seconds} s",
        "recovered": "full capacity, +{seconds} s",
        "point": ".",
    },
    "de": {
        "subtitle": "{users} Nutzer in geschlossener Schleife auf „{model}“; Durchlauf {run}",
        "from_fault": "Zeit seit der Störung (s)",
        "from_begin": "Zeit seit Beginn der Last (s)",
        "rate": "Anfragen pro Sekunde",
        "answered": "beantwortet",
        "failed": "fehlgeschlagen",
        "times": "Zeit bis zum\nersten Token (s)",
        "token": "beantwortet",
        "gone": "fehlgeschlagen, Zeit bis dahin",
        "serving": "in Betrieb",
        "not serving": "nicht in Betrieb",
        "fault": "Störung",
        "noticed": "bemerkt, +{seconds} s",
        "recovered": "volle Leistung, +{seconds} s",
        "point": ",",
    },
}
_BINS = 120
"""About so many bins fit on the picture; they are at least half a second wide."""


def picture_for(story: Story, records: Sequence[Record], looks: Sequence[Look], *, title: str, run: str, model: str, users: int, language: str) -> Timeline:
    """The picture of a run under load; 0 is the fault, or the begin of the load when nothing was broken.

    Args:
        story: The moments.
        records: The requests.
        looks: The components, in order.
        title: Of the runbook, in the language.
        run: The run's name.
        model: What was asked.
        users: How many.
        language: `en` or `de`.
    """
    words = _WORDS["de" if language == "de" else "en"]
    zero_s = story.began_s if story.fault_s is None else story.fault_s
    start_s, end_s = story.began_s - zero_s, story.ended_s - zero_s
    bin_s = max(0.5, round((end_s - start_s) / _BINS * 2) / 2)
    good = [record for record in records if record.succeeded]
    bad = [record for record in records if record.failure is not None]
    return Timeline(
        title=title,
        subtitle=words["subtitle"].format(users=users, model=model, run=run),
        x_label=words["from_begin" if story.fault_s is None else "from_fault"],
        start_s=start_s,
        end_s=end_s,
        bin_s=bin_s,
        bars_label=words["rate"],
        good=Bars(words["answered"], bins([record.end_ns / 1e9 - zero_s for record in good], start_s, end_s, bin_s)),
        bad=Bars(words["failed"], bins([record.end_ns / 1e9 - zero_s for record in bad], start_s, end_s, bin_s)),
        dots_label=words["times"],
        dots=(
            Dots(words["token"], tuple((record.start_ns / 1e9 - zero_s, record.ttft_s) for record in good if record.ttft_s is not None)),
            Dots(words["gone"], tuple((record.start_ns / 1e9 - zero_s, (record.end_ns - record.start_ns) / 1e9) for record in bad)),
        ),
        strips=_strips(story, looks, zero_s),
        well=words["serving"],
        unwell=words["not serving"],
        moments=tuple(_moments(story, words)),
        decimal=words["point"],
    )


def _moments(story: Story, words: Mapping[str, str]) -> list[Moment]:
    if story.fault_s is None:
        return []
    moments = [Moment(words["fault"], 0.0)]
    for key, at_s in (("noticed", story.noticed_s), ("recovered", story.recovered_s)):
        if at_s is not None:
            since_s = at_s - story.fault_s
            moments.append(Moment(words[key].format(seconds=f"{since_s:.1f}".replace(".", words["point"])), since_s))
    return moments


def _strips(story: Story, looks: Sequence[Look], zero_s: float) -> tuple[Strip, ...]:
    names = list(dict.fromkeys(name for look in looks for name in look.components))
    return tuple(Strip(name, _spans(name, looks, story, zero_s)) for name in names)


def _spans(name: str, looks: Sequence[Look], story: Story, zero_s: float) -> tuple[tuple[float, float, bool], ...]:
    """The looks before the load tell how it was when the load began."""
    spans: list[tuple[float, float, bool]] = []
    for look in looks:
        if look.at_s > story.ended_s:
            break
        well, at_s = look.components.get(name, ("", ""))[0] == SERVING, max(look.at_s, story.began_s) - zero_s
        if spans and spans[-1][2] == well:
            continue
        if spans:
            spans[-1] = (spans[-1][0], at_s, spans[-1][2])
        spans.append((at_s, at_s, well))
    if spans:
        spans[-1] = (spans[-1][0], story.ended_s - zero_s, spans[-1][2])
    return tuple(spans)
