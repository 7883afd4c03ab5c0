"""A model so small that real vLLM starts it in seconds: two Qwen2 layers and a tokenizer trained on the spot.

Without weights it is for `--load-format dummy`; with them (random ones) it loads as any other. Needs neither torch nor
transformers. `python tests/tiny_model.py FOLDER [--weights]` builds one by hand.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import sys
import tempfile
from pathlib import Path

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP = 2, 128, 4, 2, 32, 256  # 32: the smallest head the engine has a CPU kernel for
LONGEST = 2048
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = """What is the capital of Germany? The capital of Germany is Berlin. A platform answers questions with models, and
a gateway lets in whom it knows. Every replica keeps its own cache; when one ends, the others answer in its place."""


def build(folder: Path, *, weights: bool = False) -> Path:
    """Make the model, or find it made; whoever looks meanwhile sees nothing or all of it.

    Args:
        folder: Its folder, made with its parents; builders of the same folder may run at once.
        weights: Also write random weights (0.3 MB).
    """
    if (folder / "config.json").exists() and (not weights or (folder / "model.safetensors").exists()):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        vocabulary = _write_tokenizer(beside)
        config = config_for(vocabulary)
        _write(beside / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})
        if weights:
            _write_weights(beside / "model.safetensors", config)
        _write(beside / "config.json", config)
        try:
            beside.rename(folder)
        except OSError:  # it is there: half of it, or made meanwhile by another
            for file in sorted(beside.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def config_for(vocabulary: int) -> dict:
    """Its config.json."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": LONGEST,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",  # in bfloat16 vLLM 0.32 died of SIGILL when its first prompt was one token, seen on a processor with AMX
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def shapes_for(config: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm.weight": (HIDDEN,),
            "post_attention_layernorm.weight": (HIDDEN,),
            "self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            "self_attn.q_proj.bias": (HEADS * HEAD_DIM,),
            "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj.bias": (KV_HEADS * HEAD_DIM,),
            "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj.bias": (KV_HEADS * HEAD_DIM,),
            "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            "mlp.gate_proj.weight": (MLP, HIDDEN),
            "mlp.up_proj.weight": (MLP, HIDDEN),
            "mlp.down_proj.weight": (HIDDEN, MLP),
        }.items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    return shapes


def safetensors(shapes: dict[str, tuple[int, ...]], values: bytes) -> bytes:
    """A safetensors file of bfloat16 tensors that lie one after another in `values`."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values[:offset]


def _write_weights(path: Path, config: dict) -> None:
    import numpy as np

    shapes = shapes_for(config)
    values = np.random.default_rng(0).normal(0, 0.05, sum(math.prod(shape) for shape in shapes.values())).astype("<f4")
    path.write_bytes(safetensors(shapes, (values.view("<u4") >> 16).astype("<u2").tobytes()))


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": LONGEST,
            "chat_template": TEMPLATE,
        },
    )
    return -(-tokenizer.get_vocab_size() // 64) * 64


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2))


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), weights="--weights" in sys.argv[2:]))
