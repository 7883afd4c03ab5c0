"""Engine command lines, and what their logs say."""

from pathlib import Path

import pytest

from kivactl.spec.platform import Model
from kivactl.stack.engine import GIB, Share, engine_for, last_words, option_arguments, parse_failure, parse_phase

MODEL = Model(name="m", source="path:./m", replicas=2, max_length=512, concurrency=8, engine={"enforce-eager": True, "dtype": "bfloat16"})


def engine(share: Share):
    return engine_for(
        MODEL,
        1,
        python=Path("/py"),
        weights=Path("/w"),
        identity="abc",
        socket=Path("/run/x.sock"),
        usage_log=Path("/u.jsonl"),
        share=share,
        ready_within_s=300,
    )


def option(argv, name):
    return argv[argv.index(name) + 1]


def test_an_engine_listens_on_its_socket_only():
    argv = engine(Share((0,), GIB)).argv
    assert option(argv, "--uds") == "/run/x.sock"
    assert "--host" not in argv
    assert "--port" not in argv


def test_the_spec_is_what_the_engine_gets():
    argv = engine(Share((0,), GIB)).argv
    assert option(argv, "--max-model-len") == "512"
    assert option(argv, "--max-num-seqs") == "8"
    assert option(argv, "--shutdown-timeout") == "60"
    assert "--enforce-eager" in argv
    assert option(argv, "--dtype") == "bfloat16"


def test_a_cpu_engine_is_bound_to_its_cores_and_memory():
    process = engine(Share((2, 3), 4 * GIB))
    assert process.environment["VLLM_CPU_OMP_THREADS_BIND"] == "2,3"
    assert option(process.argv, "--kv-cache-memory-bytes") == str(4 * GIB)


def test_a_gpu_engine_sees_its_gpus_only():
    process = engine(Share((), 0, gpus=(1, 2)))
    assert process.environment["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert process.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "the numbers are nvidia-smi's"
    assert "--kv-cache-memory-bytes" not in process.argv


def test_nothing_phones_home():
    environment = engine(Share((0,), GIB)).environment
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, []),
        ({"enforce-eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"dtype": "auto", "seed": 7}, ["--dtype", "auto", "--seed", "7"]),
    ],
)
def test_options_become_arguments(options, arguments):
    assert option_arguments(options) == arguments


@pytest.mark.parametrize(
    ("log", "phase"),
    [
        ("", "loading libraries"),
        ("INFO Starting to load model /w...", "loading weights"),
        ("Starting to load model /w\nLoading weights took 0.4 seconds", "weights loaded"),
        ("Loading weights took 0.4 seconds\nStarting to load model /w", "weights loaded"),
        ("init engine took 20 s\nStarting vLLM API server 0\nINFO: Application startup complete.", "answering"),
    ],
)
def test_the_latest_phase_of_a_log(log, phase):
    assert parse_phase(log) == phase


def test_why_an_engine_died():
    log = (
        "Traceback (most recent call last):\n  File x\nValueError: User-specified max_model_len (9) is too big\n"
        "RuntimeError: Engine core failed. See root cause above."
    )
    assert parse_failure(log) == "ValueError: User-specified max_model_len (9) is too big"


def test_why_an_engine_died_whose_worker_a_signal_ended():
    log = (
        "(APIServer pid=6) WARNING 12-01 18:13:01 [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase with error current limit "
        "exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n\n"
        "(EngineCore pid=7) ERROR 12-01 18:13:21 Worker proc VllmWorker-0 died unexpectedly (exit code: -4), shutting down executor.\n"
        '(EngineCore pid=7) ERROR 12-01 18:13:21 [core.py:1512]     raise RuntimeError("cancelled")\n'
        "(EngineCore pid=7) ERROR 12-01 18:13:21 [core.py:1512] RuntimeError: cancelled\n"
        "(APIServer pid=6) ERROR 12-01 18:13:21 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. "
        "See stack trace (above) for the root cause.\nINFO:     Application shutdown complete.\n(APIServer pid=9) INFO Starting to load model"
    )
    assert parse_failure(log) == "Worker proc VllmWorker-0 died unexpectedly (exit code: -4), shutting down executor."


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ('one\ntwo\nValueError: no\nnanobind: leaked 3 types!\n - leaked type "x"\n', ("two", "ValueError: no")),
        ("ValueError: no\nnanobind: leaked 3 types!\n", ("ValueError: no",)),
        ("one\n\ntwo\nthree\n", ("two", "three")),
        ("", ()),
    ],
    ids=["what comes after", "at the beginning", "no cause", "nothing"],
)
def test_the_last_words_of_an_engine_end_with_why_it_died(log, words):
    assert last_words(log, 2) == words


def test_an_engine_that_died_in_silence():
    assert parse_failure("") == "it logged nothing"
