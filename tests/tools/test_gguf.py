"""The conversion of GGUF files: names, rows and shards as pure functions, and a whole file in a child."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.tools import gguf

_found = importlib.util.spec_from_file_location("tiny_model", Path(__file__).parents[1] / "tiny_model.py")
tiny_model = importlib.util.module_from_spec(_found)
_found.loader.exec_module(tiny_model)

LAYERS, HIDDEN, HEADS, KV_HEADS, MLP = 2, 32, 4, 2, 48
HEAD_DIM = HIDDEN // HEADS


def permuted(rows, heads):
    """As llama.cpp's converter orders them. Source: `LlamaModel.permute` in `convert_hf_to_gguf.py`."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.12.attn_k.bias", "model.layers.12.self_attn.k_proj.bias"),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
        ("blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"),
    ],
)
def test_names(name, expected):
    assert gguf.hugging_face_name(name) == expected


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.ffn_gate_exps.weight", "blk.x.attn_q.weight", "blk.0.attn_q", ""])
def test_a_tensor_that_a_llama_does_not_have_is_refused(name):
    with pytest.raises(ValueError, match="is not one of a Hugging Face Llama"):
        gguf.hugging_face_name(name)


@given(heads=st.integers(1, 8), half=st.integers(1, 8), hidden=st.integers(1, 8), bias=st.booleans())
def test_unpermuted_undoes_the_order_of_llama_cpp(heads, half, hidden, bias):
    shape = (heads * 2 * half,) if bias else (heads * 2 * half, hidden)
    rows = np.arange(np.prod(shape)).reshape(shape)
    assert (gguf.unpermuted(permuted(rows, heads), heads) == rows).all()


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=50), largest=st.integers(1, 150))
def test_shards_keep_the_order_and_the_limit(sizes, largest):
    shards = gguf.shards_for(sizes, largest)
    assert len(shards) == len(sizes)
    assert shards[0] == 0
    assert all(after - before in {0, 1} for before, after in itertools.pairwise(shards))
    for shard in set(shards):
        held = [size for size, place in zip(sizes, shards, strict=True) if place == shard]
        assert sum(held) <= largest or len(held) == 1


def test_the_index_names_files_as_the_hub_does():
    index = gguf.index_for({"a": 0, "b": 1, "c": 1}, 12)
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {"metadata": {"total_size": 12}, "weight_map": {"a": one, "b": two, "c": two}}
    assert gguf.shard_name(0, 1) == "model.safetensors"


def tensors():
    """A random Llama by its Hugging Face names."""
    random = np.random.default_rng(7)
    shapes = {"model.embed_tokens.weight": (len(tokens()), HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (MLP, HIDDEN),
            "mlp.up_proj": (MLP, HIDDEN),
            "mlp.down_proj": (HIDDEN, MLP),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {name: random.integers(-8, 8, shape).astype("float32") / 4 for name, shape in shapes.items()}


def tokens():
    return [f"t{number}" for number in range(20)]


def write_gguf(path: Path, folder: Path, *, architecture: str = "llama", pre: str = "smollm") -> dict:
    """A GGUF file as llama.cpp's converter would write it; returns its tensors by their Hugging Face names."""
    import gguf as writer_of

    tokenizer = json.loads((tiny_model.build(folder) / "tokenizer.json").read_text())["model"]
    vocabulary = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    weights = tensors() | {"model.embed_tokens.weight": np.ones((len(vocabulary), HIDDEN), "float32")}
    back = {gguf.hugging_face_name(name): name for name in [*gguf._OUTSIDE, *(f"blk.{n}.{kind}.weight" for n in range(LAYERS) for kind in gguf._NAMES)]}
    writer = writer_of.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tiny_model.TEMPLATE)
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}
    for name, values in weights.items():
        kind = name.split(".")[-2]
        writer.add_tensor(back[name], permuted(values, heads[kind]) if kind in heads else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def bfloat16(path: Path) -> dict:
    """The tensors of a safetensors file of bfloat16 numbers."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    return {
        name: (np.frombuffer(values[slice(*entry["data_offsets"])], "<u2").astype("<u4") << 16).view("<f4").reshape(entry["shape"])
        for name, entry in header.items()
    }


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory):
    """One small GGUF file, converted to one file of weights and to several."""
    here = tmp_path_factory.mktemp("gguf")
    weights = write_gguf(here / "small.gguf", here / "tiny")
    script = (
        "import sys; from pathlib import Path; from kivactl.tools.gguf import convert\n"
        "source, one, many = map(Path, sys.argv[1:]); convert(source, one); convert(source, many, largest_bytes=20000)"
    )
    for name in ("one", "many"):
        (here / name).mkdir()
    argv = [sys.executable, "-c", script, here / "small.gguf", here / "one", here / "many"]
    done = subprocess.run(argv, capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(here)}, check=False)
    assert done.returncode == 0, done.stderr
    return here, weights, done.stdout.splitlines()


@pytest.mark.real
class TestWholeFile:
    def test_the_weights_are_the_ones_that_went_in(self, converted):
        here, weights, _ = converted
        found = bfloat16(here / "one" / "model.safetensors")
        assert found.keys() == weights.keys()
        for name, values in weights.items():
            assert (found[name] == values).all(), name

    def test_shards_hold_the_same_weights(self, converted):
        here, weights, _ = converted
        index = json.loads((here / "many" / gguf.INDEX).read_text())["weight_map"]
        assert index.keys() == weights.keys()
        assert len(set(index.values())) > 1
        assert {path.name for path in (here / "many").glob("*.safetensors")} == set(index.values())
        for name, values in weights.items():
            assert (bfloat16(here / "many" / index[name])[name] == values).all(), name

    def test_configuration_and_tokenizer(self, converted):
        here = converted[0]
        config = json.loads((here / "one" / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert (config["num_hidden_layers"], config["num_key_value_heads"], config["tie_word_embeddings"]) == (LAYERS, KV_HEADS, True)
        assert json.loads((here / "one" / "generation_config.json").read_text()) == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(here / "one" / "tokenizer.json"))
        original = Tokenizer.from_file(str(here / "tiny" / "tokenizer.json"))
        assert tokenizer.encode("The capital of Germany").ids == original.encode("The capital of Germany").ids
        assert tokenizer.encode("<|im_start|>user").tokens[0] == "<|im_start|>"
        # Numbers are taken apart before words are: the two spaces stay together.
        assert tokenizer.pre_tokenizer.pre_tokenize_str("a  12") == [("a", (0, 1)), ("ĠĠ", (1, 3)), ("1", (3, 4)), ("2", (4, 5))]
        assert (here / "one" / "chat_template.jinja").read_text() == tiny_model.TEMPLATE

    def test_the_progress_that_the_parent_reads(self, converted):
        _, weights, lines = converted
        progress = [line for line in lines if "% " in line]
        assert f"{sum(2 * values.size for values in weights.values())} bytes" in lines
        assert len(progress) == 2 * len(weights)
        assert progress[len(weights) - 1].startswith("100% ")
        assert lines[-1] == gguf.TOKENIZER


@pytest.mark.parametrize(("architecture", "reason"), [("qwen2", "the architecture of the model is qwen2; only llama can be converted"), ("llama", None)])
def test_refusal(architecture, reason):
    assert gguf.refusal(architecture) == reason


@pytest.mark.real
def test_another_architecture_ends_the_child_with_one_sentence(tmp_path):
    write_gguf(tmp_path / "other.gguf", tmp_path / "tiny", architecture="qwen2")
    done = subprocess.run([sys.executable, "-m", "kivactl.tools.gguf", tmp_path / "other.gguf", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "the architecture of the model is qwen2; only llama can be converted\n")
