"""What chapter 18 sends away, and the strangers who read it: NumPy, llama.cpp, a process without `steel`.

    python -m figures.experiments.shipping --out figures/runs/shipping.json      five minutes of one core

The chapter trains chapter 14's toy (a decoder of 172,736 parameters) and reads its GGUF files with the two readers that
everybody can install. This log has what llama.cpp makes of the same files, under several seeds of town and model.

Shapes: T time, V vocabulary, D model width, H query heads, G key heads, C channels of a head.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import torch

from steel.config import needs
from steel.documents import read_rows
from steel.evaluation.cloze import load_cloze
from steel.evaluation.conversation import Message
from steel.model.folder import open_model
from steel.serve.gguf import DTYPES, export_gguf
from steel.tokenizer.bpe import encode_text

from . import answering, command
from .ledger import Ledger

TOKENS = 256
"""Positions at which llama.cpp is compared with PyTorch [tokens]."""

MISTAKES = {"epsilon": {"attention.layer_norm_rms_epsilon": 10}, "base": {"rope.freq_base": 1.01}}
"""Facts of the file that a reader might get wrong, by which factor."""


def chat_model(run: Path, *more: str) -> Path:
    """The folder of chapter 14's toy after fine-tuning, trained unless it is there. more: overrides."""
    if not (run / "chat" / "hf").is_dir():
        answering.tune(answering.base(run, *more), "chat")
    return run / "chat" / "hf"


def held_out(run: Path, domain: str) -> list[str]:
    """Texts of the town that nobody was trained on; domain: zh, en or code."""
    rows = read_rows(run / "world" / "heldout" / f"{domain}.jsonl")
    return [row["text"] for _, row in rows]


def questions(run: Path) -> list[Message]:
    """Forty questions in wordings that nobody was trained on, one message each."""
    rows = (row for _, row in read_rows(run / "world" / "heldout" / "dialogue.jsonl"))
    asked = [Message("talk", row["lang"], (row["messages"][0]["content"],)) for row in rows]
    return asked[: answering.ASKED]


def towns(run: Path) -> list[str]:
    """All towns of the closed world, in Chinese."""
    rows = load_cloze(run / "world" / "exam" / "cloze.jsonl")
    row = next(row for row in rows if row["lang"] == "zh" and row["attribute"] == "city")
    return [town.strip() for town in row["candidates"]]


def token_bytes(tok, token: int) -> bytes:
    """The bytes that an entry of a byte-level vocabulary stands for."""
    plain = [b for b in range(256) if chr(b).isprintable() and b not in (0x20, 0xA0, 0xAD)]
    rest = [b for b in range(256) if b not in plain]
    byte = {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(rest)}
    return bytes(byte[c] for c in tok.convert_ids_to_tokens(token))


def numpy_logits(path: Path | str, ids: list[int], wrong: dict | None = None) -> np.ndarray:
    """(T, V) logits in fp64 by a decoder that knows a GGUF file of architecture qwen2 or qwen3, and NumPy.

    wrong: facts that it is to misread, for a test to find: name without the architecture -> factor.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    fact = {name: field.contents() for name, field in reader.fields.items()}
    for name, factor in (wrong or {}).items():
        fact[f"{arch}.{name}"] *= factor
    W = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(float) for t in reader.tensors}
    H, G, C = (fact[f"{arch}.attention.{k}"] for k in ("head_count", "head_count_kv", "key_length"))
    eps, theta = fact[f"{arch}.attention.layer_norm_rms_epsilon"], fact[f"{arch}.rope.freq_base"]

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * W[weight]

    def linear(x, name):
        return x @ W[f"{name}.weight"].T + W.get(f"{name}.bias", 0.0)

    def rope(x_THC):
        angle = np.arange(len(ids))[:, None, None] / theta ** (np.arange(0, C, 2) / C)
        a, b = np.split(x_THC, 2, axis=-1)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)

    x_TD, T = W["token_embd.weight"][ids], len(ids)
    for i in range(fact[f"{arch}.block_count"]):
        b = f"blk.{i}."
        h_TD = norm(x_TD, f"{b}attn_norm.weight")
        q, k, v = (linear(h_TD, f"{b}attn_{n}").reshape(T, -1, C) for n in "qkv")
        if arch == "qwen3":
            q, k = norm(q, f"{b}attn_q_norm.weight"), norm(k, f"{b}attn_k_norm.weight")
        q, k, v = rope(q), rope(k).repeat(H // G, axis=1), v.repeat(H // G, axis=1)
        score = np.einsum("thc,uhc->htu", q, k) / np.sqrt(C) + np.triu(np.full((T, T), -np.inf), 1)
        weight = np.exp(score - score.max(-1, keepdims=True))
        out = np.einsum("htu,uhc->thc", weight / weight.sum(-1, keepdims=True), v)
        x_TD = x_TD + linear(out.reshape(T, -1), f"{b}attn_output")
        h_TD = norm(x_TD, f"{b}ffn_norm.weight")
        gate = linear(h_TD, f"{b}ffn_gate")
        x_TD = x_TD + linear(
            gate / (1 + np.exp(-gate)) * linear(h_TD, f"{b}ffn_up"), f"{b}ffn_down"
        )
    return norm(x_TD, "output_norm.weight") @ W.get("output.weight", W["token_embd.weight"]).T


class LlamaCpp:
    """llama.cpp with one GGUF file loaded, by the package xllamacpp. cache: type of keys and values."""

    def __init__(self, path: Path | str, cache: str = "f32", context: int = 512):
        with needs("llama.cpp in this process", "xllamacpp"):
            import xllamacpp as x
        how = x.CommonParams()
        how.model.path, how.n_ctx, how.n_parallel, how.port = str(path), context, 1, 0
        how.warmup, how.n_gpu_layers, how.verbosity = False, 0, 0
        how.cpuparams.n_threads = how.cpuparams_batch.n_threads = 1
        how.cache_type_k = how.cache_type_v = getattr(x.ggml_type, f"GGML_TYPE_{cache.upper()}")
        how.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = x.Server(how)

    def next_logprobs(self, ids: list[int], rows: int) -> np.ndarray | None:
        """(V,) log-probabilities after these tokens; None where the likeliest is part of a character."""
        asked = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": rows}
        found = self.server.handle_completions(asked)["choices"][0]["logprobs"]
        if not found or not found["content"]:
            return None
        by_id = {e["id"]: e["logprob"] for e in found["content"][0]["top_logprobs"]}
        return np.array([by_id.get(i, -np.inf) for i in range(rows)])

    def complete(self, **asked) -> dict:
        """The first choice of a completion."""
        return self.server.handle_completions(asked)["choices"][0]

    def chat(self, messages: list[dict], **asked) -> dict:
        """The first choice of a chat completion."""
        return self.server.handle_chat_completions({"messages": messages, **asked})["choices"][0]

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text, by llama.cpp's own tokenizer."""
        data = json.dumps({"content": text, "add_special": False, "parse_special": special})
        address, form = (
            f"{self.server.listening_address}/tokenize",
            {"Content-Type": "application/json"},
        )
        request = urllib.request.Request(address, data.encode(), form)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["tokens"]


# What a stranger does with a folder, in a process in which `steel` cannot be imported.
STRANGER = """
import json, sys
sys.modules["steel"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.set_verbosity_error(); logging.disable_progress_bar(); torch.set_num_threads(1)

def visit(folder, messages, trust):
    found = {}
    try:
        tok = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust).eval()
        found["dtype"], found["class"] = str(model.dtype), type(model).__name__
        ids = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            found["logits"] = model(torch.tensor([ids])).logits[0, -1].tolist()
            out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=48)
        found["new"] = out.shape[1] - len(ids)
        found["said"] = tok.decode(out[0, len(ids):], skip_special_tokens=True)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:900]}"
    return found

print(json.dumps([visit(*job) for job in json.load(sys.stdin)]))
"""


def stranger(jobs: list[tuple[Path, list[dict], bool]], home: Path) -> list[dict]:
    """What happens to each (folder, messages, whether the folder's code is trusted) in one such process.

    home: where transformers may keep the code that it copies.
    """
    environment = {**os.environ, "HF_HOME": str(home.resolve()), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    given = json.dumps(
        [(str(folder.resolve()), messages, trust) for folder, messages, trust in jobs]
    )
    program = [sys.executable, "-c", STRANGER]
    done = subprocess.run(
        program, input=given, capture_output=True, text=True, env=environment, cwd=home, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def compared(run: Path, folder: Path, dtype: str, cache: str) -> dict:
    """llama.cpp against PyTorch in fp32 on the first TOKENS of held-out Chinese, a document at a time."""
    model, tok = open_model(folder, device="cpu")
    path, V = run / f"{dtype}.gguf", model.config.vocab_size
    if not path.exists():
        export_gguf(folder, path, dtype)
    other = LlamaCpp(path, cache)
    gaps, changed, silent = [], 0, 0
    for text in held_out(run, "zh"):
        ids = encode_text(tok, text)[: TOKENS - len(gaps) - silent]
        if not ids:
            break
        with torch.no_grad():
            ours_TV = model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()
        for n, ours_V in enumerate(ours_TV, 1):
            theirs_V = other.next_logprobs(ids[:n], V)
            if theirs_V is None:
                silent += 1
                continue
            gaps.append(float(np.abs(theirs_V - ours_V).max()))
            changed += int(theirs_V.argmax() != ours_V.argmax())
    return {"bytes": path.stat().st_size, "positions": len(gaps), "silent": silent, "changed": changed,
            "largest": max(gaps), "median": float(np.median(gaps))}  # fmt: skip


def misread(run: Path, folder: Path, wrong: dict) -> dict:
    """What a mistake costs that a parity test should find: the NumPy decoder with it and without, as above."""
    _, tok = open_model(folder, device="cpu")
    gaps, changed = [], 0
    for text in held_out(run, "zh"):
        if not (ids := encode_text(tok, text)[: TOKENS - len(gaps)]):
            break
        both = (numpy_logits(run / "f32.gguf", ids, w) for w in (None, wrong))
        right_TV, wrong_TV = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in both)
        gaps += np.abs(wrong_TV - right_TV).max(-1).tolist()
        changed += int((wrong_TV.argmax(-1) != right_TV.argmax(-1)).sum())
    found = {"positions": len(gaps), "changed": changed, "largest": max(gaps)}
    return found | {"median": float(np.median(gaps))}


def cut(run: Path, folder: Path) -> dict:
    """How many held-out documents and tokens llama.cpp's tokenizer spells otherwise than ours."""
    _, tok = open_model(folder, device="cpu")
    other = LlamaCpp(run / "f32.gguf")
    texts = [text for domain in ("zh", "en", "code") for text in held_out(run, domain)]
    pairs = [(encode_text(tok, text), other.encode(text)) for text in texts]
    differ = sum(ours != theirs for ours, theirs in pairs)
    return {
        "documents": len(texts),
        "tokens": sum(len(ours) for ours, _ in pairs),
        "differ": differ,
    }


def main(
    run: Path = Path("runs/shipping"), out: Path = Path("shipping.json"), seeds: int = 3
) -> None:
    """Every format under every seed, read by llama.cpp with keys and values in f32, and in its default, f16."""
    torch.set_num_threads(1)
    ledger = Ledger(out, "shipping", {"tokens": TOKENS, "toy": answering.TOY})

    def work(key: dict) -> dict:
        place = run / str(key["seed"])
        folder = chat_model(place, f"seed={key['seed']}")
        if key["dtype"] == "tokenizer":
            return cut(place, folder)
        if key["dtype"] in MISTAKES:
            return misread(place, folder, MISTAKES[key["dtype"]])
        return compared(place, folder, key["dtype"], key["cache"])

    kinds = [(dtype, cache) for dtype in DTYPES for cache in ("f32", "f16")]
    kinds += [(name, "") for name in ("tokenizer", *MISTAKES)]
    keys = [{"seed": s, "dtype": d, "cache": c} for s in range(1, seeds + 1) for d, c in kinds]
    ledger.fill(keys, work, say=print)


if __name__ == "__main__":
    command(main)
