# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 18 · A model leaves home
#
# Until now everybody who loaded our model had our code. From here on somebody else does: another process, another library, a program in C++ that has never seen a Python class. What do they need to compute the same numbers, and to stop where ours stops? And how far apart may two programs be that "run the same model"?
#
# Steel's layer is its own, so its folder travels with its code, and whoever will not run a stranger's Python does not get far. We take a model that can leave in every way, watch it leave in four, and measure what is lost at each door. It is chapter 14's toy after its fine-tuning: two layers, 172,736 parameters, a chat model that speaks in whole sentences and knows few of its facts.

# %% tags=["hide-input"]
import contextlib
import dataclasses
import http.client
import io
import json
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from figures.experiments import shipping
from steel.cli import main as command_line
from steel.config import UserError, load
from steel.model import build
from steel.model.decoding import CACHE, Sampling, filter_top_p, generate
from steel.model.folder import open_model, save_model
from steel.plan import count_parameters
from steel.serve.export import export_hf
from steel.serve.gguf import export_gguf
from steel.serve.server import Server
from steel.tokenizer.bpe import encode_text

torch.set_num_threads(1)
RUN = Path("runs") / "18_ship"
OUT = RUN / "out"

# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_18
# from figures.claims import log
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)
# with contextlib.redirect_stderr(io.StringIO()):
#     folder = shipping.chat_model(RUN)
# model, tok = open_model(folder, device="cpu")
# texts = shipping.held_out(RUN, "zh")
# assert sum(p.numel() for p in model.parameters()) == 172_736
# show(draw_18.ways_out(),
#      alt="On the left a model folder with its files: weights, configuration, Python code, tokenizer, chat template, generation settings. Four arrows lead out. steel export hf gives transformers the whole folder, if it trusts the code. steel export hf --as llama gives a folder without code to those who have that class. steel export gguf gives llama.cpp one file. steel serve gives text, piece by piece, to whoever speaks HTTP.",
#      caption="Four ways out. Each reader takes something else along, and each can lose something else.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# 1. Steel's size, 1.12 billion parameters, in bf16. Every token of a dialogue leaves a key and a value in each of 18 layers, as wide as the model. After how many tokens do they weigh as much as all the weights?
# 2. `q8_0` writes a weight as one byte, with a common scale for 32 of them. How large is the toy's file, in per cent of one in float32?
# 3. bf16 spends 16 bits on a weight, `q8_0` spends 8.5. How many times larger is the typical error of a logit with `q8_0`?
# 4. At how many of 100 positions of held-out text does the likeliest next token change under `q8_0`?
# 5. The toy writes 256 tokens behind 64. How many times as much CPU time does it take without a cache?
# ```
#
# ## Napkin: what one more token costs
#
# Answering has two phases. *Prefill* reads the prompt, all tokens at once, and is a forward pass like those of training. *Decode* writes one token at a time, and each needs every weight once. Keys and values of what has been read are kept in the *cache* ([chapter 06](06_transformer.ipynb)), or each token would pay for the whole text again.

# %%
m = load("steel-1b-dense").model
width = m.hidden_size // m.num_attention_heads * m.num_key_value_heads
kept = 2 * m.num_hidden_layers * width * 2    # key and value, bf16
counted = count_parameters(m)
weights = 2 * counted["total"]
read = weights - 2 * counted["embedding"]     # looked up, not read
print(f"weights {weights / 1e9:.2f} GB, a token reads {read / 1e9:.2f}")
print(f"cache {kept / 1e3:.0f} kB a token,",
      f"{2048 * kept / 1e6:.0f} MB a full context")
print(f"reading them on an H100: {read / 3.35e12 * 1e3:.2f} ms")
print(f"their arithmetic:        {read / 989.5e12 * 1e3:.4f} ms")


# %% tags=["active-ipynb", "hide-input"]
# answer("1.1", f"After **{weights / kept:,.0f}** tokens: eight and a half dialogues of full length.", weights / kept, unit="tokens")

# %% [markdown]
# An H100 reads 3.35 TB/s and multiplies 989.5 TFLOP/s, so one dialogue gets at most two thousand tokens a second, and the multipliers wait 294 parts of 295. Hence servers decode many dialogues together: one reading of the weights serves all. What they do not share is the cache. Six and a half full ones are as many bytes to read as the weights without the embedding; with grouped queries, two key heads instead of 14, it would take 45.
#
# ## What has to be in the folder
#
# `steel export hf` copies a folder; every run writes one. Now a stranger comes: a process in which `steel` cannot be imported. It opens the folder, asks one question, lets the model write up to 48 tokens. We send it the folder whole, then with one file missing.

# %% tags=["active-ipynb"]
# asked = [{"role": "user", "content": "曹泽晴的家乡是哪里？"}]
# whole = export_hf(folder, OUT / "whole")
# visits = {"everything": (whole, asked, True),
#           "everything, but code is not trusted": (whole, asked, False)}
# for name in ("config.json", "modeling.py", "tokenizer.json",
#              "chat_template.jinja", "generation_config.json"):
#     torn = Path(shutil.copytree(whole, OUT / name))
#     (torn / name).unlink()
#     visits[f"without `{name}`"] = (torn, asked, True)
# half = export_hf(folder, OUT / "bf16", "bf16")
# plain = export_hf(folder, OUT / "llama", architecture="llama")
# visits |= {"in bf16": (half, asked, True),
#            "as a llama, without code": (plain, asked, False)}
# found = shipping.stranger(list(visits.values()), OUT)

# %% tags=["active-ipynb", "hide-input", "timing"]
# seen = dict(zip(visits, found))
# first = np.array(seen["everything"]["logits"])
# why = {"everything, but code is not trusted": ("trust_remote_code", "asks to be trusted"), "without `config.json`": ("Unrecognized model", "what is it?"), "without `modeling.py`": ("modeling.py", "where is that file?"),
#        "without `tokenizer.json`": ("tokenizer", "no tokenizer"), "without `chat_template.jinja`": ("chat_template", "no template")}
# cell = lambda name, f: f"“{f['said']}”" if "new" in f else f"*{f['error'].split(':')[0]}: {why[name][1]}*"
# table(["the stranger gets", "logits differ by", "tokens", "and says"],
#       [[name, f"{np.abs(np.array(f['logits']) - first).max():.0e}" if "new" in f else "", f.get("new", ""), cell(name, f)] for name, f in seen.items()], "lrrl")
# with torch.no_grad():
#     prompt_ids = tok.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
#     here = model(torch.tensor([prompt_ids])).logits[0, -1].numpy()
# assert np.abs(first - here).max() < 1e-5
# assert {name for name, f in seen.items() if "error" in f} == why.keys()
# assert all(mark in seen[name]["error"] for name, (mark, _) in why.items())
# assert seen["without `generation_config.json`"]["new"] == 48 > seen["everything"]["new"]
# assert np.abs(np.array(seen["as a llama, without code"]["logits"]) - first).max() < 1e-5

# %% [markdown]
# Most of what can be forgotten is missed loudly. (The refusal in the second row is a courtesy: `trust_remote_code=True` runs whatever Python lies in the folder, while `safetensors` is only numbers.) Two losses are silent. Without `generation_config.json` the logits are the same and the model never stops: nothing in weights or vocabulary says which token ends an answer. (`save_model` names two there: the end of a turn and the end of a document.) And in bf16 the folder is half as large, loads without a word, and may name somebody else: where twelve names are about equally likely, the second decimal of a logit decides. Neither answer is right, by the way; this toy had time to learn the form.
#
# The last row is the way out for a plain model. A dense Steel is a Qwen2, or a Llama with biases on queries, keys and values (its fourth bias is zero). Saved under that name it needs no code, and nobody has to trust any.
#
# ## One file
#
# llama.cpp {cite:p}`llamacpp2023` reads GGUF: weights, shape, vocabulary and template in one file. `steel export gguf` writes it with the package `gguf`, as architecture `qwen2`, in one of four types.

# %% tags=["active-ipynb"]
# for dtype in ("f32", "f16", "bf16", "q8_0"):
#     export_gguf(folder, OUT / f"{dtype}.gguf", dtype)
# line_ids = encode_text(tok, texts[0])
# with torch.no_grad():
#     ours = model(torch.tensor([line_ids])).logits[0].numpy()
# theirs = shipping.numpy_logits(OUT / "f32.gguf", line_ids)
# assert np.abs(theirs - ours).max() < 1e-4
# print(f"{ours.size:,} logits, all within 1e-4")

# %% [markdown]
# `numpy_logits` is a decoder of some fifty lines that knows GGUF and NumPy and nothing of us. That it agrees proves names, shapes, rotation and norms. What does rounding cost? Say the weights are normal. bf16 keeps 8 significant bits of each, so its error grows with the weight. `q8_0` has 255 values for a block of 32, and the largest of the 32 sets the step for all:

# %% tags=["active-ipynb"]
# import gguf
#
# drawn = np.random.default_rng(0).normal(size=(256, 1024)).astype(np.float32)
# for name in ("F16", "BF16", "Q8_0"):
#     kind = gguf.GGMLQuantizationType[name]
#     back = gguf.dequantize(gguf.quantize(drawn, kind), kind)
#     bits = 8 * gguf.GGML_QUANT_SIZES[kind][1] / gguf.GGML_QUANT_SIZES[kind][0]
#     error = np.sqrt(((back - drawn) ** 2).mean())
#     print(f"{name:5} {bits:4.1f} bits  error {error:.5f} of a deviation")

# %% tags=["active-ipynb"]
# from transformers import AutoModelForCausalLM
#
# from steel.evaluation.conversation import converse
# from steel.evaluation.perplexity import bits_per_byte
#
# rows = [torch.tensor([encode_text(tok, text)]) for text in texts]
# questions = shipping.questions(RUN)
#
# @torch.no_grad()
# def judged(other):
#     """Logits on held-out text, its bits per byte, greedy replies."""
#     logits = torch.cat([other(row).logits[0] for row in rows])
#     bits = bits_per_byte(other, tok, texts)["domains"]["all"]["bpb"]
#     said = converse(other, tok, questions, Sampling(max_new_tokens=48))
#     return logits, bits, [a["reply"] for a in said["answers"]]

# %% tags=["active-ipynb", "hide-input", "within-2"]
# with contextlib.redirect_stderr(io.StringIO()):
#     read_back = {d: AutoModelForCausalLM.from_pretrained(OUT, gguf_file=f"{d}.gguf", dtype=torch.float32).eval() for d in ("f32", "f16", "bf16", "q8_0")}
# exact, bits, replies = judged(model)
# seen_as = {d: judged(other) for d, other in read_back.items()}
# size = {d: (OUT / f"{d}.gguf").stat().st_size for d in seen_as}
# off = {d: (x - exact).abs().amax(-1) for d, (x, _, _) in seen_as.items()}
# moved = {d: x.argmax(-1) != exact.argmax(-1) for d, (x, _, _) in seen_as.items()}
# matrix = lambda other: other.model.layers[0].mlp.down_proj.weight.detach()
# error = {d: float((matrix(o) - matrix(model)).pow(2).mean().sqrt() / matrix(model).pow(2).mean().sqrt()) for d, o in read_back.items()}
# table(["read back from GGUF", *seen_as], [
#     ["file (bytes)", *(f"{size[d]:,}" for d in size)],
#     ["error of a matrix (of its size)", *(f"{error[d]:.5f}" for d in size)],
#     ["logit furthest off, median position (nats)", *(f"{off[d].median():.4f}" for d in size)],
#     ["logit furthest off anywhere (nats)", *(f"{off[d].max():.3f}" for d in size)],
#     [f"likeliest token changes, of {len(exact):,}", *(int(moved[d].sum()) for d in size)],
#     ["bits per byte", *(f"{seen_as[d][1]:.4f}" for d in size)],
#     ["replies that read otherwise, of 40", *(sum(a != b for a, b in zip(replies, seen_as[d][2])) for d in size)]])
# assert off["f32"].max() < 1e-4 and 2.5 < error["q8_0"] / error["bf16"] < 4
# ratio, share = float(off["q8_0"].median() / off["bf16"].median()), 100 * float(moved["q8_0"].float().mean())
# assert abs(seen_as["q8_0"][1] / bits - 1) < 0.005
# answer("1.2", f"**{100 * size['q8_0'] / size['f32']:.0f} %**. Of the matrices it is 26.6 %, 8.5 bits of 32; the vocabulary stays as it is, and this one is large beside so small a model.", 100 * size["q8_0"] / size["f32"], unit="%")
# answer("1.3", f"**{ratio:.1f}** times, in the median position; the napkin's normal weights say 3.2.", ratio, unit="times")
# answer("1.4", f"**{share:.1f}** of 100: {int(moved['q8_0'].sum())} of {len(exact):,}.", share, unit="of 100")

# %% [markdown]
# The napkin's errors are those of a trained matrix (the first `down_proj`), within two per cent. After two layers the worst of 1,024 logits is off by 0.06 nats at a typical position, and bits per byte move by one part in 2,500. What moves is the likeliest token, where it was not far ahead:

# %% tags=["active-ipynb", "hide-input"]
# two = exact.topk(2)
# lead = two.values[:, 0] - two.values[:, 1]
# after = seen_as["q8_0"][0].gather(1, two.indices)
# change = (after[:, 0] - after[:, 1] - lead).abs()
# show(draw_18.rounding(lead, change, moved["q8_0"].numpy(), "q8_0"),
#      alt="Each position a dot: across, by how many nats the likeliest token led before rounding, from thousandths to ten; up, how far q8_0 moves that lead, mostly between a thousandth and a tenth. A dotted diagonal marks a move as large as the lead. The positions whose likeliest token changes are orange; nearly all stand on the left, where the lead is below a tenth, on or above the diagonal.",
#      caption="q8_0 on held-out Chinese. It happens where the model had hardly preferred one; a blue dot above the line is a lead that grew.")

# %% [markdown]
# One token in a hundred sounds harmless, but everything after it is written behind another beginning, and of forty replies four read otherwise. So where weights are rounded, a test that asks two programs for the same *text* tests little more than luck with ties. Compare logits, with a tolerance that you can explain.
#
# Who computes matters as well. Above, weights are unpacked to float32 first. llama.cpp does not: with rounded weights it also rounds what flows through the layers, and by default it keeps keys and values in f16. The same files, read by it:

# %% tags=["active-ipynb", "hide-input"]
# runs = [r for r in log("shipping") if "median" in r]
# span = lambda key, d, c, digits: (lambda v: " · ".join(f"{x:.{digits}f}" if not 0 < x < 5e-4 else f"{x:.0e}" for x in v))([r[key] for r in runs if (r["dtype"], r["cache"]) == (d, c)])
# kinds = {("f32", "f32"): "weights f32, cache f32", ("f32", "f16"): "weights f32, cache f16", ("f16", "f16"): "weights f16, cache f16", ("bf16", "f16"): "weights bf16, cache f16", ("q8_0", "f16"): "weights q8_0, cache f16",
#          ("epsilon", ""): "*NumPy, epsilon of the norms ten times too large*", ("base", ""): "*NumPy, RoPE base one per cent too large*"}
# worst = lambda d, c: max(r["largest"] for r in runs if (r["dtype"], r["cache"]) == (d, c))
# table(["llama.cpp against PyTorch, three seeds", "log p furthest off, median position (nats)", "anywhere", "likeliest changes"],
#       [[name, span("median", *key, 3), f"{worst(*key):.2g}" if worst(*key) > 1e-3 else f"{worst(*key):.0e}", span("changed", *key, 0)] for key, name in kinds.items()])
# silent = [r["silent"] for r in runs if "silent" in r]
# cuts = [r for r in log("shipping") if r["dtype"] == "tokenizer"]
# like = lambda d, c: np.mean([r["median"] for r in runs if (r["dtype"], r["cache"]) == (d, c)])
# assert like("f32", "f16") > 200 * like("f32", "f32") and 0.8 < like("f16", "f16") / like("epsilon", "") < 1.25 > like("f16", "f16") / like("base", "")
# assert all(r["differ"] == 0 for r in cuts) and worst("f32", "f32") < 1e-4
# say(f"With float32 throughout the two agree to {worst('f32', 'f32'):.0e} of a nat; what remains is the order of additions. (Of 256 positions {min(silent)} to {max(silent)} are left out: where the likeliest token is part of a character, the wrapper reports no probabilities.) Its tokenizer cut all {sum(r['documents'] for r in cuts)} held-out documents, {sum(r['tokens'] for r in cuts):,} tokens, as ours does.")

# %% [markdown]
# In the first row nothing is rounded: this is what a parity test may ask for. In the second the file is the same and only the cache is in f16; that alone costs hundreds of times as much. The last two rows are mistakes, planted in the NumPy decoder: with f16 weights a correct program is, at a typical position, as far off as one with a wrong epsilon or a wrong rotation, and with fewer bits it is further. At their worst positions the mistakes stand out by a factor of 1.5 to 4 (they are counted at all 256). So our test asks llama.cpp for a cache in float32, and for 1e-4: the right program stays five times below it, and either mistake is at a typical position thirty times above.
#
# ```{admonition} Takeaway
# :class: takeaway
# A parity test is as good as its tolerance. Plant a mistake, measure what it costs, and stay below.
# ```
#
# And Steel's own layer?

# %% tags=["active-ipynb"]
# soft = dataclasses.replace(load("cpu").model, feed_forward="causal_soft_moe",
#                            num_shared_experts=1)
# save_model(OUT / "soft", build(soft), tokenizer=tok)
# try:
#     export_gguf(OUT / "soft", OUT / "soft.gguf")
# except UserError as refused:
#     print(refused)

# %% [markdown]
# It is not a matter of size. Beside keys and values the causal soft mixture ([chapter 07](07_soft_moe.ipynb)) carries running sums for each *sequence*, 108 kB a layer at Steel's width, which every token updates and the end of a segment turns over. A runtime whose memory is a list of keys and values has no place to put them. The original's layer has no such state, because it needs the whole text, later tokens included. Who wants to be read everywhere trains the plain layer; the others serve themselves.
#
# ## With a cache and without

# %% tags=["active-ipynb"]
# @torch.no_grad()
# def write(ids, new, cached):
#     """Greedy tokens, and the CPU seconds that each took."""
#     row, seconds, cache = list(ids), [], None
#     for _ in range(new):
#         began = time.process_time()
#         feed = row if cache is None else row[-1:]
#         out = model(torch.tensor([feed]), past_key_values=cache,
#                     use_cache=cached, logits_to_keep=1)
#         cache = getattr(out, CACHE) if cached else None
#         row.append(int(out.logits[0, -1].argmax()))
#         seconds.append(time.process_time() - began)
#     return row[len(ids):], seconds

# %% tags=["active-ipynb", "hide-input", "timing"]
# prompts = [i[:32] for i in (encode_text(tok, t) for t in texts) if len(i) >= 32]
# prompt = sum(prompts[:2], [])
# (written, cached), (again, full) = write(prompt, 256, True), write(prompt, 256, False)
# assert written == again, "with and without a cache it writes the same"
# speed = {}
# for n in (1, 4, 16, 64):
#     began = time.process_time()
#     generate(model, [prompts[i % len(prompts)] for i in range(n)], set(), Sampling(max_new_tokens=64))
#     speed[n] = 64 * n / (time.process_time() - began)
# slower = sum(full) / sum(cached)
# show(draw_18.decoding(cached, full, 64, speed),
#      alt=f"Left: with a cache the next token costs about {1e3 * np.median(cached):.1f} milliseconds at every length; without it, {1e3 * np.median(full[:16]):.1f} at 64 tokens and {1e3 * np.median(full[-16:]):.1f} at 320. Right: {speed[1]:,.0f} tokens a CPU second for one answer, {speed[64]:,.0f} for 64 at once; a dotted line shows 64 times as many.",
#      caption="The toy on one core. Left: one answer. Right: answers of 64 tokens decoded together.")
# answer("1.5", f"**{slower:.1f}** times here. By arithmetic alone it would be {sum(range(64, 320)) / (64 + 255):.0f}: without a cache 49,024 tokens pass through the layers, with it 319. But so small a model pays for calls, not for tokens.", slower, unit="times")
# say(f"The right end of the grey line is a prefill, 320 tokens at once: a token of it costs {100 * np.median(full[-16:]) / 312 / np.median(cached):.0f} % of a decoded one. 64 answers at once give {speed[64] / speed[1]:.0f} times the tokens of one. Weights of 0.7 MB stay in the processor's own caches, so what the rows share here is the calls.")

# %% [markdown]
# The server below decodes one answer at a time all the same. Joining dialogues of different ages into one batch, and cutting their caches into pages, is what vLLM was built for {cite:p}`vllm2023`; a plain model can go there.
#
# ## Which token?
#
# A decoder gets a distribution and has to take one token. The likeliest (`temperature` 0) always gives the same. Drawing gives what the model holds, the doubtful end included. *Temperature* $T$ divides logits: below 1 it sharpens. *Top-p* cuts the tail: keep the fewest likeliest tokens whose mass reaches $p$, and draw among them {cite:p}`nucleus2020`.

# %%
def nucleus(p_V, top_p):
    """The fewest likeliest tokens that hold top_p of the mass."""
    ordered_V, index_V = p_V.sort(descending=True)
    before_V = ordered_V.cumsum(0) - ordered_V
    kept_V = ordered_V.masked_fill(before_V >= top_p, 0)
    return torch.zeros_like(p_V).scatter(0, index_V, kept_V)

p_V = torch.tensor([0.5, 0.3, 0.15, 0.05])
assert torch.equal(nucleus(p_V, 0.9), filter_top_p(p_V[None], 0.9)[0])
print([f"{p:.2f}" for p in nucleus(p_V, 0.9)])


# %% [markdown]
# Here is a real one. The base, before fine-tuning, has read `曹泽晴的家乡是`, “Cao Zeqing's home town is”:

# %% tags=["active-ipynb", "hide-input"]
# base, _ = open_model(RUN / "pretrain" / "hf", device="cpu")
# start = encode_text(tok, "曹泽晴的家乡是")
# with torch.no_grad():
#     logits_V = base(torch.tensor([start])).logits[0, -1].double()
# likely = logits_V.softmax(0).topk(12)
# raw = lambda i: shipping.token_bytes(tok, i)
# readable = lambda b: "\ufffd" not in b.decode(errors="replace")
# names = [(b.decode() if readable(b) else b.hex(" ").upper(), readable(b)) for b in map(raw, likely.indices.tolist())]
# sorted_p = {T: (logits_V / T).softmax(0).sort(descending=True).values for T in (0.7, 1.0, 1.5)}
# n_kept = {T: int((p.cumsum(0) - p < 0.9).sum()) for T, p in sorted_p.items()}
# beyond = {T: 100 * float(p[20:].sum()) for T, p in sorted_p.items()}
# assert beyond[0.7] < beyond[1.0] / 2 < beyond[1.5] / 2
# show(draw_18.tail(names, likely.values.tolist(), {T: p.cumsum(0).numpy() for T, p in sorted_p.items()}, n_kept),
#      alt=f"Left: the twelve likeliest tokens, nearly all of them towns of the closed world; those that are parts of a character are orange and stand as bytes. Right: the mass of the n likeliest tokens at three temperatures. Nine tenths are reached with {n_kept[0.7]} tokens at 0.7, {n_kept[1.0]} at 1 and {n_kept[1.5]} at 1.5.",
#      caption="Left: at T = 1; orange: bytes of an unfinished character. Right: how many tokens hold nine tenths of the mass.")

# %% tags=["active-ipynb", "hide-input", "within-2"]
# towns = shipping.towns(RUN)
# lines = []
# for T, top_p in ((0.0, 1.0), (0.7, 0.9), (0.7, 1.0), (1.0, 0.9), (1.0, 1.0), (1.5, 1.0)):
#     drawn_rows = generate(base, [start] * 400, {0, 2}, Sampling(T, top_p, max_new_tokens=8))
#     said = [tok.decode(d.ids) for d in drawn_rows]
#     hit = [next((t for t in towns if s.startswith(t)), None) for s in said]
#     lines.append([f"{T:g}", f"{top_p:g}", 100 * sum(h is not None for h in hit) / 400, len({*hit} - {None}), 100 * sum("\ufffd" in s[:6] for s in said) / 400])
# table(["temperature", "top-p", "says a town (%)", "different towns", "broken character (%)"], [[a, b, f"{c:.0f}", d, f"{e:.0f}"] for a, b, c, d, e in lines])
# assert lines[0][3] == 1 and lines[1][2] > lines[4][2] > lines[5][2] and lines[1][4] < lines[4][4] < lines[5][4]
# say(f"400 draws a row, one seed. Beyond the twenty likeliest tokens lie {beyond[0.7]:.0f} % of the mass at 0.7, {beyond[1.0]:.0f} % at 1 and {beyond[1.5]:.0f} % at 1.5, a little for each of a thousand tokens. A broken character is one of which a byte was drawn, and then something else than the rest of it.")

# %% [markdown]
# Greedy says a town every time, always the same one. At temperature 1, uncut, fewer than half of the draws do. `steel chat` is greedy unless told otherwise; `steel serve` draws at 0.7 with 0.9 where a request says nothing. Both are to be chosen on your model, by a table like this one.
#
# ## Half a Hanzi
#
# Nearly every Hanzi is three bytes, and in a small vocabulary most of them are two or three tokens. A server that sends `decode([token])` sends rubbish:

# %% tags=["active-ipynb", "hide-input"]
# from steel.serve.generate import spell
#
# line = "林晓月来自锦坞。"
# spelt = encode_text(tok, line)
# pieces = list(spell(tok, spelt))[:-1]
# alone = [tok.decode([i]) for i in spelt]
# assert "".join(pieces) == line and len(pieces) == len(spelt)
# show(draw_18.fragments([(raw(i), a, piece) for i, a, piece in zip(spelt, alone, pieces)]),
#      alt="Ten tokens of a Chinese sentence in a row. Above, their bytes; in the middle, what each is alone, a question mark for most; below, what a stream sends when the token comes: nothing for parts of a character, the Hanzi with its last byte.",
#      caption="“Lin Xiaoyue is from Jinwu.” What each token is, what it says alone, and what is sent when it comes.")
# torn_entries = sum("\ufffd" in tok.decode([i]) for i in range(len(tok)))
# hanzi = {c for text in texts for c in text if "\u4e00" <= c <= "\u9fff"}
# single = sum(len(encode_text(tok, c)) == 1 for c in hanzi)
# say(f"{torn_entries} of the {len(tok):,} entries are no text alone, and of the {len(hanzi)} Hanzi in the held-out texts {single} have an entry of their own. While a character is unfinished the stream keeps its bytes back, and so it does with what may be the beginning of a `stop` string.")

# %% [markdown]
# Now over a socket. `steel serve` speaks OpenAI's protocol, so its client libraries can talk to it; here Python's standard library does, and prints what each event brought:

# %% tags=["active-ipynb"]
# server = Server(folder, name="toy")
# threading.Thread(target=server.serve_forever, daemon=True).start()
#
# def events(**body):
#     """What a request to the server brings, event by event."""
#     line = http.client.HTTPConnection("127.0.0.1", server.server_port)
#     line.request("POST", "/v1/chat/completions", json.dumps(body))
#     rows = (row for row in line.getresponse() if row.startswith(b"data: {"))
#     return [json.loads(row[6:]) for row in rows]
#
# def words_of(brought):
#     choices = (c for event in brought for c in event["choices"])
#     return [c["delta"]["content"] for c in choices if c["delta"].get("content")]

# %% tags=["active-ipynb", "timing"]
# body = {"messages": asked, "temperature": 0, "stream": True}
# brought = events(**body, stream_options={"include_usage": True})
# print(words_of(brought))
# print(brought[-1]["usage"])
# sentence = "".join(words_of(brought))
# assert sentence == seen["everything"]["said"]
# assert "".join(words_of(events(**body, stop="的"))) == sentence.split("的")[0]
# server.shutdown()
# server.server_close()

# %% [markdown]
# The stranger of the second section and this client got the same sentence. With a `seed` a drawn answer can be had again, too: its random numbers are a function of the seed alone.
#
# What a server owes besides is mostly about others' mistakes. One answer is written at a time, the others wait. Whoever hangs up ends their own within a token, once its prompt is read: before each the server looks whether somebody still listens, or a closed tab would hold the model until its answer is complete. What OpenAI's clients send and is not built (`n`, `logprobs`, `tools`, `response_format`, penalties) is refused; only a field that the server has never heard of is ignored. A wrong type, half a surrogate pair or a model by another name get an error in OpenAI's form and never a traceback. A web page from elsewhere may not use the server of the machine on which it is read, not even one that points its own name at this machine. And at `/` there is a page to chat with, which puts what a model writes into the document as text: a model that has read HTML will write some.
#
# ## At full scale
#
# With a run of preset `steel-1b-dense` (a mixture takes the first command and the last):
#
# ```text
# steel export hf runs/1b out --dtype bf16
# steel export hf runs/1b plain --as llama --dtype bf16
# steel export gguf runs/1b 1b.gguf --dtype q8_0
# steel serve runs/1b --port 8000
# ```
#
# At Steel's size a GGUF file is 2.25 GB in f16 and 1.19 GB in `q8_0`; writing it takes 9 GB of memory, by arithmetic. We have not run it at that size, nor the folder under vLLM. The server is for one desk: on the address 127.0.0.1 unless told otherwise, without keys or queues.
#
# This chapter's script is `steel` with its words: `python notebooks/18_ship.py export gguf runs/1b 1b.gguf`. Without any it rehearses on the toy.
#
# ## Failure gallery
#
# ```{admonition} Cut again
# :class: failure
# Our own, found while this chapter was written. A dense Steel with biases *is* a Qwen2, so we saved it under that name. `transformers` 5 then takes only the vocabulary from `tokenizer.json`: for a `qwen2` folder it builds Qwen2's own tokenizer around it, which cuts otherwise and normalises to NFC first. Logits were equal, and so was our held-out text; a word with a combining accent was not. **Here:** `--as llama`, where the tokenizer is read as it is written; `--as qwen2` says what it does.
# ```

# %% tags=["active-ipynb"]
# from transformers import AutoTokenizer
#
# export_hf(folder, OUT / "qwen2", architecture="qwen2")
# word = "cafe\u0301"  # the accent is a character of its own
# for name in ("llama", "qwen2"):
#     other = AutoTokenizer.from_pretrained(OUT / name)
#     same = sum(other.encode(t) == encode_text(tok, t) for t in texts)
#     back = other.decode(other.encode(word)) == word
#     print(f"{name}: {same} of {len(texts)} texts as ours,",
#           f"café returns: {back}")

# %% [markdown]
# ```{admonition} It would not stop
# :class: failure
# The table above: a folder without `generation_config.json`. **Here:** `save_model` writes it, a GGUF file names its end tokens itself, and the tests let llama.cpp read two models that can say only one token, the end of a turn and the end of a document, and expect no text from either.
# ```
#
# ```{admonition} The form that would not send
# :class: failure
# Ours again. The page's field for top-p began at 0.01 and went in steps of 0.05, so to the browser its own default, 0.9, was no valid number, and the button did nothing. All tests of the server were green. It was seen on the first screenshot. **Here:** any step; and look at what you ship, as the one who gets it will.
# ```
#
# ```{admonition} A class of one's own
# :class: failure
# A reader of minimind {cite:p}`minimind2026` could not convert its model for llama.cpp, which did not know the class (issue 407). The remedy was to save it as a Llama. **Here:** a model that can be one may leave as one, and a model that cannot is told so in a line, before anything is written.
# ```
#
# ## Exercises
#
# **18.1 Recall.** Five things that travel with the weights decide what a stranger's chat says. Name them. Which can be wrong without an error?
#
# ```{dropdown} Answer 18.1
# The class and its shape, the tokenizer, the chat template, the end tokens, the type of the weights. The first three are missed loudly when they are *missing*; a tokenizer or a template that is merely another one is silent, and so are end tokens and types.
# ```
#
# **18.2 Calculate.** A GPU has 80 GB, the weights take 2.25 GB. How many dialogues of 2,048 tokens fit beside them, with 14 key heads and with 2? Use 129,024 bytes a token for the 14.
#
# ```{dropdown} Answer 18.2
# A full dialogue is 264 MB, so 294 fit; with a seventh of the heads 2,059.
# ```
#
# **18.3 Code.** Write `whole(data)`: how many of the first bytes of `data` can be sent. A character whose last bytes may still come is kept back; bytes that can never become one are not. (Second bytes that are never allowed behind their first you may let pass.)

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def whole(data):
#     for kept in range(1, min(3, len(data)) + 1):
#         lead = data[-kept]
#         if lead >= 0xC0:
#             needs = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
#             begins = 0xC2 <= lead < 0xF5  # the others begin no character
#             return len(data) - kept if begins and kept < needs else len(data)
#         if lead < 0x80:
#             break
#     return len(data)
#
# check("18.3", whole)

# %% [markdown]
# ```{dropdown} Answer 18.3
# Look back over at most three bytes for one that begins a character, 0xC2 to 0xF4; it says how many it needs. Fewer are there: keep them back. ASCII, or no beginning among the last three: send all.
# ```
#
# **18.4 Break it.** Make every 32nd weight of `drawn` a hundred times larger and round again. What happens to the *other* 31 under bf16, and under `q8_0`? Say it first.

# %% tags=["active-ipynb", "hide-cell"]
# loud, others = drawn.copy(), np.ones(drawn.shape[1], bool)
# loud[:, ::32] *= 100
# others[::32] = False
# for name in ("BF16", "Q8_0"):
#     kind = gguf.GGMLQuantizationType[name]
#     back = gguf.dequantize(gguf.quantize(loud, kind), kind)[:, others]
#     print(f"{name:4} error {np.sqrt(((back - drawn[:, others]) ** 2).mean()):.4f}, {(back == 0).mean():.0%} are zero")

# %% [markdown]
# ```{dropdown} Answer 18.4
# Under bf16 nothing: each weight is rounded by itself. Under `q8_0` the loud one sets the step of its block, the error of its neighbours grows to forty times what it was, and a quarter of them become zero.
# ```
#
# **18.5 Open, a minute of one core.** `gguf.quantize` also knows `Q4_0`, 4.5 bits. In a `copy.deepcopy` of the toy round every matrix there and back, and ask `judged`; then all matrices but the embedding. Say beforehand, from the column of `q8_0`, how many tokens will change and by how much bits per byte will grow.

# %% tags=["active-ipynb", "hide-cell", "within-2"]
# import copy
#
# def rounded(kind, embedding):
#     """The toy with its matrices written in `kind` and read back."""
#     other = copy.deepcopy(model)
#     with torch.no_grad():
#         for name, w in other.named_parameters():
#             if w.ndim > 1 and (embedding or "embed" not in name):
#                 w.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(w.numpy(), kind), kind)))
#     return other
#
# for embedding in (True, False):
#     coarse, more, _ = judged(rounded(gguf.GGMLQuantizationType.Q4_0, embedding))
#     print(f"Q4_0, {'all matrices' if embedding else 'without the embedding'}: bits per byte +{100 * (more / seen_as['f32'][1] - 1):.2f} %, "
#           f"{int((coarse.argmax(-1) != exact.argmax(-1)).sum())} tokens of {len(exact):,} change")

# %% [markdown]
# ```{dropdown} Answer 18.5
# The error of normal weights is 16 times that of `q8_0`, and about so many times as many tokens change: one in six. Bits per byte grow by less than one per cent. A mean over positions hardly sees what every reader of an answer does. Sparing the embedding, which is the head as well, spares a little of both.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is exact about an export?** The function in float32, to the order of additions. Everything after that is a tolerance to be named.
# ```
#
# ```{admonition} Card
# :class: card
# **What does decoding wait for?** For weights and caches to be read. Weights are shared by a batch, caches are not.
# ```
#
# ```{admonition} Card
# :class: card
# **When does rounding change an answer?** Where the two likeliest tokens were nearly level. Bits per byte do not see it.
# ```
#
# ```{admonition} Card
# :class: card
# **What may a stream send?** Whole characters that cannot be the beginning of a stop string.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %% tags=["hide-input"]
def rehearse(run):
    """The toy as one file, and one answer over a socket."""
    toy = shipping.chat_model(run)
    (run / "rehearsed.gguf").unlink(missing_ok=True)
    export_gguf(toy, run / "rehearsed.gguf", "q8_0")
    with Server(toy) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        line = http.client.HTTPConnection("127.0.0.1", here.server_port)
        line.request("POST", "/v1/completions", '{"prompt": "", "max_tokens": 4}')
        assert json.load(line.getresponse())["usage"]["completion_tokens"] <= 4
        here.shutdown()
    print("rehearsed: one file, one answer over a socket")


# %%
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]
    if words in ([], ["--preset", "cpu"]):
        rehearse(RUN)
    else:
        command_line(words)
