"""Write a dense model as one GGUF file, which llama.cpp and what is built on it read.

Architecture `qwen2`, or `qwen3` for a model with QK-norm: both rotate the halves of a head as Steel
does, so no weight is permuted. The tokenizer travels inside. Of the cuts of text that llama.cpp
knows it names Qwen2's, whose ids differ from ours only where `tokenizer.encode` says so.
"""

import json
import re
import tempfile
from pathlib import Path

from ..config import UserError, needs
from ..model.folder import open_model, stop_ids
from ..model.original import to_transformers
from ..tokenizer.bpe import before_document_id
from ..tokenizer.encode import PIECES, QWEN2_PIECES

DTYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


def export_gguf(folder: Path | str, out: Path | str, dtype: str = "f16") -> Path:
    """Write the model in `folder` to the file `out`; returns `out`, which appears whole or not at all.

    dtype of the matrices: f32, f16, bf16, or q8_0, blocks of 32 numbers of one byte with one f16
    scale. Norms and biases stay f32, as does a matrix whose rows do not divide into blocks. Raises
    UserError for a model that is not plain and dense, a tokenizer that is neither ours nor cuts as
    Qwen2's, a file that exists, and without the package gguf.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: not one of {', '.join(DTYPES)}")
    if out.exists():
        raise UserError(f"{out} exists; name another file, or remove it")
    with needs("steel export gguf", "gguf"):
        import gguf
    model, tokenizer = open_model(folder, device="cpu")
    kind = "qwen3" if getattr(model.config, "qk_norm", False) else "qwen2"
    model = to_transformers(model, kind)  # its tensors have the names that gguf knows
    c = model.config
    if kind == "qwen2" and c.num_attention_heads * c.head_dim != c.hidden_size:
        line = f"{c.num_attention_heads} heads of {c.head_dim} channels are not a width of"
        raise UserError(f"{line} {c.hidden_size}, as llama.cpp asks of a qwen2: use 'steel serve'")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], model.config.num_hidden_layers)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        fresh = Path(beside) / out.name
        writer = gguf.GGUFWriter(fresh, kind)
        writer.add_file_type(gguf.LlamaFileType[DTYPES[dtype]])
        _add_shape(writer, model.config)
        _add_tokenizer(writer, gguf.TokenType, tokenizer, model.config.vocab_size)
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue
            form = gguf.GGMLQuantizationType[dtype.upper()]
            if tensor.ndim == 1 or tensor.shape[1] % gguf.GGML_QUANT_SIZES[form][0]:
                form = gguf.GGMLQuantizationType.F32
            known = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(known, gguf.quantize(tensor.numpy(), form), raw_dtype=form)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        fresh.replace(out)
    return out


def _add_shape(writer, config) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer, kinds, tokenizer, rows: int) -> None:
    """Entries, merges, control tokens, where to stop, chat template. rows: of the embedding."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    cut = ((core["pre_tokenizer"] or {}).get("pretokenizers") or [{}])[0].get("pattern", {})
    if core["model"]["type"] != "BPE" or cut.get("Regex") not in (PIECES, QWEN2_PIECES):
        raise UserError("llama.cpp cuts text otherwise: GGUF takes Steel's tokenizer or Qwen2's")
    size, stops = len(tokenizer), stop_ids(tokenizer)
    if size > rows:
        raise UserError(f"the tokenizer has {size} entries, the embedding only {rows} rows")
    types = [kinds.NORMAL] * size + [kinds.UNUSED] * (rows - size)
    for i, token in tokenizer.added_tokens_decoder.items():
        types[i] = kinds.CONTROL if token.special else kinds.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    names = tokenizer.convert_ids_to_tokens(list(range(size)))
    writer.add_token_list(names + [f"[PAD{i}]" for i in range(size, rows)])
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]])
    writer.add_bos_token_id(before_document_id(tokenizer))
    writer.add_add_bos_token(False)  # what stands before a text is its sender's business
    writer.add_eos_token_id(stops[0])
    writer.add_pad_token_id(stops[-1])
    if template := tokenizer.chat_template:  # the marks of the loss mask mean nothing to a reader
        writer.add_chat_template(re.sub(r"\{%-? *(?:end)?generation *-?%\}", "", template))
