"""Converts a GGUF file of the Llama architecture to a Hugging Face folder that vLLM reads.

Runs as `python -m kivactl.tools.gguf SOURCE.gguf FOLDER` in a process of its own, for torch and transformers are heavy;
prints `269000000 bytes`, the size of the
weights to come, then a line `42% blk.3.attn_q.weight` per tensor. Quantised tensors become bfloat16, and one shard at a time is in memory.
Source: the tensor names and the order of rotary rows are those of llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

VERSION = 2
"""Changes when the same GGUF file would give another folder; part of the identity of what was prepared."""

SHARD_BYTES = 4 * 2**30
"""Largest file of weights, unless a single tensor is larger."""

_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r"}
"""Kinds of pre-tokenizer that split numbers into digits, then words as GPT-2 does. Source: llama.cpp's `llama-vocab.cpp`."""
_SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def hugging_face_name(name: str) -> str:
    """The name Llama's weights have in a Hugging Face folder.

    Raises:
        ValueError: A Hugging Face Llama has no such tensor.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _NAMES:
        msg = f"the tensor {name} is not one of a Hugging Face Llama"
        raise ValueError(msg)
    return f"model.layers.{match[1]}.{_NAMES[match[2]]}.{match[3]}"


def unpermuted(rows: Any, heads: int) -> Any:
    """Undo llama.cpp's reordering of a query or key projection's rows.

    Args:
        rows: Array of shape (heads * head_dim, hidden), or a bias of (heads * head_dim,).
        heads: Query heads for q, key-value heads for k.

    Returns:
        An array of the same shape, rows as Hugging Face's rotary embedding expects them.
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def shards_for(sizes_bytes: Iterable[int], largest_bytes: int) -> list[int]:
    """The shard of every tensor, counted from 0; tensors keep their order.

    Args:
        sizes_bytes: Of the tensors, as they are written.
        largest_bytes: Size a shard may reach; a larger tensor gets one of its own.
    """
    shards: list[int] = []
    shard = held_bytes = 0
    for size_bytes in sizes_bytes:
        if held_bytes and held_bytes + size_bytes > largest_bytes:
            shard, held_bytes = shard + 1, 0
        held_bytes += size_bytes
        shards.append(shard)
    return shards


def shard_name(shard: int, count: int) -> str:
    """File name of a shard: `model-00001-of-00002.safetensors`, or `model.safetensors` when it is the only one."""
    return _SINGLE if count == 1 else f"model-{shard + 1:05}-of-{count:05}.safetensors"


def index_for(shards: Mapping[str, int], total_bytes: int) -> dict[str, Any]:
    """The index that says in which file a tensor lies."""
    count = max(shards.values()) + 1
    return {"metadata": {"total_size": total_bytes}, "weight_map": {name: shard_name(shard, count) for name, shard in shards.items()}}


def refusal(architecture: str) -> str | None:
    """Why a GGUF file of this architecture cannot be converted; None when it can."""
    return None if architecture == "llama" else f"the architecture of the model is {architecture or 'not named'}; only llama can be converted"


def convert(source: Path, folder: Path, *, largest_bytes: int = SHARD_BYTES) -> None:
    """Write weights, configuration and tokenizer of a GGUF file into an existing folder.

    Args:
        source: The GGUF file.
        folder: Where to write.
        largest_bytes: Size a file of weights may reach.

    Raises:
        ValueError: The file is none of the Llama architecture, or has tensors that a Llama does not have.
    """
    import gguf
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig

    reader = gguf.GGUFReader(source)
    if (reason := refusal(_text(reader, "general.architecture"))) is not None:
        raise ValueError(reason)
    config = AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    names = [hugging_face_name(tensor.name) for tensor in reader.tensors]
    sizes_bytes = [2 * int(tensor.n_elements) for tensor in reader.tensors]
    print(f"{sum(sizes_bytes)} bytes", flush=True)  # noqa: T201  (the parent reads it, and ends this when the disk has no room)
    shards = shards_for(sizes_bytes, largest_bytes)
    weights: dict[str, Any] = {}
    for number, (tensor, name, shard) in enumerate(zip(reader.tensors, names, shards, strict=True), start=1):
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = unpermuted(values, heads[kind])
        weights[name] = torch.from_numpy(values.copy()).to(torch.bfloat16)
        if number == len(shards) or shards[number] != shard:
            save_file(weights, folder / shard_name(shard, shards[-1] + 1), metadata={"format": "pt"})
            weights = {}
        print(f"{100 * number // len(shards)}% {tensor.name}", flush=True)  # noqa: T201  (the parent reads it)
    if shards[-1]:
        (folder / INDEX).write_text(json.dumps(index_for(dict(zip(names, shards, strict=True)), sum(sizes_bytes)), indent=2))
    config.tie_word_embeddings = "lm_head.weight" not in names
    config.dtype = torch.bfloat16
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    _write_tokenizer(source, folder, config, splits_digits=_text(reader, "tokenizer.ggml.pre") in _DIGITS_APART)


def _write_tokenizer(source: Path, folder: Path, config: Any, *, splits_digits: bool) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    if splits_digits:  # transformers' reader does not look at the kind of pre-tokenizer
        apart = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(apart)
    tokenizer.save_pretrained(folder)
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": config.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps({key: value for key, value in generation.items() if value is not None}))


def _text(reader: Any, name: str) -> str:
    field = reader.get_field(name)
    return str(field.contents()) if field else ""


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except ValueError as error:
        sys.exit(str(error))
