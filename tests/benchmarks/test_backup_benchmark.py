"""The benchmark of the backups: its data is what it says, its ratios are of the same round, and it runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "backup.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("backup_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [2**20, 2**28 + 12345])
def test_the_data_has_its_size_many_small_files_and_few_large_ones(benchmark, size):
    files = benchmark.plan_data(size, 1)
    assert sum(length for _, length, _ in files) == size
    assert len({name for name, _, _ in files}) == len(files)
    small = [length for name, length, _ in files if name.startswith("small/")]
    assert sum(small) == size // 10
    assert max(small) < 64 * 2**10
    assert benchmark.plan_data(size, 1) == files != benchmark.plan_data(size, 2)


def test_half_of_it_compresses(benchmark, tmp_path):
    import zlib

    benchmark.make_data(tmp_path / "one", 2**20, 1)
    benchmark.make_data(tmp_path / "other", 2**20, 1)
    for name, length, compresses in benchmark.plan_data(2**20, 1):
        content = (tmp_path / "one" / name).read_bytes()
        assert len(content) == length
        assert content == (tmp_path / "other" / name).read_bytes()
        if length > 10_000:
            assert (len(zlib.compress(content)) < 0.7 * length) == compresses


ROUNDS = [
    {"first": 10.0, "second": 0.4, "tar+zstd": 5.0, "copy": 4.0},
    {"first": 30.0, "second": 0.9, "tar+zstd": 10.0, "copy": 10.0},
    {"first": 12.0, "second": 0.6, "tar+zstd": 6.0, "copy": 4.0},
]


def test_ratios_are_of_the_same_round(benchmark):
    assert benchmark.ratios(ROUNDS, "second", "first") == pytest.approx((0.04, 0.03, 0.05))
    assert benchmark.ratios(ROUNDS, "first", "tar+zstd") == pytest.approx((2.0, 2.0, 3.0))


def test_the_table_says_where_the_target_is_missed(benchmark):
    slow = [times | {"second": 2.0} for times in ROUNDS]
    stored = {"kivactl": 2**29, "tar+zstd": 2**28, "copy": 2**30}
    lines = benchmark.table({2**30: ROUNDS, 2**31: slow}, {2**30: stored, 2**31: stored}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == (
        "| 1GiB | 12.0 s (10.0 - 30.0) | 512MiB | 6.0 s (5.0 - 10.0) | 256MiB | 2.00 | 4.0 s (4.0 - 10.0) | 3.00 | 0.6 s (0.4 - 0.9) | 4.0 % (3.0 - 5.0) |"
    )
    assert lines[3].endswith("16.7 % (6.7 - 20.0), above the target of 5% |")


@pytest.mark.real
@pytest.mark.alone
def test_it_runs(tmp_path):
    words = ["--sizes", "8MiB", "--rounds", "1", "--folder", str(tmp_path), "--json", str(tmp_path / "figures.json")]
    done = subprocess.run([sys.executable, BENCHMARK, *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads((tmp_path / "figures.json").read_text()).values()
    assert figures["rounds"][0].keys() == {"first", "second", "tar+zstd", "copy"}
    assert figures["stored"]["tar+zstd"] < figures["stored"]["copy"] == 8 * 2**20
    assert "| 8MiB |" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_size_without_a_unit_is_refused():
    done = subprocess.run([sys.executable, BENCHMARK, "--sizes", "2"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--sizes: '2' is not a size" in done.stderr
