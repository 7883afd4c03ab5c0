"""What the terms of a load test's page mean: term, formula, definition."""

from __future__ import annotations

from kivactl.loadtest.page_probes import KNEEDLE

STAMPS = (
    "Of each request: s is the moment at which it was due, q the stamp when its first byte was about to be sent on an open connection, e_1 to e_k are its "
    "token events, z is the last of them, and N is the number of completion tokens that the engine counted (it contains reasoning). Stamps are taken right "
    "after bytes were received, of one monotonic clock, before anything is parsed."
)

TERMS: tuple[tuple[str, str, str], ...] = (
    (
        "Token event",
        "e_i",
        "An event with content, reasoning or a tool call. No token events are those with only a role, without content, or with usage alone.",
    ),
    ("TTFT", "e_1 − q", "Time to the first token. The time for a new connection is told separately."),
    (
        "TTFT from when it was due",
        "e_1 − s",
        "The same from the moment at which the request was due: free of coordinated omission. Open loops are judged by it.",
    ),
    ("TTFO", "", "Time from q to the first token that is not reasoning."),
    ("E2E", "z − q", "Time to the last token."),
    ("E2E from when it was due", "z − s", "The same from the moment at which the request was due."),
    (
        "TPOT",
        "(z − e_1) / (N − n_1)",
        "Mean time per further token; n_1 tokens came with the first event (1 where the engine does not say). Undefined for N ≤ n_1.",
    ),
    ("ICL", "e_i − e_(i−1)", "Gap between neighbouring token events, as they came."),
    (
        "ITL",
        "(e_i − e_(i−1)) / n_i, n_i times",
        "Time between neighbouring tokens: a gap over the n_i tokens that it brought. Where an engine joins tokens and does not count them, there is only ICL.",
    ),
    ("Percentile", "", "pX is the value that X per cent of all do not exceed; exact, of all records, linear between neighbours."),
    (
        "Failure",
        "",
        "A status other than 2xx, an error inside the stream, an end without a finish reason, an answer without a token, a timeout, or a truncated body.",
    ),
    ("Good request", "", "One that succeeded within every promised time; a request that failed, was cut off or never sent is not good."),
    ("Attainment", "good / due", "Share of good requests among all that were due, with its interval (95 %; those that depend on each other count less)."),
    ("Goodput", "good / window", "Good requests per second of the measured phase."),
    (
        "Measured phase",
        "",
        "Measured are requests that were due within it, each to its end however late. Rates count what came within it, whenever that was due.",
    ),
    ("Warm-up", "", "What was due before the measured phase; it counts in no figure and no service level."),
    (
        "Closed loop, open loop",
        "",
        "In a closed loop each user waits for an answer before asking again; in an open one requests arrive at moments of their own.",
    ),
    ("Invalid", "", "The generator was late, or did not send what was due: then it measured itself, and the figures say nothing about the platform."),
)
KNEE_TERM = (
    "Knee",
    "max(y − x), both scaled to 0..1",
    "The load at which the curve of throughput over load is farthest above its chord (Kneedle): from there on more load mostly makes requests wait. "
    f"Source: {KNEEDLE}.",
)
CAPACITY_TERM = ("Capacity", "", "The largest load that met the service levels, the last time it was tried.")
