"""The meter as the process it is: started, killed, stopped, while logs are written and rotated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from usage_lines import access_line, append, count_line, orders, until

from kivactl.errors import PreconditionError
from kivactl.usage.join import Sums
from kivactl.usage.ledger import open_ledger

pytestmark = pytest.mark.real


@contextmanager
def metering(path):
    process = subprocess.Popen([sys.executable, "-m", "kivactl.usage.meter", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def site(tmp_path):
    folder = orders(tmp_path)
    (tmp_path / "usage/meter.json").write_text(json.dumps(folder))
    return tmp_path


def total(site):
    try:
        ledger = open_ledger(f"sqlite:{site}/usage/ledger.db", "kiva", read_only=True)
    except PreconditionError:  # the meter has not come so far
        return Sums()
    sums = ledger.month("2026-11")
    ledger.close()
    whole = Sums()
    for one in sums.values():
        whole = whole.plus(one)
    return whole


def test_sigterm_ends_it_with_everything_entered(site):
    with metering(site / "usage/meter.json") as process:
        until((site / "gateway/quota.json").exists, within_s=20)
        append(site / "logs/access.log", access_line())
        append(site / "usage/m-0.jsonl", count_line())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    assert not (site / "usage/ledger.db-wal").exists()
    assert total(site) == Sums(1, 0, 100, 20, 10)


def test_events_are_json_lines_on_standard_output(site):
    with metering(site / "usage/meter.json") as process:
        until((site / "gateway/quota.json").exists, within_s=20)
        append(site / "logs/access.log", "garbage\n")
        event = json.loads(process.stdout.readline())
    assert (event["event"], event["lines"]) == ("unreadable", 1)


def test_killed_again_and_again_it_counts_exactly_once(site):
    access, counts = site / "logs/access.log", site / "usage/m-0.jsonl"
    written = 0
    for turn in range(6):
        with metering(site / "usage/meter.json") as process:
            for _ in range(8):
                lines = range(written, written + 150)
                written += 150
                append(counts, *(count_line(f"r{number}") for number in lines))
                append(access, *(access_line(f"r{number}") for number in lines))
            # The first ones die as they come up, the others in the middle of their work.
            if turn > 1:
                until(lambda at_least=written - 900: total(site).requests >= at_least, within_s=30)
            process.kill()
        if turn % 2:
            access.rename(f"{access}.{turn}")
    with metering(site / "usage/meter.json") as process:
        append(counts, count_line(f"r{written}"))
        append(access, access_line(f"r{written}"))
        written += 1
        until(lambda: total(site).requests >= written, within_s=30)
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert total(site) == Sums(written, 0, 100 * written, 20 * written, 10 * written)


def test_a_second_meter_refuses(site):
    with metering(site / "usage/meter.json"):
        until((site / "gateway/quota.json").exists, within_s=20)
        second = subprocess.run(
            [sys.executable, "-m", "kivactl.usage.meter", site / "usage/meter.json"], capture_output=True, text=True, timeout=20, check=False
        )
    assert second.returncode == 3
    assert "another meter" in second.stderr


@pytest.mark.parametrize(("argv", "code"), [((), 2), (("a", "b"), 2), (("/nowhere/meter.json",), 3)])
def test_what_it_cannot_start_with(argv, code):
    done = subprocess.run([sys.executable, "-m", "kivactl.usage.meter", *argv], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_nobody_reads_its_events(site):
    with metering(site / "usage/meter.json") as process:
        process.stdout.close()
        append(site / "logs/access.log", "garbage\n", access_line())
        until(lambda: total(site).requests == 1, within_s=20)
        process.terminate()
        process.stderr.close()
        assert process.wait(timeout=20) == 0
        process.stdout = process.stderr = None
