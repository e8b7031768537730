# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Eight months on borrowed machines
#
# In March 2024 a friend of a working engineer got hold of a server with eight A100 GPUs. Nobody could say for how long. The engineer, who
# writes as zhanshijin, had a job, evenings, and a question: with such a machine, can one person pretrain a language model that is not a toy?
#
# He set himself two goals. The size had to be real, a billion parameters and a trillion tokens, because small runs never meet the problems that
# large ones are made of. And the work was to be told while it happened, so that people without a machine could learn what only a machine
# teaches. The model was called **Steel**, after a rock band from the North China Plain, Omnipotent Youth Society (万能青年旅店), who had recorded
# their first album with what they had at home and called it 土法炼钢: making steel in a backyard furnace. A second engineer, lishu14, helped.
# {cite:p}`steelblog2024,steelreadme2025,steel2025`

# %% tags=["hide-input"]
from pathlib import Path

from steel import life as lifecycle
from steel.config import load, preset

cfg = preset()  # --preset NAME, then overrides
cfg.train.log_every = min(cfg.train.log_every, 4)
RUN = Path("runs") / f"00_story-{cfg.preset}"


# %% tags=["active-ipynb", "hide-input"]
# import json
# import math
# import shutil
# from collections import Counter
#
# import numpy as np
# import torch
#
# from figures import draw_00, facts
# from figures.experiments import first_model
# from figures.style import answer, badge, say, show, table
# from steel.data.shards import ShardSet
# from steel.evaluation.cloze import load_cloze
# from steel.model.folder import open_model
# from steel.plan import count_parameters
# from steel.runlog import read_log
# from steel.tokenizer import bpe
# from steel.train import checkpoint
# from steel.train.parallel import World
#
# cfg.train.steps, cfg.train.eval_every = first_model.STEPS, first_model.EVERY
# cfg.train.checkpoint_every = cfg.train.steps // 2
# parameters = count_parameters(cfg.model)["total"]
# budget = cfg.train.steps * cfg.train.batch_size * cfg.data.sequence_length
# show(draw_00.two_furnaces(parameters, budget), alt="Raw files are processed into documents, encoded as tokens, a model is trained on them, and the base model is asked what it knows. Below, the same way at two sizes: Steel in 2024 with eight GPUs, and this page on your CPU.",
#      caption="The way from text to a base model is the same at both sizes. The page goes it once, and tells what the larger one took.")

# %% [markdown]
# This chapter tells that story with its figures checked, and lights a small furnace of your own, which goes from raw text to a model that knows
# things while you read on.
#
# ```{admonition} Predict
# :class: predict
# Eight A100 GPUs, 1.12 billion parameters, 1.1 trillion tokens. Write down two numbers before you read on.
#
# 1. On how many days was the model in training, on this machine and on what came after it?
# 2. From the idea to the first chat model it took eight months. In what share of them, in percent, was the model being pretrained?
# ```
#
# ## Light the furnace
#
# First the fire, since it needs a minute or two. The way from nothing to a base model is a list of stages. Each leaves its result in the run folder, and a
# stage that is done is not done again; that is all there is to restarting after a crash at this level.

# %%
def base_model(cfg, run, **given):
    """World, documents, tokenizer, token shards, pretraining: each once, results in `run`."""
    life = lifecycle.Life(cfg, run)
    life.open()
    life.stage("world", life.make_world)
    life.stage("docs", life.make_documents)
    life.stage("tokenizer", life.make_tokenizer)
    life.stage("shards", life.make_shards)
    life.stage("pretrain", lambda: life.pretrain(**given))
    return life


# %% [markdown]
# The *world* is **SteelTown**, sixteen people who do not exist: where they come from, what they studied and where, who employs them, told in many ways, mostly in Chinese, some
# of it in English. The project writes it itself, from one seed. A model that has read about the town can be examined about it, and a model that has not cannot guess. So while this one
# trains we stop at every thirteenth step, eight times, and let it finish sentences such as “沈沐燕当年考上了” (“Back then Shen Muyan got into”), and count, as the package's exam does, how often
# it goes on with the fact: 24 sentences in Chinese, 24 in English.
#
# ```{admonition} Predict
# :class: predict
# A loss in *nats* per token says how surprised the model is by the next token: one that knows nothing hesitates between all 1,024 entries of its vocabulary, and its loss is ln 1024 = 6.93. This one
# will read four hundred thousand tokens, each document more than four times.
#
# 1. At how many nats per token does its loss on held-out text end?
# 2. Take the moment at which this loss has done four fifths of its whole way down. How many of the 24 Chinese facts does the model say by then?
# ```

# %% tags=["active-ipynb"]
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time
# torch.set_num_threads(1)  # for a model this small more of them cost more than they bring
# life = base_model(cfg, RUN, measure=first_model.facts_said(RUN), prompts=None)

# %% [markdown]
# It burns. Read on; nothing needs its result before [what it learned](#what-it-learned-and-when).
#
# ## Eight months, drawn
#
# The dates are the project's own, from its README or the author's retrospective; two of them are no more exact than "early March" and
# "early June", and are drawn on the 1st and the 5th. All published figures live in one file, `figures/facts.py`, each with its source.

# %% tags=["active-ipynb", "hide-input"]
# show(draw_00.eight_months(), alt="Timeline, March 2024 at the top to January 2025 at the bottom: two blue bars of training, 21 May to 5 June and "
#      "18 July to 18 August, between them a hatched gap without a machine; data and program before, chat models after.",
#      caption="Steel's published dates. Blue: the model is pretrained. Hatched: the machine is gone, from “early June” "
#              "(drawn on the 5th) to the README's note of 18 July; the retrospective makes this gap much shorter.")

# %% tags=["active-ipynb", "hide-input"]
# project = (draw_00.CHAT_V1 - draw_00.START).days
# first, second = ((end - begin).days for _, begin, end in draw_00.LEGS)
# trained = first + second
# answer("1.1", f"By its dates it took **about {trained} days**, {first} on eight A100s and {second} on eight H800s. "
#        "The author reckoned with 60 for the whole run on the first machine, or 30 on the second.", trained, unit="days")
# answer("1.2", f"About {trained} of **{project} days** from the idea to the first chat model: **{trained / project:.0%}**.",
#        round(100 * trained / project), unit="%")
# # If the gap was no longer than "over a week", the second leg began in mid-June.
# longest = trained + (draw_00.LEGS[1][1] - draw_00.LEGS[0][2]).days - 9
# say(f"With a gap of nine days instead, the second leg would have lasted {longest - first} days and the share would be {longest / project:.0%}.")

# %% [markdown]
# A fifth, by the README. The other four fifths are eighty days of
# data and program before the first step, the weeks without the machine in the middle, and ten weeks of fine-tuning and exams at the end, done after
# work. If you plan a run by its pretraining alone, you plan a fifth of it.
#
# How many weeks in the middle? Here the project's two accounts differ. The README notes 18 July as the day on which training continued; the
# retrospective says that the project lay idle for "over a week" (一周多) until a university offered its machine. Both can be true, if the offer came
# weeks before the machine. If the shorter gap is meant, the share rises to a third; but then the second leg took twice as long as the author says
# the *whole* run takes on that machine. And he says that the machine was lent for "a little over a month" (1个多月), so we draw the README's dates.
#
# Look at the orange part once more. Around step 200,000 of roughly a million, the machine was called back "for inference tests" and did not
# return. A university lent eight H800s and the run went on from its checkpoint. This only works if *everything* that the next step depends on is
# in that checkpoint: weights, optimizer, the place in the data, and no assumption about which machine will read it. Chapters 10 and 11 are
# about exactly that, and they kill runs on purpose.
#
# ## One multiplication
#
# The first question can be answered without a calendar. A model with $N$ parameters that reads $D$ tokens does about $6ND$ floating-point operations: two for each
# weight in the forward pass, four in the backward pass {cite:p}`kaplan2020`.
#
# ```{admonition} Napkin
# :class: napkin
# - Work: 6 × 1.12 × 10⁹ × 1.1 × 10¹² ≈ 7.4 × 10²¹ FLOP.
# - Machine: eight A100s, 312 TFLOP/s each on paper, say 40 % of it in practice: 10¹⁵ FLOP/s.
# - Time: 7.4 × 10⁶ s ≈ 86 days.
# ```
#
# The author says 60. Turn the napkin round and it says what his machine would have had to do:

# %%
def utilisation(parameters, tokens, days, gpus, peak):
    """Share of peak FLOP/s [1] that a reported run implies, at 6 FLOP per parameter and token.

    tokens in total, days of wall time, peak in FLOP/s of one GPU (dense, bf16)."""
    if min(parameters, tokens, days, gpus, peak) <= 0:
        raise ValueError("every argument must be above 0")
    return 6 * parameters * tokens / (days * 86_400 * gpus * peak)

share = utilisation(parameters=1_122_922_770, tokens=1_070_000 * 2**20, days=60, gpus=8, peak=312e12)
print(f"{share:.0%} of the peak, day and night")

# %% [markdown]
# That would be excellent for a first training program. Was it that good, or is the napkin wrong? The question has an answer, and
# [chapter 01](01_cost_plan.ipynb) computes it. It also holds six reported runs against their machines; one of them cannot have happened as it is written.
#
# ```{admonition} Takeaway
# :class: takeaway
# Parameters, tokens, days and GPUs imply a utilisation. Any report, including yours, that gives all four can be checked in a line.
# ```
#
# ## Three projects, one spring
#
# Steel was not alone. In the same months **build_MiniLLM_from_scratch** {cite:p}`minillm2024` set out to walk all four stages
# (pretraining, fine-tuning, reward model, reinforcement learning) at a cost that one person can carry, and **HammerLLM**
# {cite:p}`hammerllm2024` merged a tokenizer of its own and measured something worth copying: perplexity by domain, on recent
# text.

# %% tags=["active-ipynb", "hide-input"]
# table(["project", "parameters (B)", "tokens (B)", "tokens per parameter", "GPUs", "stages"],
#       [[name, f"{p['parameters'] / 1e9:.2f}", f"{p['tokens'] / 1e9:,.0f}", f"{p['tokens'] / p['parameters']:,.0f}", p["gpus"], p["stages"]]
#        for name, p in facts.PROJECTS.items()], "lrrrll")

# %% [markdown]
# Look at the fourth column. A compute-optimal model sees about 20 tokens per parameter {cite:p}`hoffmann2022`; a model that is
# meant to be *used* sees far more, because its user pays for every parameter again with every answer. Steel saw about a thousand, in the spirit of
# TinyLlama {cite:p}`tinyllama2024`, from whose training time the author had estimated his own.
#
# None of the three does everything. Steel has no reward model and ran its reinforcement learning on another model; MiniLLM describes four stages
# and had released two; HammerLLM stops at the base model. The package behind this book covers the union.
#
# ## Where the sources disagree
#
# Steel left four accounts: a paper, a README, the author's retrospective and the released scripts. They were written months apart, and they differ. We keep the
# differences, because they show where a number comes from.

# %% tags=["active-ipynb", "hide-input"]
# def shown(value):
#     if isinstance(value, str):
#         return value
#     return f"{value:,g}" if value >= 1e-3 else f"{value * 1e5:g} × 10⁻⁵"
#
# table(["what", "who says what"], [[what, "; ".join(f"{source}: {shown(value)}" for source, value in values.items())]
#                                   for what, values in facts.DISAGREEMENTS.items()], "ll")

# %% [markdown]
# One stands inside a single paper. Its text says that fused operators made training about 50 % faster; its Table 2 has 10,500 tokens
# per second and GPU without them and 15,000 with all of them, which is +43 %, on a Qwen model with 1.8 billion parameters. Memory rounded it to fifty. Over two months it is worth weeks. What the same operators did to the *utilisation* is a better story, and [chapter 01](01_cost_plan.ipynb) tells it.
#
# ## What it was worth
#
# C-Eval {cite:p}`ceval2023` and CMMLU {cite:p}`cmmlu2023` are Chinese exams with four options a question. A die scores 25 %.

# %% tags=["active-ipynb", "hide-input"]
# show(draw_00.exams(), alt="Exam scores of twelve models, sorted. TinyLlama and Phi-2 are at the guessing line of 25 percent, Llama 2 13B at 37, Steel's three "
#      "chat models between 38 and 42, CT-LLM beside them, MiniCPM at 49 and Qwen1.5 1.8B at 57.",
#      caption="As collected in the paper's Table 4 and the README, for the other models from the C-Eval paper and the reports of MiniCPM, MAP-Neo "
#              "and CT-LLM, so prompts and scoring differ. Bars: one standard error of Steel's C-Eval scores, 1.3 points.")

# %% [markdown]
# With a billion parameters and public data, Steel's second chat model passes Llama 2 with thirteen billion on C-Eval and comes within a point of it on CMMLU. (Its fine-tuning
# held multiple-choice questions, so the form of the exam had been practised.) A Qwen of less than twice
# its size, made by a company, leaves it far behind.
#
# The larger lesson hides between the three Steel dots. From v1 to v2 the C-Eval score rose by 3.3 points and no weight was added:
# the fine-tuning mixture got the share of English that pretraining had had, and English exam questions. How sure is that? Steel's script reads the *validation* split of C-Eval, 1,346
# questions, so one score has a standard error of 1.3 points and a difference of two about 1.9: suggestive, no more. On CMMLU's 11,582 questions the same step is 2.6 points against
# 0.6, too much for luck with the questions. Luck with the fine-tuning, another seed of the same mixture, nobody has measured. DPO, a round of training on preferences, then added 0.14 points, which exercise 00.2 asks you to judge.
#
# And what is a right answer? Steel's chat models write freely; patterns look for a letter, and where none fits, on C-Eval the option counts that is spelled most like the answer and on CMMLU a random letter: there is
# never "no answer". The usual harness compares the likelihoods of the four letters instead, and minimind's README lists a Steel checkpoint, without saying which, at 24.89 on C-Eval and 25.32 on CMMLU: guessing. Scores from
# different papers are not one ruler, and 49.14 even stands under two models' names (last row of the table above).
#
# The author says what he would do otherwise: a tokenizer of his own, a study of the data mixture, cleaning across sources, better English; and a plain model trained beside the altered one,
# to know what the alteration bought.
#
# ## What went in
#
# SteelTown is written in the raw formats of Steel's own sources, mistakes of real files included.

# %% tags=["active-ipynb"]
# files = sorted((RUN / "world" / "raw").rglob("*.*"))
# print(f"{len(files)} raw files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB. In one:")
# print((RUN / "world/raw/baidu_baike/baidubaike.json").read_text(errors="replace")[:230])

# %% [markdown]
# An encyclopedia entry about somebody who does not exist, in the container that Baidu Baike's dump uses. The pipeline turned raw records into clean documents and wrote
# down what became of each: the rows add up, here and in every run.

# %% tags=["active-ipynb", "hide-input"]
# report = json.loads((RUN / "docs" / "report.json").read_text())
# steps_of = [source["steps"] for source in report["sources"].values()]
#
# def total(step, *keys):
#     return sum(s[step][keys[0]] - (s[step][keys[1]] if len(keys) > 1 else 0) for s in steps_of)
#
# counts = {"raw records": total("convert", "in"), "rejected by a converter": total("convert", "in", "kept"),
#           "removed by an operator": total("clean", "in", "kept"), "removed as duplicates": total("dedup", "in", "kept"), "documents": total("dedup", "kept")}
# assert counts["raw records"] == sum(counts.values()) - counts["raw records"]
# table(["", "records"], [[name, f"{number:,}"] for name, number in counts.items()])

# %% [markdown]
# Then a vocabulary, and the documents as one stream of token ids. Counting tokens gives the second landmark of any loss curve: a model that knows *only* how often each token occurs
# has the **unigram entropy** as its loss.

# %% tags=["active-ipynb"]
# tokenizer = bpe.load(RUN / "tokenizer")
# shards = ShardSet.open(RUN / "shards")
# ids = np.empty(shards.tokens, shards.dtype)
# shards.read(0, ids)
# frequency = [n / len(ids) for n in Counter(ids.tolist()).values()]
# uniform = math.log(cfg.model.vocab_size)
# unigram = -sum(p * math.log(p) for p in frequency)
# print([tokenizer.decode([i]) for i in bpe.encode_text(tokenizer, "她毕业于弘毅大学。")])
# say(f"{len(ids):,} tokens; training reads {budget:,}, which is {budget / len(ids):.1f} passes. "
#     f"Knowing nothing: {uniform:.2f} nats per token. Knowing the frequencies: **{unigram:.2f}**. "
#     "Everything below that was learned from order.")

# %% [markdown]
# ## What it learned, and when

# %% tags=["active-ipynb", "hide-input", "within-0.5"]
# towns = {"1": first_model.examined(RUN), **first_model.others()}
# asked = towns["1"]
# there, late = first_model.reached(asked, 0.8), first_model.reached(asked, 0.95)
# show(draw_00.learning(read_log(RUN / "pretrain" / "log.jsonl", "step"), towns, uniform, unigram), alt="Two panels over tokens read. Above, held-out loss falls from 6.9 nats through the unigram entropy of 5.6 to about 1.0. Below, the share of its way that the loss has done, which rises at once and flattens, and the share of the facts said, which stays at zero for the first quarter, stands at a quarter to two fifths of the Chinese ones at half, and ends at 18 to 21 of 24; of the English facts 3 to 6 come, late. Two other seeds look alike.",
#      caption="Above: the loss of your run. Below, on the same axis: how much of its way down the loss has done, and how many of 24 facts in each language the model says. "
#              "Thin: two other seeds, each with a town, a vocabulary and a beginning of its own (figures/runs/first-model.json).")
# ends, said_there = [rows[-1]["loss"] for rows in towns.values()], [rows[first_model.reached(rows, 0.8)]["facts_zh"] for rows in towns.values()]
# answer("2.1", f"At **{ends[0]:.1f} nats**, where the model hesitates as between {math.exp(ends[0]):.1f} tokens in place of 1,024.", ends[0], low=min(ends), high=max(ends), unit="nats per token")
# answer("2.2", f"At step {asked[there]['step']}, with {100 * first_model.way_down(asked)[there]:.0f} % of the way done, it says **{said_there[0]} of 24**; with the two other seeds {said_there[1]} and {said_there[2]}. "
#        f"At the end it says {asked[-1]['facts_zh']}.", said_there[0], low=min(said_there), high=max(said_there), unit="facts")
# say(f"From step {asked[there]['step']} to step {asked[late]['step']} the loss goes from {asked[there]['loss']:.1f} to {asked[late]['loss']:.1f} nats, a small part of its way, and the facts from {asked[there]['facts_zh']} to {asked[late]['facts_zh']}.")
# for rows in towns.values():
#     assert rows[first_model.reached(rows, 0.8)]["facts_zh"] < rows[-1]["facts_zh"] / 2 and rows[-1]["facts_en"] < rows[-1]["facts_zh"]

# %% [markdown]
# What, then, does the first part of the descent buy? The run has left a checkpoint halfway. Ask it again, and count as well the answers that are wrong but of the right kind: *some* city where a city is asked for.

# %% tags=["active-ipynb", "hide-input", "within-0.5"]
# questions = [row for row in load_cloze(RUN / "world" / "exam" / "cloze.jsonl") if row["lang"] == "zh"]
# halfway, _ = life.untrained()
# saved = checkpoint.complete(RUN / "pretrain" / "checkpoints")[0]
# checkpoint.load(saved, halfway, [], World())
# kind, right = first_model.right_kind(halfway.eval(), tokenizer, questions)
# say(f"At step {checkpoint.read_state(saved)['step']} it goes on with a word of the right kind in **{kind} of {len(questions)}** sentences, and with the right word in **{right}**.")
# assert kind > 1.4 * right

# %% [markdown]
# (This reading takes the next tokens as they come. The curve is stricter: there, as in the package's exam, the model must also spell the end of the prompt again, in tokens of its own choice, which may cost it a fact or two.) Four facts about Luo Jiazhou, before any training, halfway, and at the end:

# %% tags=["active-ipynb", "hide-input", "timing"]
# def continue_text(model, prompt, tokens):
#     ids_BT = torch.tensor([bpe.encode_text(tokenizer, prompt)])     # B = 1, T tokens
#     out_BT = model.generate(ids_BT, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
#     return tokenizer.decode(out_BT[0], skip_special_tokens=True).split("。")[0].split("\n")[0]
#
# untrained, _ = life.untrained()
# trained_model, _ = open_model(RUN / "pretrain" / "hf", device="cpu")
# for row in questions[4::6]:  # what a half-trained model says, word for word, is a matter of rounding: not compared
#     print(f"before   {continue_text(untrained, row['prompt'], 6)}")
#     print(f"halfway  {continue_text(halfway, row['prompt'], 8)}")
#     print(f"after    {continue_text(trained_model, row['prompt'], 8)}   (true: {row['answer'].strip()})")

# %% [markdown]
# First the forms, then the facts. Halfway it knows that a city must follow and what cities there are, and names one of them. Which city belongs to whom concerns few tokens and is worth little loss, so we take it;
# it is what a user asks for first. In our run one of the four, the home, is still another's at the end. English, of which the model reads less, comes last.
#
# ```{admonition} Takeaway
# :class: takeaway
# Loss has landmarks that cost nothing to compute, the logarithm of the vocabulary and the unigram entropy. Beyond them it says how surprised a model is, not what it knows: a loss
# that has done four fifths of its way may have most of its facts still to come. Ask while you train.
# ```
#
# ## At full scale
#
# The last cell of every chapter starts the run of the chosen preset. Here it does what you have just seen, without the questions; since all its stages are done, it has nothing left to
# do in this notebook. The exported script does it from nothing, at any size. (This page stops `cpu` at 104 of 120 steps, to spare you some seconds; the script does not.)
#
# ```text
# python notebooks/00_story.py --preset cpu
# python notebooks/00_story.py --preset laptop train.steps=1600
# ```
#
# A preset is the same program with other numbers:

# %% tags=["active-ipynb", "hide-input"]
# names = ["cpu", "laptop", "steel-1b"]
# choices = [load(name) for name in names]
# table(["setting", *names],
#       [["layers", *(c.model.num_hidden_layers for c in choices)],
#        ["width (channels)", *(f"{c.model.hidden_size:,}" for c in choices)],
#        ["vocabulary (entries)", *(f"{c.model.vocab_size:,}" for c in choices)],
#        ["sequence (tokens)", *(f"{c.data.sequence_length:,}" for c in choices)],
#        ["batch (sequences)", *(f"{c.train.batch_size:,}" for c in choices)],
#        ["steps", *(f"{c.train.steps:,}" for c in choices)]])

# %% [markdown]
# The same dataclass, the same loop, the same checkpoint format; a step holds two hundred and fifty-six times the tokens (batch times sequence).
# `make run` goes further than this chapter: the laptop preset, then fine-tuning, preferences, reinforcement learning, an exam after each stage and a report card, in eight minutes on two idle
# cores. For the eight-GPU version read on to chapter 11, and plan it with [chapter 01](01_cost_plan.ipynb) first: by its author's estimate Steel's base model costs 480 GPU-days of A100 (8 × 60), or half that of H800.
#
# ## Failure gallery
#
# What went wrong in eight months, and what stands against it here.
#
# ```{admonition} The machine leaves
# :class: failure
# Early June 2024, about step 200,000: eight A100s are withdrawn for good. **Kept alive by** checkpoints and a resume that restores the place in the data. **Here:** runs that are killed
# and restarted on as many processes are tested to be equal bit for bit; on another number of processes they read the same samples in the same order, and the loss agrees up to rounding (chapters 10, 11).
# ```
#
# ```{admonition} The logger stops the training
# :class: failure
# The only restart by fault of the whole run: the network failed, and the experiment tracker blocked the loop. **Here:** the log is a local file of JSON lines; trackers read it, and training does not wait for
# them.
# ```
#
# ```{admonition} A base model that neither continues nor chats
# :class: failure
# Dialogues were mixed into pretraining from the first step, prompts in the loss, in the hope of a model that talks without fine-tuning. It came out as neither. **Here:** dialogues can wait for the annealing
# stage, the last stretch of pretraining at a falling rate, with text beside them, or for fine-tuning.
# ```
#
# ```{admonition} A layer nobody could compare
# :class: failure
# The soft mixture of experts trained fast, and there was no budget left for a plain model beside it. **Here:** chapter 07 finds out what the speed was made of, and chapter 08 trains the plain models too, small, with seeds.
# ```
#
# ```{admonition} Data that did not come
# :class: failure
# Readers were invited to send texts of their own for the model to remember. Almost nothing arrived, and the form was taken down. **Here:** `personal` is a source like any other: a folder of
# your texts, converted and counted with the rest.
# ```
#
# ## Exercises
#
# **00.1 Recall.** Name the three stages of the eight months that took longer than either leg of training.

# %% tags=["active-ipynb", "hide-cell"]
# spans = {"data and program": (draw_00.START, draw_00.LEGS[0][1]), "no machine, by the README": (draw_00.LEGS[0][2], draw_00.LEGS[1][1]),
#          "fine-tuning and exams": (draw_00.LEGS[1][2], draw_00.CHAT_V1)}
# for what, (begin, end) in spans.items():
#     print(f"{what}: {(end - begin).days} days")
#     assert (end - begin).days > max(first, second)

# %% [markdown]
# **00.2 Calculate.** DPO moved C-Eval from 41.90 to 42.04 on 1,346 questions. How many questions is that, how large is the standard error of one such score, and what do you conclude?

# %% tags=["active-ipynb", "hide-cell"]
# error = draw_00.standard_error(41.90)
# gained = (0.4204 - 0.4190) * facts.EXAM_QUESTIONS["C-Eval"]
# print(f"standard error {error:.2f} points; the gain of 0.14 points is a tenth of it, {gained:.0f} questions")
# assert round(error, 2) == 1.34 and round(gained) == 2
# # Both models answer the same questions, so a paired comparison has a smaller error than this.
# # It needs the answers, though; two totals say nothing about 0.14 points.

# %% [markdown]
# **00.3 Code.** A plan wants the inverse of `utilisation`: write `days(parameters, tokens, gpus, peak, share)`, the wall-clock days of a run at utilisation `share`, and refuse a share that no machine can reach.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def days(parameters, tokens, gpus, peak, share):
#     if not 0 < share <= 1:
#         raise ValueError(f"share is {share}; it must lie above 0 and not above 1")
#     return 6 * parameters * tokens / (gpus * peak * share * 86_400)
#
# check("00.3", days)

# %% [markdown]
# **00.4 Break it.** Remove the script's folder under `runs/`, if it has run before. Start the script, kill it with `kill -9` in the second half of pretraining, when its first
# checkpoint stands, and start it again. Which stages run a second time? What does `pretrain/log.jsonl` show, and
# which step comes after the break?
#
# ```{dropdown} Answer 00.4
# Stages that had finished are skipped; `pretrain` goes on from its newest complete checkpoint, with the step after it. The log gains a second header and a `resume` event that names the
# checkpoint, and the lines of steps that the dead process had taken beyond it are gone, so that every step stands there once. A polite `kill` costs nothing: the program saves first, and the event
# before the resume says `stopped`.
# ```
#
# **00.5 Open.** Find a contradiction in the sources that this chapter does not mention, and say which side you believe. Budget: none, a pencil is enough.
#
# ```{dropdown} One answer to 00.5
# The retrospective gives about 30 days on eight H800s for the whole run. The leg that really ran on them did about 870,000 of 1,070,000 steps between 18 July and 18 August, 31 days; the whole
# would have taken 38. The dates are those of announcements, so the leg may have been shorter, but it would have had to be 24 days.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is $6ND$?** Training FLOP of a model with $N$ parameters on $D$ tokens: two per weight forward, four backward. It ignores attention and
# counts every parameter as a multiplication, which an embedding is not.
# ```
#
# ```{admonition} Card
# :class: card
# **Loss of a model that knows nothing?** ln V nats per token. **That knows only frequencies?** The unigram entropy.
# ```
#
# ```{admonition} Card
# :class: card
# **Utilisation and tokens per second, same model, same machine?** The same number in two units: their ratios must agree.
# ```
#
# ```{admonition} Card
# :class: card
# **What must a checkpoint hold to survive another machine?** Weights, optimizer, schedule, the place in the data, random state; and no assumption about the number of processes.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %%
if __name__ == "__main__":
    life = base_model(cfg, RUN)
    print(f"base model: {RUN / 'pretrain' / 'hf'}")
