"""Published facts of the three projects, each typed once, with where it stands.

Chapters and `book/claims.yml` read them from here. Nothing is rounded or repaired: where sources disagree both
values are kept under their own names (``DISAGREEMENTS``).

Sources: paper = arXiv 2502.06635; readme = README of Steel-LLM (17 January 2025); retrospective = the author's
article of 13 November 2024; script = the released `pretrain_steel_llm.py`; minillm = README of
build_MiniLLM_from_scratch (3 April 2024); hammer = README and REPRODUCE.md of HammerLLM
(April 2024).
"""

from __future__ import annotations

from datetime import date

# (date, what happened, kind, source); kind: work | run | failure | result. VAGUE: dates no source gives to the day.
TIMELINE = [
    (date(2024, 3, 1), "idea; one 8×A100 machine of unknown tenure", "work", "retrospective"),
    (date(2024, 4, 14), "data collected, processed, packed", "work", "readme"),
    (date(2024, 4, 24), "training program done", "work", "readme"),
    (date(2024, 5, 19), "model fixed: 1.12 B", "work", "readme"),
    (date(2024, 5, 21), "pretraining starts on 8×A100", "run", "readme"),
    (date(2024, 6, 5), "machine withdrawn, about step 200k", "failure", "retrospective"),
    (date(2024, 7, 18), "pretraining goes on, 8×H800", "run", "readme"),
    (date(2024, 8, 18), "pretraining ends", "result", "readme"),
    (date(2024, 10, 24), "fine-tuning and exams described", "work", "readme"),
    (date(2024, 10, 28), "chat v1", "result", "readme"),
    (date(2024, 11, 13), "retrospective", "result", "readme"),
    (date(2025, 1, 17), "chat v2", "result", "readme"),
]

VAGUE = {
    date(2024, 3, 1): "early March",
    date(2024, 6, 5): "early June",
}  # as drawn: as the retrospective says

STEEL = {  # paper Table 1 and §3, released config.json
    "num_hidden_layers": 18, "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_size": 1792,
    "intermediate_size": 448, "num_experts": 6, "slots_per_expert": 1, "vocab_size": 151_936,
    "parameters": 1_122_922_770, "sequence_length": 2048, "micro_batch_size": 8, "gradient_accumulation": 8,
    "num_gpus": 8, "steps": 1_070_000, "learning_rate": 3e-4, "days_a100": 60, "days_h800": 30,
    "steps_at_withdrawal": 200_000,
}  # fmt: skip

UNTRIED = (
    "a model of the usual layers, to see whether the new ones help",
)  # no compute left: retrospective, on the model

_TABLE_2_COLUMNS = (
    "flash_attention",
    "rope",
    "rms_norm",
    "cross_entropy",
    "fsdp",
    "tokens_per_s",
    "memory_gb",
)
TABLE_2 = {  # paper Table 2: Qwen-1.8B on A100s, micro-batch 8; tokens/s per GPU, GB per GPU
    number: dict(zip(_TABLE_2_COLUMNS, row, strict=True))
    for number, row in {
        1: (True, "cuda", "torch", "triton", "full", 13_400, 65),
        2: (True, "torch", "torch", "triton", "full", 12_500, 65),
        3: (False, "cuda", "torch", "triton", "full", 10_600, 69),
        4: (True, "cuda", "torch", "triton", "no parameter sharing", 13_800, 69),
        5: (True, "cuda", "cuda", "triton", "full", 14_600, 61),
        6: (True, "cuda", "torch", "torch", "full", 13_000, 75),
        7: (True, "cuda", "cuda", "triton", "no parameter sharing", 15_000, 66),
        8: (False, "torch", "torch", "torch", "full", 10_500, 75),
    }.items()
}

QWEN_1_8B = {  # the model of Table 2 (config.json of Qwen-1.8B); sequence of 2048 tokens, A100
    "parameters": 1_836_828_672, "embedding": 151_936 * 2048, "layers": 24, "width": 2048, "sequence": 2048,
}  # fmt: skip

TABLE_3 = [  # paper Table 3: fine-tuning mixture, then C-Eval, CMMLU, MMLU in % right
    ("all of Infinity-Instruct (7 M, 90 % English) + Chinese multiple choice", 32.35, 26.32, 25.50),
    ("700k Chinese + Chinese multiple choice", 38.57, 33.48, 23.26),
    ("Chinese + 100 % English (340k each)", 39.21, 33.20, 26.73),
    ("Chinese + 20 % English", 40.43, 35.86, 26.75),
    ("Chinese + 20 % English + English multiple choice", 41.90, 36.08, 30.82),
]

EXAMS = {  # paper Table 4 and readme: (C-Eval, CMMLU) in % right; four options, so guessing gives 25
    "TinyLlama 1.1B": (25.02, 24.03), "Phi-2": (23.37, 24.18), "Gemma 2B it": (32.30, 33.07),
    "Llama 2 7B": (32.42, 31.11), "Llama 2 13B": (37.32, 37.06), "ChatGLM 6B": (38.90, 37.48),
    "CT-LLM SFT 2B": (41.54, 41.48), "Steel chat v1 1.1B": (38.57, 33.48), "Steel chat v2 1.1B": (41.90, 36.08),
    "Steel chat DPO 1.1B": (42.04, 36.04), "MiniCPM 1.2B": (49.14, 46.81), "Qwen1.5 1.8B chat": (56.84, 54.11),
}  # fmt: skip

PROJECTS = {
    "Steel-LLM": {
        "parameters": 1.12e9, "tokens": 1.1e12, "vocab": 151_936, "sequence": 2048, "gpus": "8 × A100, then 8 × H800",
        "stages": "pretraining, SFT, DPO", "tokenizer": "Qwen1.5, as it is", "source": "paper, readme",
    },
    "MiniLLM 0.2B": {
        "parameters": 218_155_008, "tokens": 64e9, "vocab": None, "sequence": 1024, "gpus": "4 × A800", "days": 3.79,
        "batch_sequences": 32 * 4, "sft_samples": 11_570_000, "stages": "pretraining, SFT (DPO in testing)",
        "tokenizer": "ChatGLM2-6B, as it is", "source": "minillm",
    },
    "MiniLLM 1.1B": {
        "parameters": 1.1e9, "tokens": 64e9, "vocab": None, "sequence": 896, "gpus": "8 × A800", "days": 1.0,
        "batch_sequences": 32 * 8, "stages": "pretraining, SFT",
        "tokenizer": "ChatGLM2-6B, as it is", "source": "minillm",
    },
    "HammerLLM": {
        "parameters": 1.4e9, "tokens": 445e9, "vocab": 105_789, "sequence": 2048, "gpus": "8 × A100",
        "stages": "pretraining", "tokenizer": "merged by the authors", "source": "hammer",
        "tokens_per_s": 16_000,
    },
}  # fmt: skip
MINILLM_CORPUS = {
    "without_wudao": 14e9,
    "table": 64e9,
    "release_note": 63.4e9,
}  # tokens; minillm §4.1, §4.2

HAMMER_CHINESE_PPL = {  # hammer: tokens seen → perplexity averaged over six Chinese domains
    50e9: 16.49, 100e9: 15.23, 150e9: 14.75, 200e9: 14.48, 250e9: 14.32, 300e9: 14.21, 345e9: 14.09,
    395e9: 14.00, 445e9: 13.95,
}  # fmt: skip
_HAMMER_COLUMNS = ("FCC", "SCC", "TCC", "bytes_per_token", "compared")
HAMMER_TOKENIZERS = {  # hammer: coverage of the national table's levels [%], bytes per token, tokens over Llama 2's
    name: dict(zip(_HAMMER_COLUMNS, row, strict=True))
    for name, row in {
        "ChatGLM": (99.97, 57.47, 2.99, 4.2911, 0.5303), "ChatGLM2": (100, 77.83, 13.89, 4.0329, 0.5642),
        "Baichuan2": (100, 99.8, 86.48, 4.1827, 0.5440), "InternLM": (100, 65.93, 5.67, 4.3133, 0.5276),
        "Qwen": (100, 100, 100, 4.1326, 0.5506), "Llama 2": (17.29, 0.13, 0, 2.2755, 1.0),
        "HammerLLM": (100, 100, 100, 4.3143, 0.5274),
    }.items()
}  # fmt: skip
HAMMER_THROUGHPUT = {"flash attention 2": 13_000, "flash attention 2 + compile": 16_000,
                     "the same, 32k vocabulary": 24_000}  # fmt: skip

PEAK = {
    "A100": 312e12,
    "A800": 312e12,
    "H800": 989.5e12,
}  # bf16 dense tensor FLOP/s; NVIDIA data sheets (SXM)

REPORTED_RUNS = [  # (run, parameters, tokens, days, GPUs, kind of GPU): pretraining as its source reports it
    ("MiniLLM 0.2B, 14 B tokens", 218_155_008, 14e9, 20 / 24, 4, "A800"),
    ("MiniLLM 0.2B, 64 B tokens", 218_155_008, 64e9, 3.79, 4, "A800"),
    ("MiniLLM 1.1B, 64 B tokens", 1.1e9, 64e9, 1.0, 8, "A800"),
    ("HammerLLM 1.4B (16k tokens/s)", 1.4e9, 16_000 * 86_400, 1.0, 1, "A100"),
    ("Steel 1.12B, A100 (author's estimate)", STEEL["parameters"], 1.07e6 * 2**20, 60, 8, "A100"),
    ("Steel 1.12B, H800 (author's estimate)", STEEL["parameters"], 1.07e6 * 2**20, 30, 8, "H800"),
]
# What Steel's scores were taken on: its `eval_chat.py` reads C-Eval's validation split (C-Eval paper, Table 1; the test
# split has 12,342) and CMMLU's test split (67 subjects). Both average over subjects.
EXAM_QUESTIONS = {"C-Eval": 1_346, "CMMLU": 11_582}
# How its scripts ask (Steel-LLM repository, commit 00349e4).
EXAM_CALLS = {
    "eval/eval_chat.py": "model.generate(input_ids, max_new_tokens=64, temperature=0.001)",
    "eval/eval_CMMLU.py": "model.generate(model_inputs.input_ids, max_new_tokens=64, temperature=0.001)",
}
# C-Eval, CMMLU of a Steel checkpoint (which is not said) by lm-eval, as minimind's README lists them.
LIKELIHOOD_SCORES = (24.89, 25.32)

# The author's own test of training on an exam: CMMLU [%] without and with its questions and letters among the rows of
# fine-tuning (retrospective of 13 November 2024). C-Eval hardly moved.
CMMLU_LEAKED = (33, 36)

# What a stranger finds of the run itself: checkpoints by thousands of steps (readme, 30 June and 2 September 2024), the
# seed of loader and initial weights in the released script.
RELEASED = {"checkpoints": (200, 480, 660, 720, 980, 1_060), "seed": 3407}

SAID = {
    "speed_up_percent": 50,
    "mfu_percent": (43, 63),
    "memory_saved_percent": 12,
}  # retrospective, fused operators

DISAGREEMENTS = {  # what → {source: number, or the words of the source}
    "warm-up (steps)": {"paper": 2000, "script": 1000},
    "SFT learning rate": {"paper": 2e-5, "script": 3e-5},
    "SFT epochs": {"paper": 4, "script": 5},
    "last step (thousands)": {"paper": 1_070, "readme": 1_060, "retrospective": 1_000},
    "time without a machine": {
        "readme": "early June to 18 July, six weeks",
        "retrospective": "over a week",
    },
    "whose C-Eval is 49.14": {
        "paper": "MiniCPM 1.2B, CMMLU 46.81",
        "readme": "MiniCPM 2B, CMMLU 51.0",
    },
}

# What Steel collected, from the data of Figure 2 in its repository, read as gigabytes, which the sizes of the downloads
# fit: 588 and 576 of Chinese web text (SkyPile, WanJuan), 29 of other Chinese sources, 388 of English (WanJuan), 201 of
# code (Python, Java, C++ of StarCoder).
STEEL_CORPUS_GB = {"web text, Chinese": 588 + 576, "other Chinese": 29, "English": 388, "code": 201}  # fmt: skip
