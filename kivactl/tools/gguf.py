"""Converts a GGUF file of the Llama architecture to a Hugging Face folder that vLLM reads.

Runs as `python -m kivactl.tools.gguf SOURCE.gguf FOLDER` in a process of its own, for torch and transformers are heavy;
prints `42% name-of-tensor` lines as it goes. Quantised tensors are dequantised to bfloat16.
Source: the tensor names and the order of rotary rows are those of llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

VERSION = 1
"""Changes when the same GGUF file would give other weights; part of the identity of what was prepared."""

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


def hugging_face_name(name: str) -> str:
    """The name Llama's weights have in a Hugging Face folder.

    Raises:
        ValueError: GGUF's Llama architecture has no such tensor.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _NAMES:
        msg = f"the tensor {name} is not one of the Llama architecture"
        raise ValueError(msg)
    return f"model.layers.{match[1]}.{_NAMES[match[2]]}.{match[3]}"


def unpermuted(rows: Any, heads: int) -> Any:
    """Undo llama.cpp's reordering of a query or key projection's rows.

    Args:
        rows: Array of shape (heads * head_dim, hidden).
        heads: Query heads for q, key-value heads for k.

    Returns:
        An array of the same shape, rows as Hugging Face's rotary embedding expects them.
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def convert(source: Path, folder: Path) -> None:
    """Write weights, configuration and tokenizer of a GGUF file into an existing folder."""
    import gguf
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(str(source.parent), gguf_file=source.name)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    reader = gguf.GGUFReader(source)
    weights: dict[str, Any] = {}
    for number, tensor in enumerate(reader.tensors):
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = unpermuted(values, heads[kind])
        weights[hugging_face_name(tensor.name)] = torch.from_numpy(values.copy()).to(torch.bfloat16)
        print(f"{100 * (number + 1) // len(reader.tensors)}% {tensor.name}", flush=True)  # noqa: T201  (the parent reads it)
    config.tie_word_embeddings = "lm_head.weight" not in weights
    config.torch_dtype = torch.bfloat16
    config.architectures = ["LlamaForCausalLM"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": config.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps({key: value for key, value in generation.items() if value is not None}))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
