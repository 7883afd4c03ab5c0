"""What fits a machine: known models by their figures, everything else by properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.stack import sizing
from kivactl.stack.engine import GIB
from kivactl.stack.sizing import KV_STEP_BYTES, Demand, changes_that_fit, kv_bytes_per_token, least_need_bytes, plan_memory, startup_budget_s

SMOL = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
QWEN_7B = {
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def smol(**changes):
    return replace(Demand("smol", 2, 269_060_552, SMOL, 2048, 16), **changes)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SMOL, 23_040),
        ({**SMOL, "head_dim": None}, 23_040),
        (QWEN_7B, 57_344),
        ({"text_config": QWEN_7B, "model_type": "qwen2_vl"}, 57_344),
        ({**QWEN_7B, "num_key_value_heads": None}, 401_408),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, 36_864),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768, "text_config": {}}, 36_864),
        ({"num_hidden_layers": 32, "num_attention_heads": 71, "hidden_size": 4544, "multi_query": True, "num_kv_heads": 71}, 8_192),
        (
            {
                "num_hidden_layers": 60,
                "num_attention_heads": 128,
                "num_kv_heads": 8,
                "hidden_size": 14848,
                "multi_query": True,
                "new_decoder_architecture": True,
            },
            222_720,
        ),
        ({"num_hidden_layers": 61, "num_attention_heads": 128, "hidden_size": 7168, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 70_272),
    ],
)
def test_kv_cache_of_one_token(config, expected):
    assert kv_bytes_per_token(config) == expected


def test_float32_counts_only_when_the_engine_is_told_so():
    assert kv_bytes_per_token({**SMOL, "dtype": "float32"}) == 23_040
    assert kv_bytes_per_token(SMOL, "float32") == 46_080


@pytest.mark.parametrize(("config", "expected"), [(SMOL, 269_060_552), (QWEN_7B, 15_231_233_024)])
def test_weights_from_the_shape_alone_are_close_to_the_real_files(config, expected):
    assert sizing.weights_bytes_from_config(config) == pytest.approx(expected, rel=0.001)


def test_experts_count():
    dense = {**QWEN_7B, "intermediate_size": 1000}
    assert sizing.weights_bytes_from_config({**dense, "num_experts": 8, "moe_intermediate_size": 500}) > 2 * sizing.weights_bytes_from_config(
        {**dense, "vocab_size": 1}
    )


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": 2}, {**SMOL, "num_hidden_layers": "30"}, {**SMOL, "num_attention_heads": 0}])
def test_a_configuration_that_says_too_little_is_refused(config):
    with pytest.raises(PreconditionError, match=r"the memory of 'smol' cannot be planned: its config.json lacks num_"):
        plan_memory([smol(config=config)], memory_bytes=64 * GIB, cores=(0, 1))
    with pytest.raises(PreconditionError, match=r"its config.json lacks"):
        sizing.weights_bytes_from_config(config)


def test_the_default_platform_fits_a_small_machine():
    sized = plan_memory([smol()], memory_bytes=12 * GIB, cores=(0, 1))
    assert [replica.cores for replica in sized.replicas] == [(0,), (1,)]
    assert [replica.kv_cache_bytes for replica in sized.replicas] == [723 * 2**20] * 2
    assert not sized.gpus
    assert sized.need_bytes == sum(replica.need_bytes for replica in sized.replicas) <= 12 * GIB


def test_what_cannot_fit_is_refused_with_numbers_that_would():
    with pytest.raises(PreconditionError) as refused:
        plan_memory([smol(replicas=3)], memory_bytes=9 * GIB, cores=(0, 1))
    assert str(refused.value).startswith("not enough memory: 3 replicas of smol need 7.")
    assert str(refused.value).endswith("engines may use 7.2GiB of this machine")
    assert refused.value.hint == "in kiva.yaml, `replicas: 2` would fit"


def test_a_shorter_length_is_offered():
    with pytest.raises(PreconditionError) as refused:
        plan_memory([smol(replicas=1, max_length=1_000_000)], memory_bytes=16 * GIB, cores=(0,))
    [length] = [int(word.strip("`")) for word in refused.value.hint.split() if word.strip("`").isdigit()]
    assert plan_memory([smol(replicas=1, max_length=length)], memory_bytes=16 * GIB, cores=(0,))
    with pytest.raises(PreconditionError):
        plan_memory([smol(replicas=1, max_length=length + 128)], memory_bytes=16 * GIB, cores=(0,))


def test_a_smaller_kv_cache_is_offered():
    with pytest.raises(PreconditionError) as refused:
        plan_memory([smol(replicas=1, kv_cache_bytes=20 * GIB)], memory_bytes=16 * GIB, cores=(0,))
    assert refused.value.hint == "in kiva.yaml, `kv_cache: 10533MiB` would fit"


def test_hints_of_several_models_name_theirs():
    with pytest.raises(PreconditionError) as refused:
        plan_memory([smol(), smol(name="other", replicas=1)], memory_bytes=9 * GIB, cores=(0, 1))
    assert "2 replicas of smol and 1 replica of other need" in str(refused.value)
    assert refused.value.hint == "in kiva.yaml, `replicas: 1` of smol would fit"


def test_a_hopeless_demand_has_another_hint():
    with pytest.raises(PreconditionError) as refused:
        plan_memory([smol(replicas=1)], memory_bytes=GIB, cores=(0,))
    assert refused.value.hint == "fewer or smaller models, or a machine with more memory"


def test_a_kv_cache_below_one_sequence_is_refused_before_the_engine_does():
    with pytest.raises(PreconditionError, match=r"`kv_cache: 1GiB` of 'smol' is too small: one sequence of 131072 tokens takes 2.8GiB") as refused:
        plan_memory([smol(max_length=131_072, kv_cache_bytes=GIB)], memory_bytes=64 * GIB, cores=(0, 1))
    assert "`kv_cache: 2883MiB`" in refused.value.hint


def test_what_one_model_cannot_use_another_gets():
    long = smol(name="long", replicas=1, max_length=262_144)
    short, roomy = plan_memory([smol(replicas=1), long], memory_bytes=40 * GIB, cores=(0, 1)).replicas
    assert short.kv_cache_bytes == 723 * 2**20
    assert roomy.kv_cache_bytes > 20 * GIB


def test_gpus_are_given_out_one_after_another():
    sized = plan_memory([smol(gpus=2), smol(name="other", replicas=1)], memory_bytes=GIB, cores=(0, 1), gpus=8)
    assert [replica.gpus for replica in sized.replicas] == [(0, 1), (2, 3), (4,)]
    assert sized.gpus
    with pytest.raises(PreconditionError, match="the replicas need 10 GPUs, this machine has 8"):
        plan_memory([smol(replicas=5, gpus=2)], memory_bytes=GIB, cores=(0,), gpus=8)


demands = st.lists(
    st.builds(
        Demand,
        name=st.sampled_from(["a", "b", "c"]),
        replicas=st.integers(1, 5),
        weights_bytes=st.integers(0, 8 * GIB),
        config=st.sampled_from([SMOL, QWEN_7B]),
        max_length=st.integers(16, 200_000),
        concurrency=st.integers(1, 64),
        kv_cache_bytes=st.none() | st.integers(12 * GIB, 30 * GIB),
    ),
    min_size=1,
    max_size=3,
)
machines = st.integers(GIB, 256 * GIB)
cores = st.lists(st.integers(0, 63), min_size=1, max_size=16, unique=True).map(tuple)


def planned(wanted, memory_bytes, cores=(0,)):
    try:
        return plan_memory(wanted, memory_bytes=memory_bytes, cores=cores)
    except PreconditionError:
        return None


@given(demands, machines)
def test_refuses_exactly_what_cannot_start(wanted, memory_bytes):
    budget_bytes = int(memory_bytes * sizing._SHARE_OF_MACHINE)
    assert (planned(wanted, memory_bytes) is None) == (least_need_bytes(wanted) > budget_bytes)


@given(demands, machines, cores)
def test_shares_stay_within_bounds(wanted, memory_bytes, cores):
    sized = planned(wanted, memory_bytes, cores)
    if sized is None:
        return
    assert [replica.model for replica in sized.replicas] == [demand.name for demand in wanted for _ in range(demand.replicas)]
    assert least_need_bytes(wanted) <= sized.need_bytes <= memory_bytes
    shares = iter(sized.replicas)
    for demand in wanted:
        same = {next(shares).kv_cache_bytes for _ in range(demand.replicas)}
        assert len(same) == 1
        [kv_bytes] = same
        assert kv_bytes % KV_STEP_BYTES == 0
        if demand.kv_cache_bytes:
            assert demand.kv_cache_bytes <= kv_bytes < demand.kv_cache_bytes + KV_STEP_BYTES
        else:
            assert kv_bytes >= max(KV_STEP_BYTES, demand.max_length * kv_bytes_per_token(demand.config))
            assert kv_bytes <= sizing._most_kv_bytes(demand)


@given(demands, machines, st.integers(0, 64 * GIB))
def test_more_memory_never_gives_less(wanted, memory_bytes, more_bytes):
    less, more = planned(wanted, memory_bytes), planned(wanted, memory_bytes + more_bytes)
    if less is not None:
        assert more is not None
        assert all(a.kv_cache_bytes <= b.kv_cache_bytes for a, b in zip(less.replicas, more.replicas, strict=True))


@given(demands, machines)
def test_every_offered_change_fits(wanted, memory_bytes):
    budget_bytes = int(memory_bytes * sizing._SHARE_OF_MACHINE)
    if least_need_bytes(wanted) > budget_bytes:
        for changed, words in changes_that_fit(wanted, budget_bytes):
            assert planned(changed, memory_bytes) is not None, words


@given(st.integers(1, 40), cores)
def test_cores_are_shared_out_evenly(count, cores):
    bound = [sizing.cores_of(index, count, cores) for index in range(count)]
    assert {core for one in bound for core in one} == set(cores) if count >= len(cores) else sum(bound, ()) == cores
    sizes = [len(one) for one in bound]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    holders = [sum(core in one for one in bound) for core in cores]
    assert max(holders) - min(holders) <= 1


def test_no_cores_is_the_callers_mistake():
    with pytest.raises(ValueError, match="no cores"):
        sizing.cores_of(0, 1, ())


@given(st.integers(0, 500 * GIB), st.integers(0, GIB), st.integers(1, 16), st.booleans())
def test_the_start_budget_grows_and_is_never_short(weights_bytes, more_bytes, replicas, gpu):
    budget_s = startup_budget_s(weights_bytes, gpu=gpu, replicas=replicas)
    assert 300 <= budget_s <= startup_budget_s(weights_bytes + more_bytes, gpu=gpu, replicas=replicas + 1)
