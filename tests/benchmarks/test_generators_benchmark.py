"""The comparison of load generators: what it asks them, how it reads what they wrote, and what it makes of it."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORDED = Path(__file__).parent / "generators"


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def known():
    from generators.contenders import all_contenders

    return all_contenders()


def near(value):
    return pytest.approx(value, abs=0.01)


# What each wrote after 3 streams of 10 tokens, TTFT 200 ms and ITL 20 ms; a fifth of the requests with an error inside the stream, but for
# inference-perf and genai-bench.
FIGURES = {
    "kivactl": {"requests": 24, "failed": 6, "ttft_p50_ms": 200.45, "gap_p99_ms": 20.61, "itl_p50_ms": 19.99, "tpot_p99_ms": 20.17, "e2e_p50_ms": 380.53},
    "vllm-bench": {"requests": 24, "failed": 0, "ttft_p99_ms": 207.47, "gap_p99_ms": 23.24, "itl_p99_ms": 23.24, "tpot_p99_ms": 20.53, "e2e_p50_ms": 382.15},
    "aiperf": {"requests": 24, "failed": 0, "ttft_p99_ms": 210.50, "gap_p99_ms": 27.73, "itl_p99_ms": 20.66, "tpot_p99_ms": 20.66, "e2e_p99_ms": 389.24},
    "guidellm": {"requests": 19, "failed": 5, "ttft_p50_ms": 201.05, "gap_p50_ms": None, "itl_p99_ms": 20.14, "tpot_p50_ms": 19.98, "e2e_p99_ms": 386.92},
    "inference-perf": {
        "requests": 24,
        "failed": 0,
        "ttft_p99_ms": 203.32,
        "gap_p99_ms": 20.44,
        "itl_p50_ms": 20.00,
        "tpot_p99_ms": 20.03,
        "e2e_p50_ms": 381.40,
    },
    "genai-bench": {"requests": 30, "failed": 0, "ttft_p99_ms": 225.35, "gap_p50_ms": None, "itl_p50_ms": 20.52, "tpot_p99_ms": 21.67, "e2e_p99_ms": 411.55},
    "mlcommons": {"requests": 24, "failed": 0, "ttft_p99_ms": 202.56, "gap_p50_ms": None, "itl_p50_ms": 19.98, "tpot_p99_ms": 24.99, "e2e_p50_ms": 381.42},
    "locust-http": {"requests": 16, "failed": 0, "ttft_p99_ms": 220, "gap_p99_ms": 65, "itl_p50_ms": 20, "tpot_p99_ms": 27, "e2e_p99_ms": 450},
}


@pytest.mark.parametrize("name", FIGURES)
def test_what_a_generator_wrote_is_read(known, name):
    figures = known[name].parse(RECORDED / name)
    for field, expected in FIGURES[name].items():
        assert getattr(figures, field) == (None if expected is None else near(expected)), field
    assert 1 < figures.attained_rps < 10


@pytest.mark.parametrize("name", FIGURES)
def test_a_generator_that_wrote_nothing_has_no_figures(known, name, tmp_path):
    with pytest.raises((OSError, ValueError)):
        known[name].parse(tmp_path)


def load_of(**fields):
    from generators.loads import Load

    return Load(**{"kind": "closed", "seconds": 8, "tokens": 100, "service_s": 2.0, "streams": 50, "ramp_s": 2.0, "seed": 7, **fields})


def command_of(known, name, load):
    from generators.loads import Target

    return known[name].command(load, Target("http://127.0.0.1:8000", "demo", Path("/tokenizer")), Path("/programs"))


def option(argv, name):
    return argv[argv.index(name) + 1] if name in argv else None


def test_how_much_a_load_is():
    assert load_of().requests == 200
    assert load_of(kind="poisson", rate_per_s=25.0).requests == 200
    assert load_of(seconds=0.5).requests == 50


def test_vllm_bench_is_asked(known):
    argv = command_of(known, "vllm-bench", load_of()).argv
    assert argv[0] == "/programs/python"
    asked = [option(argv, name) for name in ("--num-prompts", "--max-concurrency", "--request-rate", "--burstiness", "--random-output-len", "--seed")]
    assert asked == ["200", "50", "25", "1e+06", "100", "7"]
    argv = command_of(known, "vllm-bench", load_of(kind="poisson", rate_per_s=40.0)).argv
    assert [option(argv, name) for name in ("--num-prompts", "--max-concurrency", "--request-rate", "--burstiness")] == ["320", None, "40", None]
    assert option(command_of(known, "vllm-bench", load_of(kind="constant", rate_per_s=40.0)).argv, "--burstiness") == "1e+06"


def test_aiperf_is_asked(known):
    command = command_of(known, "aiperf", load_of())
    asked = [option(command.argv, name) for name in ("--request-count", "--concurrency", "--concurrency-ramp-duration", "--request-rate", "--osl")]
    assert asked == ["200", "50", "2", None, "100"]
    assert command.env["HF_HUB_OFFLINE"] is None
    argv = command_of(known, "aiperf", load_of(kind="constant", rate_per_s=40.0)).argv
    assert [option(argv, name) for name in ("--concurrency", "--request-rate", "--arrival-pattern")] == [None, "40", "constant"]


def test_guidellm_is_asked(known):
    argv = command_of(known, "guidellm", load_of()).argv
    assert option(argv, "--profile") == "kind=concurrent,streams=50,rampup_duration=2"
    assert option(argv, "--constraint") == "kind=max_requests,count=200"
    assert option(command_of(known, "guidellm", load_of(kind="poisson", rate_per_s=40.0)).argv, "--profile") == "kind=poisson,rate=40"


def test_inference_perf_is_asked(known):
    config = json.loads(command_of(known, "inference-perf", load_of()).files["config.yaml"])
    assert (config["load"]["type"], config["load"]["stages"]) == ("concurrent", [{"num_requests": 200, "concurrency_level": 50}])
    config = json.loads(command_of(known, "inference-perf", load_of(kind="poisson", rate_per_s=40.0)).files["config.yaml"])
    assert (config["load"]["type"], config["load"]["stages"]) == ("poisson", [{"rate": 40.0, "duration": 8}])
    assert config["data"]["output_distribution"]["mean"] == 100


def test_genai_bench_is_asked(known):
    argv = command_of(known, "genai-bench", load_of()).argv
    asked = [option(argv, name) for name in ("--traffic-scenario", "--num-concurrency", "--max-requests-per-run", "--max-time-per-run", "--spawn-rate")]
    assert asked == ["D(32,100)", "50", "200", "1", "25"]


def test_searches_are_asked_and_read(known, tmp_path):
    from generators.loads import Found, Goal, Target

    goal = Goal(400, 0.95, 5, 31, limit=256)
    target = Target("http://127.0.0.1:8000", "demo", Path("/tokenizer"))
    argv = known["aiperf"].search(goal, target, Path("/programs")).argv
    assert [option(argv, name) for name in ("--search-recipe", "--ttft-sla-ms", "--concurrency-max")] == ["max-concurrency-under-sla", "400", "256"]
    argv = known["guidellm"].search(goal, target, Path("/programs")).argv
    assert option(argv, "--profile") == "kind=goodput,target_attainment=0.95,max_streams=256"
    assert json.loads(option(argv, "--metrics")) == {"kind": "generative", "slo": {"ttft_ms": 400}}
    (tmp_path / "search_history.json").write_text('{"boundary_summary": {"feasible_max": {"value": 22, "iteration_idx": 7}}}')
    assert known["aiperf"].found(tmp_path) == Found("streams", 22)
    (tmp_path / "result.json").write_text('{"conclusions": [{"probes": [], "best_passing_streams": 17}]}')
    assert known["guidellm"].found(tmp_path) == Found("streams", 17)
    assert known["vllm-bench"].search is None


def test_the_capacity_of_the_mock_engine():
    from generators.capacity import Queue

    queue = Queue(ttft_s=0.1, spread_s=0.1, rest_s=0.3, capacity=16)
    assert queue.attainment_of_streams(16, limit_s=0.2, requests=2000) == 1  # nobody waits
    assert queue.attainment_of_rate(1, limit_s=0.2, requests=2000) == 1
    assert queue.attainment_of_rate(60, limit_s=0.4, requests=2000) < 0.1  # more than it can serve
    streams, rate = queue.streams_within(0.4, 0.95), queue.rate_within(0.4, 0.95)
    assert queue.attainment_of_streams(streams, 0.4) >= 0.95 > queue.attainment_of_streams(streams + 1, 0.4)
    assert 16 < streams < 32
    assert queue.attainment_of_rate(rate, 0.4) >= 0.95 > queue.attainment_of_rate(rate * 1.01, 0.4)
    # 450 ms a request on average: never more than 35.6 a second
    assert 25 < rate < 35.6


def test_mlcommons_endpoints_is_asked(known):
    command = command_of(known, "mlcommons", load_of())
    assert [option(command.argv, name) for name in ("--load-pattern", "--concurrency", "--num-samples", "--max-output-tokens")] == [
        "concurrency",
        "50",
        "200",
        "100",
    ]
    assert len(command.files["prompts.jsonl"].splitlines()) == 64
    argv = command_of(known, "mlcommons", load_of(kind="poisson", rate_per_s=40.0)).argv
    assert [option(argv, name) for name in ("--load-pattern", "--target-qps")] == ["poisson", "40"]


@pytest.mark.parametrize("name", ["locust-http", "locust-fast"])
def test_locust_is_asked(known, name):
    command = command_of(known, name, load_of())
    assert [option(command.argv, one) for one in ("--users", "--spawn-rate", "--run-time")] == ["50", "25", "8s"]
    compile(command.files["locustfile.py"], "locustfile.py", "exec")
    command = command_of(known, name, load_of(kind="constant", rate_per_s=10.0))
    assert option(command.argv, "--users") == "40"
    assert "constant_throughput(0.25)" in command.files["locustfile.py"]


def test_kivactl_is_asked(known):
    command = command_of(known, "kivactl", load_of())
    scenario = json.loads(command.files["scenario.yaml"])
    assert (scenario["load"], scenario["duration"], scenario["output"]) == ({"users": 50}, "8s", {"tokens": 100})
    scenario = json.loads(command_of(known, "kivactl", load_of(kind="poisson", rate_per_s=10.0)).files["scenario.yaml"])
    assert scenario["load"] == {"rate": 10.0, "arrivals": "poisson"}


def request(arrived_ms=0.0, sent_ms=(200.0, 220.0, 240.0), late_ms=0.0, **fields):
    """A request whose stamps are given in milliseconds after its arrival."""
    from generators.truth import Request

    arrived = round(arrived_ms * 1e6)
    sent = tuple(arrived + round(one * 1e6) for one in sent_ms)
    known = {"number": 0, "id": "r", "connection": 0, "chat": True, "stream": True, "bytes": 100, "tokens": len(sent), "fault": "", "how": "finished"}
    due = tuple(one - round(late_ms * 1e6) for one in sent)
    return Request(**{**known, "accepted_ns": 0, "arrived_ns": arrived, "due_ns": due, "sent_ns": sent, **fields})


def truth_of(*requests):
    from generators.truth import Truth

    return Truth(requests, 1, 0.1)


def test_the_truth_of_a_request():
    one = request(sent_ms=(200, 220, 240), tokens=9)
    assert (one.ttft_ms, one.e2e_ms, one.gaps_ms) == (200, 240, [20, 20])
    assert one.itl_ms(4) == [5, 5, 5, 5, 20]  # the last event has one token left
    assert one.tpot_ms(4) == 40 / 5
    assert one.tpot_ms(9) is None


def test_a_mock_engine_that_was_late():
    from generators.truth import LATE_MS

    assert truth_of(request(late_ms=0.1)).late_p99_ms < LATE_MS < truth_of(request(late_ms=0.9)).late_p99_ms
    assert truth_of().late_p99_ms == 0


def test_a_truth_file_is_read_and_a_cut_one_is_not(tmp_path):
    from dataclasses import asdict

    from generators.truth import read_truth

    line = json.dumps(asdict(request()))
    file = tmp_path / "truth.jsonl"
    file.write_text(f'{line}\n{{"requests": 1, "connections": 1, "cpu_s": 0.5}}\n')
    assert read_truth(file).requests == (request(),)
    file.write_text(f'{line}\n{{"requests": 2, "connections": 1, "cpu_s": 0.5}}\n')
    with pytest.raises(ValueError, match="has 1 of 2 requests"):
        read_truth(file)


def test_percentiles_are_numpys():
    import numpy as np
    from generators.truth import percentile

    values = [random.Random(3).expovariate(1) for _ in range(97)]
    assert [percentile(values, one) for one in (0, 37, 50, 99, 100)] == pytest.approx(np.percentile(values, [0, 37, 50, 99, 100]).tolist())


def test_errors_are_held_against_the_same_figure_of_the_truth():
    from generators.judging import errors_of
    from generators.loads import Figures

    truth = truth_of(request(), request(), request(how="fault", sent_ms=(900.0,)), request(how="gone"))
    errors = errors_of(Figures(2, ttft_p50_ms=201, ttft_p99_ms=203, gap_p99_ms=21, itl_p50_ms=25, tpot_p99_ms=99), truth)
    assert (errors.ttft_p50, errors.ttft_p99, errors.itl_p50, errors.gap_p99, errors.missed) == (1, 3, 5, 1, 0)
    errors = errors_of(Figures(3, tpot_p99_ms=22), truth, ahead=1)
    assert (errors.ttft_p50, errors.itl_p50, errors.gap_p99, errors.missed) == (None, None, 2, 2)
    assert errors_of(Figures(3), truth_of()).missed == 3
    later = truth_of(request(0), request(500, sent_ms=(300, 320)), request(900))
    assert errors_of(Figures(1, ttft_p50_ms=301, window_ns=(500_000_000, 900_000_000)), later).ttft_p50 == 1


def test_streams_that_were_open():
    from generators.judging import streams_of

    assert streams_of(truth_of(*(request(start, (0, 100)) for start in (0, 0, 100, 100, 200))), after_s=0) == 2


def test_arrivals():
    from generators.judging import arrivals_s, rate_of, variation_of

    even = arrivals_s(truth_of(*(request(50.0 * number) for number in range(21))))
    assert (rate_of(even), variation_of(even)) == (pytest.approx(20), pytest.approx(0, abs=1e-6))
    assert arrivals_s(truth_of(request(0), request(500), request(600)), ahead=1) == [0, pytest.approx(0.1)]
    assert arrivals_s(truth_of(request(0), request(500), request(600), request(900)), ahead=1, window_ns=(500_000_000, 900_000_000)) == [0, pytest.approx(0.1)]
    assert arrivals_s(truth_of(request(0)), window_ns=(1_000_000_000, 2_000_000_000)) == []
    assert (rate_of([0.0]), variation_of([0.0])) == (0, 0)


def test_the_kolmogorov_smirnov_test():
    from generators.judging import exponential_p

    def drawn(seed, rate):
        source, at, found = random.Random(seed), 0.0, []
        for _ in range(500):
            at += source.expovariate(rate)
            found.append(at)
        return found

    rejected = sum(exponential_p(drawn(seed, 20), 20) < 0.05 for seed in range(100))
    assert 1 <= rejected <= 12
    assert exponential_p(drawn(1, 20), 30) < 1e-6
    assert exponential_p([number / 20 for number in range(500)], 20) < 1e-6
    assert exponential_p([0.0], 20) == 1


@pytest.mark.parametrize(("real", "found"), [(777, 768), (64, 64), (5, 5), (1, 1), (0, 0), (10**6, 4096)])
def test_the_most_that_passes(real, found):
    from generators.judging import most

    asked = []

    def passes(number):
        asked.append(number)
        return number <= real

    assert most(passes, 64, 4096) == found
    assert len(asked) == len(set(asked)) < 15


@pytest.mark.parametrize("start", [1, 2, 600, 777, 778, 1000, 4096])
def test_the_most_is_found_with_few_tries_from_near(start):
    from generators.judging import most

    asked = []

    def passes(number):
        asked.append(number)
        return number <= 777

    found = most(passes, start, 4096, tolerance=0.08, step=1.25)
    assert found <= 777 < found * 1.08 + 1
    assert len(asked) == len(set(asked))
    if start in {600, 777, 778}:
        assert len(asked) <= 5


def test_what_users_saw_of_a_freeze():
    from generators.judging import frozen_percentile_ms, percentile

    ttft, seconds, frozen = 100.0, 20.0, 2.0
    waits = []
    for at in (number * seconds / 20_000 for number in range(20_000)):
        token_due = at + ttft / 1000
        waits.append(ttft + (frozen * 1000 if at < 7 <= token_due else (7 + frozen - at) * 1000 if 7 <= at < 7 + frozen else 0))
    for percent in (50, 95, 99, 99.9):
        assert frozen_percentile_ms(percent, ttft, seconds, frozen) == pytest.approx(percentile(waits, percent), abs=1)


def a_run(**fields):
    errors = {"ttft_p50": 0.4, "ttft_p99": 1.2, "itl_p50": -0.01, "gap_p99": 0.7, "missed": 0}
    return {"broken": "", "errors": errors, "figures": {"requests": 100}, "cpu_s": 1.0, **fields}


def test_the_report():
    from generators.protocol import MODES
    from generators.report import report

    missed = a_run(errors={**a_run()["errors"], "missed": 9})
    results = {
        "A": [{"one": dict.fromkeys(MODES, a_run()), "other": {**dict.fromkeys(MODES, missed), "plain": {"broken": "ended with 1: no"}}}],
        "B": [{"one": {"most": most, "tries": [a_run(streams=most, passes=True), a_run(streams=2 * most, passes=False)]}} for most in (100, 120, 140)],
        "C": [
            {
                "one": {"most": 0, "tries": [a_run(per_s=1, passes=False)]},
                "other": {"most": 80, "tries": [a_run(per_s=per_s, passes=True, right=per_s < 50, ks_p=0.2, variation=1.01) for per_s in (40, 80)]},
            },
            # a later round tries no low rates
            {"other": {"most": 80, "tries": [a_run(per_s=80, passes=True, right=False, ks_p=0.2, variation=1.01)]}},
        ],
        "D": [{"one": a_run(issued=0.8, p99_off=None), "other": {"broken": "did not end within 9 s"}}],
        "E": [{"one": {"broken": "", "domain": "streams", "found": 22.0, "true": 20, "sent": 900, "wall_s": 80.2}}],
        "F": [{"one": a_run(bytes=212_345.0, passes=True), "other": {"broken": "ended with 1"}}],
    }
    text = report(results, {"one": "as it is"})
    assert "| plain | +0.40 / -0.01 | ended with 1 |" in text
    assert "| truncated | +0.40 / -0.01 | +0.40 / -0.01; 9 |" in text
    assert "| one | 120 (100 to 140) | +1.2 (+1.2 to +1.2) | +0.7 (+0.7 to +0.7) | 3 | 6 |" in text
    assert "| one | 0 | 0 | - | - | - | 1 |" in text
    assert "| other | 80 (80 to 80) | 40 | +1.2 (+1.2 to +1.2) | 0.200 (0.200 to 0.200) | 1.01 (1.01 to 1.01) | 3 |" in text
    assert "| one | 80.0 | - |  |" in text
    assert "| other | - | - | did not end within 9 s |" in text
    assert "| one | 22 streams | 20.0 | +10.0 | 900 | 80 |  |" in text
    assert "| one | +0.4 | +1.2 | -0.0 | 212 | 1.0 | passes 1 of 1 |" in text
    assert "| other | - | - | - | - | - | passes 0 of 1; ended with 1 |" in text
    assert text.endswith("- one: as it is\n")


def test_a_generator_that_needs_a_newer_python(monkeypatch, tmp_path):
    from generators import environments

    monkeypatch.setattr(environments, "PACKAGES", {"inference-perf": ("0.7.0", "3.99")})
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(environments.MissingError, match=r"needs Python 3\.99, which is not here"):
        environments.programs_of("inference-perf", tmp_path)


def test_unknown_names_are_told():
    for words, said in (
        (["--tests", "A,Z"], "Z is none of A"),
        (["--contenders", "kivactl,wrk"], "wrk is none of kivactl"),
        (["--repeats", "0"], "at least 1"),
    ):
        done = subprocess.run([sys.executable, BENCHMARKS / "generators", *words], check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr


def test_a_newer_python_is_found_where_pyenv_keeps_it(monkeypatch, tmp_path):
    from generators import environments

    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    for version in ("3.10.1", "3.98.0", "3.99.2"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
    newer = tmp_path / "versions" / "3.99.2" / "bin" / "python3.99"
    newer.symlink_to("/bin/true")
    assert environments._python("3.99") == str(newer)


@pytest.mark.real
@pytest.mark.alone
def test_a_generator_is_measured(tmp_path):
    """Locust, which is there anyway, through the whole of test D; figures are looked at, not judged."""
    report = tmp_path / "report.json"
    words = ["--tests", "D", "--contenders", "locust-http", "--repeats", "1", "--json", report, "--markdown", tmp_path / "report.md"]
    done = subprocess.run([sys.executable, BENCHMARKS / "generators", *words], check=False, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(report.read_text())["results"]["D"]
    assert one["locust-http"]["sent"] > 100
    assert "| locust-http |" in (tmp_path / "report.md").read_text() == done.stdout[: -len("\n")]
    again = subprocess.run([sys.executable, BENCHMARKS / "generators", *words], check=False, capture_output=True, text=True, timeout=60)
    assert again.stdout == done.stdout
    assert "has rounds already: D 1" in again.stderr
    assert "round 1 of" not in again.stderr


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ('{"seconds": 8.0}', "is no file of these benchmarks"),
        ("[]", "is no file of these benchmarks"),
        ("{", "is no file of these benchmarks"),
        ('{"seconds": 4.0, "tolerance": 0.08, "versions": {}, "results": {}}', "was measured with other seconds"),
        ('{"seconds": 8.0, "tolerance": 0.08, "versions": {"guidellm": "0.1"}, "results": {}}', "was measured with other guidellm"),
    ],
)
def test_figures_measured_in_another_way_are_not_mixed(tmp_path, kept, said):
    from generators import __main__ as program

    file = tmp_path / "report.json"
    file.write_text(kept)
    options = argparse.Namespace(json=file, seconds=8.0, tolerance=0.08)
    with pytest.raises(SystemExit, match=said):
        program._kept(options, {"guidellm": "0.8.1", "kivactl": "beside this Python"})
    assert file.read_text() == kept


def test_rounds_of_before_are_kept(tmp_path):
    from generators import __main__ as program

    file = tmp_path / "report.json"
    file.write_text('{"seconds": 8.0, "tolerance": 0.08, "versions": {"aiperf": "0.13.0"}, "results": {"B": [{"aiperf": {"most": 1}}]}}')
    kept = program._kept(argparse.Namespace(json=file, seconds=8.0, tolerance=0.08), {"guidellm": "0.8.1"})
    assert kept["results"] == {"B": [{"aiperf": {"most": 1}}]}
    assert kept["versions"] == {"aiperf": "0.13.0", "guidellm": "0.8.1"}
