# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17 · What did the exam ask?
#
# Steel's readme gives its chat model 41.90 % on C-Eval {cite:p}`ceval2023` and 36.08 % on CMMLU {cite:p}`cmmlu2023`, measured with its author's scripts {cite:p}`steelreadme2025`. Another small model's readme has a table by lm-eval, a program that puts exams to models {cite:p}`lmeval2024`, and there Steel-LLM stands at 24.89 and 25.32 {cite:p}`minimind2026`. Which checkpoint was tried is not said. One of the two tables makes it a decent student, the other a die.
#
# Both can be right. An exam of four options can be put to a language model in ways that differ in what they ask *it* to do. What each of them measures is hard to see on Steel, because nobody knows what it knows. So we take a town of 64 people who live in 16 places, and models that know it by heart.

# %% tags=["hide-input"]
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from figures.experiments import letters
from steel.cli import main as command_line
from steel.evaluation.results import share
from steel.evaluation.scoring import score_continuations

threads = torch.get_num_threads()
torch.set_num_threads(1)
RUN = Path("runs") / "17_exams"
home = letters.homes(1)

# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_17
# from figures.claims import log
# from figures.lives import signed
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)
# toy, towns = log("letters"), log("harness")
# show(draw_17.ways(),
#      alt="Four ways to ask where somebody's home is. Likeliest option: the sentence without its end; which of four places is the likeliest? Letter behind the right option: question, options and the right sentence; which letter comes next? Letter written: question and options; the model says an option and a letter. Letter at once: question and options; which letter is the likeliest?",
#      caption="“Where is Cao Zeqing's home town?”, put in four ways. Light: question and options; darker: what stands of the answer; frame: where the model is read. Of what it writes, the option can be judged as well (“option said”). Drawn with the town's words in the toy's form: in the town a reply begins with 答案是 (“the answer is”), the likeliest option follows the bare question, and likeliest means per byte.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# A model has learnt where everybody lives: asked for the likeliest option, it is right in 100 %. It has also practised to find letters in lists without people, and been asked questions with options about *half* of them. The exam is about the other half.
#
# 1. Its practice answers were place and letter. In how many per cent is the letter written the right one?
# 2. The same model, asked for the letter *at once*: right in how many per cent?
# 3. Another one has practised with the letter alone, as C-Eval's answer sheet has it, on the same questions as often. Asked for the letter at once about the other half: right in how many per cent?
# ```
#
# ## Build: a town, a drill, an exam
#
# A person is one token, a place is one token. Every model reads who lives where. To be asked with options, a model must know what to do with a list; so it gets a drill without people, four places with their letters, then places drawn from them, each to be followed by *its* letter:

# %%
fact, _ = letters.fact(7, home)
drilled, _ = letters.drill("after", np.random.default_rng(1))
asked, _ = letters.exercise(7, home, letters.ARMS["drill and questions"],
                            np.random.default_rng(2))
short, _ = letters.exercise(7, home, letters.ARMS["drill and letters"],
                            np.random.default_rng(2))
for name, ids in (("fact", fact), ("drill", drilled),
                  ("place and letter", asked), ("letter alone", short)):
    print(f"{name:17}", letters.spelt(ids))

# %% [markdown]
# Two models, each of two layers. Both read facts, drill and questions about the first 32 people, as often; one is answered with place and letter, the other with the letter.

# %% tags=["active-ipynb"]
# both = {}
# for arm in ("drill and questions", "drill and letters"):
#     model = letters.learned(arm, 1, RUN / arm.replace(" ", "_"))
#     both[arm] = letters.exam(model, arm, 1)
# assert min(found["text"] for found in both.values()) > 0.9
# assert both["drill and questions"]["written"] > 0.5
# print("both know where the other half lives")

# %% tags=["active-ipynb", "within-0.3", "hide-input"]
# names = {way: word for way, (word, *_) in draw_17.WAYS.items()}
# table(["questions about the other 32 people, right", "practised with place and letter", "with the letter alone"],
#       [[word, *(f"{100 * found[way]:.0f} %" if way in found else "–" for found in both.values())] for way, word in names.items()])

# %% [markdown]
# What the letter asks for is not one thing but two. *Where does p40 live?* is in the weights. *Which letter stands behind that place?* is in the prompt. A model that writes the place first does one after the other: the place that it wrote is then a token to look for. A model that has to say the letter at once must do both in a single pass, and must have learnt to hand a result over. Practice does not force it to: it can also learn, name by name, which place to look for. How much of that is there? Ask it about those whom it has practised with:

# %% tags=["active-ipynb", "within-0.3"]
# known = letters.exam(model, "drill and letters", 1, people=range(32))["letter"]
# print(f"letter at once, people it practised with: {known:.0%}")

# %% [markdown]
# More than about the others (one seed): part of what letters alone teach is name by name.

# %% tags=["active-ipynb", "hide-input"]
# seeds = sorted({r["seed"] for r in toy})
# by = {arm: [r for r in toy if r["arm"] == arm] for arm in dict.fromkeys(r["arm"] for r in toy)}
# written = [100 * r["written"] for r in by["drill and questions"]]
# at_once = [100 * r["letter"] for r in by["drill and questions"]]
# bare = [100 * r["letter"] for r in by["drill and letters"]]
# mean = lambda values: sum(values) / len(values)
# answer("1.1", f"**{mean(written):.0f} %** over {len(seeds)} seeds ({min(written):.0f} to {max(written):.0f}).", mean(written), low=min(written), high=max(written), unit="%")
# answer("1.2", f"**{mean(at_once):.0f} %**, chance ({min(at_once):.0f} to {max(at_once):.0f}).", mean(at_once), low=min(at_once), high=max(at_once), unit="%")
# answer("1.3", f"**{mean(bare):.0f} %** ({min(bare):.0f} to {max(bare):.0f}), although it knows all of them by text.", mean(bare), low=min(bare), high=max(bare), unit="%")

# %% [markdown]
# ## What was tried
#
# Three seeds each; 400 steps, but for the last two rows:

# %% tags=["active-ipynb", "hide-input"]
# show(draw_17.toy(toy),
#      alt="Nine kinds of practice, four ways of asking, a mark a seed; right in per cent. " + "; ".join(f"{draw_17.PRACTICE.get(arm, arm)}: {draw_17.spans(toy, tuple(draw_17.WAYS), arm)}" for arm in by) + ".",
#      caption="What else was read, and what the exam then finds. Every model knows every fact: the likeliest option is always right.")

# %% [markdown]
# In every seed the drill works best with the letter directly behind its place, 61 to 81 %: a model can look for where the place has stood before and take what came next. With the letter in front it has to look one step back from there, 29 to 52 %. With a sign between them the drill brings 27 to 31 %, where facts alone bring 25 to 29: what came next is then the same four times.
#
# Practice with place and letter works for people of whom no question has spoken. Letters alone are not for nothing: they bring 30 to 56 % at once. They bring it without the drill's skill: behind the right option two of these three are at chance. Three times as many steps move the letter at once by −20, +9 and +1 points, and the letter written by −4, −21 and −8; with three seeds neither can be told from nothing. Here a score by letters measures first whether this step has been learnt, and only then what is known.
#
# ## Three towns
#
# Three *lives* (chapter 14) of preset `laptop` have begun with a drill of letters behind places, read their town with some of it among the text, and were then fine-tuned on chat turns. After that:

# %% tags=["active-ipynb", "hide-input"]
# first = [r for r in towns if r["arm"] == "chat"]
# direct, twice = ([r["subjects"][n] for r in first for n in r["subjects"] if n.startswith(some)] for some in (("city", "company", "major", "university"), "hop2"))
# three_ways = ("bind", "written", "letter")
# show(draw_17.subjects(first),
#      alt=f"Ten kinds of question, three ways, a mark a life; right in per cent. Direct facts: {draw_17.spans(direct, three_ways)}. Product of the home town: {draw_17.spans(twice, three_ways)}.",
#      caption="Three lives of preset laptop after fine-tuning, by kind of question.")
# spoken = [r for r in log("life-seeds") if r["stage"] == "sft"]
# sure = [100 * r["generate"] / (1 - r["unparsed"]) for r in spoken]
# silent = [sum(1 - r["subjects"][n]["generate"] for n in ("hop2_zh", "hop2_en")) * r["n"] / 10 / (s["unparsed"] * r["n"]) for r, s in zip(first, spoken)]
# say(f"In turns these models name the right option or none: of the replies that name one, {min(sure):.0f} to {max(sure):.0f} % are right, and of those that name none {100 * min(silent):.0f} to {100 * max(silent):.0f} % are about the product of the home town. That question takes two facts. Behind the right option its letter is mostly right; the model seldom gets there.")
# assert min(sure) > 97 and min(silent) > 0.5 and min(r["bind"] for r in twice) > 0.6

# %% [markdown]
# Another kind used to fail, and the toy suggested why. The town's universities were called Songhe University, Minghu University, and so on; behind the right one the letter was a guess. A model that looks for where the last token has stood before, and takes what came next, finds *University* four times:

# %% tags=["active-ipynb", "hide-input"]
# four = ("Songhe", "Minghu", "Beichen", "Yuanshan")
# show(draw_17.last_token([("as it was", [f"{name} University" for name in four]), ("as it is", [f"University of {name}" for name in four])]),
#      alt="Two lists of four options with their letters, a box a token. Above, as it was: Songhe University A, Minghu University B, and so on; before each letter stands the same token, University. Below, as it is: University of Songhe A, University of Minghu B, and so on; before each letter stands another name.",
#      caption="Filled: the token before the letter. (A Chinese university is one token, 大学 included.)")

# %% [markdown]
# They are now the University of Songhe, of Minghu, and within their error do as well as home towns. To be sure of the cause, we give the home towns that last word, too:

# %% tags=["active-ipynb", "hide-input"]
# ends = lambda name: " · ".join(f"{100 * r['endings'][name]:.0f}" for r in first)
# table(["letter behind the right English option", "right (%), three lives"], [[name, ends(name)] for name in first[0]["endings"]])
# assert all(r["endings"][f"{kind}, University behind"] < 0.4 < 0.6 < r["endings"]["home towns, University before"] for r in first for kind in ("home towns", "universities"))

# %% [markdown]
# *University* behind each name takes their letters away; *University* in front takes nothing.
#
# And what is the *form* worth? The same three models sat the same exam in eight forms.

# %% tags=["active-ipynb", "hide-input"]
# shown = ("text", "generate", "bind", "letter")
# show(draw_17.harness(towns),
#      alt="Eight rows, three models, four ways; right in per cent. " + "; ".join(f"{draw_17.FORMS.get(arm, arm)}: {draw_17.spans(towns, shown, arm)}" for arm in dict.fromkeys(r["arm"] for r in towns)) + ".",
#      caption="The same models, the same questions about the same people. Only the form differs. Separator: <|endoftext|> in front; letters before: A stands in front of its option, not behind.")
# span = lambda arm, way: (lambda v: f"{min(v):.0f} to {max(v):.0f} %")([100 * r[way] for r in towns if r["arm"] == arm])
# each = lambda arm, way: [100 * r[way] for r in towns if r["arm"] == arm]
# apart = lambda arm, other, way: [a - b for a, b in zip(each(arm, way), each(other, way))]
# listed = lambda v: "{}, {} and {}".format(*map(signed, v))
# every, spaced = [100 * r["letter"] for r in towns], "text, lm-eval's words"
# english = lambda arm: [r["subjects"][name] for r in towns if r["arm"] == arm for name in r["subjects"] if name.endswith("_en")]
# assert english(spaced) == english("text")
# say(f"The right option is said in {span('chat', 'generate')} of the answers in chat turns, in {span('text', 'generate')} where the question is a text to continue, in {span('chat, two examples', 'generate')} behind two worked examples in turns. The likeliest option: {span('chat', 'text')}, then {span('text', 'text')} in a text. The letter at once: {min(every):.0f} to {max(every):.0f} %, whatever the form.")
# say(f"Small things can count where a form is new. lm-eval puts a space between 答案： and the reply: that alone moves the likeliest option by {listed(apart(spaced, 'text', 'text'))} points, all of it in Chinese (the English half had the space all along). `<|endoftext|>`, which stands before every document in pretraining and before no chat turn, can be put there as well: {listed(apart('chat, separator first', 'chat', 'written'))} points of letters written, over three lives nothing. Say which you did.")

# %% [markdown]
# These models have been taught to answer in turns. Outside of them far fewer replies name the right option. Letters in front of the options, as C-Eval prints them, take away what the drill has taught.
#
# In a table of scores this would pass for a difference between models. Back to the two that we began with. The author's script for C-Eval lets the model write in a chat turn, looks for a letter in the reply and, where there is none, takes the option that it resembles most; lm-eval compares the likelihoods of four letters, outside of a turn unless told otherwise. In the town either difference, not to be asked in a turn or not to be allowed to write first, takes a model that knows down to about a quarter. Which of them it was on Steel, whose fine-tuning holds bare letters as well as explanations with the letter last, nobody has tried. So both scores can be right. Two can be compared only if the form is the same *and* is one that both models know.
#
# ## How sharp is an exam?
#
# ```{admonition} Predict
# :class: predict
# Two unrelated models score 41.9 % and a little more on C-Eval's 1,346 public questions. From how many points on does the difference exceed two standard errors?
# ```
#
# **Napkin.** A question is right or wrong, so a score $p$ over $n$ independent questions has the standard error $\sqrt{p(1-p)/n}$. With 1,346 questions at 41.9 % that is 1.34 points; with CMMLU's 11,582 at 36 %, 0.45. Between two models that have nothing to do with each other, variances add.
#
# After DPO the author's model scored 42.04 instead of 41.90 on C-Eval. Both are means over subjects; counted in answers, that is about two of 1,346. But before and after DPO a model is nearly the same model, and both sat the same questions. Then only those questions count whose answer *changed*: with $b$ better and $w$ worse the difference is $(b-w)/n$ and, as long as $b$ and $w$ are about equal, its error $\sqrt{b+w}/n$. Should one answer in ten have changed, that is 0.86 points. Two answers are nothing either way.

# %%
n, p = 1346, 0.419
alone = math.sqrt(p * (1 - p) / n)
unrelated = math.sqrt(2) * alone
changed = 0.1 * n
print(f"one score          ± {100 * alone:.2f} points")
print(f"two, unrelated     ± {100 * unrelated:.2f}")
print(f"paired, 10 % moved ± {100 * math.sqrt(changed) / n:.2f}")


# %% tags=["active-ipynb", "hide-input"]
# answer("2", f"**{200 * unrelated:.1f} points.**", 200 * unrelated, unit="points")

# %% [markdown]
# The town asks ten questions about each of 38 people. Who knows one answer about somebody *may* know the others. Then 380 questions are not 380 independent ones, and the napkin's error is too small. Two models that are equally good, three hundred times; how often do they seem to differ by more than two standard errors?

# %% tags=["active-ipynb"]
# people, rng = np.repeat(np.arange(38), 10), np.random.default_rng(0)
#
# def alarms(shared, trials=300, p=0.7):
#     """Share of false alarms: questions as independent, and clustered."""
#     found = np.zeros(2)
#     for _ in range(trials):
#         whole = (rng.random((2, 38)) < p)[:, people]
#         each = rng.random((2, 380)) < p
#         right = np.where(rng.random((2, 380)) < shared, whole, each)
#         moved = (right[1].astype(int) - right[0]).tolist()
#         for k, clusters in enumerate((None, people.tolist())):
#             s = share(moved, clusters)
#             found[k] += abs(s["accuracy"]) > 2 * s["se"]
#     return found / trials

# %% tags=["active-ipynb"]
# print("known by person   plain   clustered")
# for shared in (0.0, 0.5, 0.8):
#     plain, clustered = alarms(shared)
#     print(f"{shared:15.0%} {plain:7.0%} {clustered:11.0%}")

# %% [markdown]
# The clustered error adds what the questions of one person contribute before it squares {cite:p}`miller2024`:
#
# $$ \mathrm{se}^2 = \frac{1}{n^2} \sum_{c} \Big( \sum_{i \in c} (s_i - \bar s) \Big)^2 . $$
#
# Here $s_i$ is what question $i$ scores, $c$ a family. And the town?

# %% tags=["active-ipynb", "hide-input"]
# both_errors = [[100 * e for e in r["errors"]["generate"]] for r in spoken]
# plain, by_person = (" · ".join(f"{e[k]:.1f}" for e in both_errors) for k in (0, 1))
# say(f"Option said, after fine-tuning, three lives: plain errors of {plain} points, clustered by person {by_person}. {'The clustered ones are the smaller.' if all(b < a for a, b in both_errors) else 'They are about alike.'}")

# %% [markdown]
# What goes together here is not a person but a kind of question: everybody is asked the same ten, and nearly everybody's product of the home town is missed. Such persons are more alike than ten throws of a coin each, and the plain error is too *large*. Measure it; the sign is not known beforehand.
#
# `steel eval exam` clusters by what questions share, a person here, the first 80 characters in CMMLU; `steel eval compare` takes differences question by question and clusters those.
#
# ## What a stranger earns
#
# Next to a score belongs what it costs nothing to get, its *baselines*.
#
# ```{admonition} Predict
# :class: predict
# Somebody who cannot read always takes the longest option, in the first twenty questions of each of CMMLU's 67 subjects. Right in how many per cent?
# ```

# %% tags=["active-ipynb", "hide-input"]
# import json
#
# from figures.claims import ROOT
#
# die_page = json.loads((ROOT / "figures/runs/cmmlu-tiny.json").read_text(encoding="utf-8"))
# die = die_page["arms"]["steel, chat"]
# base, tiny = die["baselines"], die["scoring"]
# table([f"CMMLU, the first {die_page['limit']} of each subject, {die['n']:,} in all", "right"],
#       [["always A", f"{100 * base['always_a']:.1f} %"], ["the longest option", f"{100 * base['longest']:.1f} %"],
#        *([f"a model that knows nothing, {word}", f"{100 * tiny[way]['accuracy']:.1f} ± {100 * tiny[way]['se']:.1f} %"] for way, word in (("letter", "letter at once"), ("text", "likeliest option"), ("generate", "option said"))),
#        ["the same, a letter drawn where none was written", f"{100 * (tiny['generate']['accuracy'] + tiny['generate']['unparsed'] / 4):.1f} %"]])
# answer("3", f"**{100 * base['longest']:.1f} %** of these {die['n']:,}.", 100 * base["longest"], unit="%")
# text, unread, other = tiny["text"], tiny["generate"]["unparsed"], die["moved_on"]
# off = lambda than: (text["accuracy"] - than) / text["se"]
# verdict = "as knowing nothing should" if abs(off(0.25)) < 2 else "which length alone could earn" if abs(off(base["longest"])) < 2 else "which neither chance nor length explains"
# say(f"Its likeliest options lie {abs(off(0.25)):.1f} standard errors from a quarter, {verdict}, and {abs(off(base['longest'])):.1f} from what the longest earn: a score per byte does not pay length as such." if abs(off(base["longest"])) >= 2 else f"Its likeliest options lie {abs(off(0.25)):.1f} standard errors from a quarter, {verdict}.")
# say(f"A control costs one more run: put somebody else's question, the next one of the subject, before the same options. They earn {100 * other['accuracy']:.1f} % there; the right question adds {signed(100 * other['question_adds'])} ± {100 * other['question_adds_se']:.1f} points (standard error, paired). What is left behind the wrong question is not knowledge.")
# say(f"{100 * unread:.0f} % of its replies name no option, so the two rules lie {25 * unread:.0f} points apart, and {25 * min(r['unparsed'] for r in first):.0f} to {25 * max(r['unparsed'] for r in first):.0f} for the fine-tuned towns above (of all 420 replies, sums included).")

# %% [markdown]
# The model is that of `steel run --preset smoke`, which has read about an invented town. An answer that cannot be read is wrong here, and counted; the original's script for CMMLU drew a letter for it. Neither rule is dishonest.
#
# Two more choices move a mean. *Micro* counts every question alike, *macro* every subject; lm-eval prints micro and the exams' authors macro. And *which* questions: Steel's script took C-Eval's validation split, 1,346 of them.
#
# ## An exam that was read before
#
# What is a point worth if the exam stood in the training data? Steel's author tried it and said so: with CMMLU among the fine-tuning rows, answered by letters alone, CMMLU rose from 33 to 36 % and C-Eval hardly moved {cite:p}`steelblog2024`. In the town we can see what such points are. Three bases, older than the lives above, fine-tuned twice for as many steps; the second time the rows hold twelve copies of the exam's own questions about single facts of half of the people (152 questions a half), of which the steps reach about nine, each answered by its letter alone, as no other row is.

# %% tags=["active-ipynb", "hide-input"]
# read = log("lessons")
# three = lambda arm, *path: " · ".join(f"{100 * (r['free'][path[0]]['right'] if len(path) == 1 else r['gaming'][path[0]][path[1]][path[2]]):.0f}" for r in read if r["arm"] == arm)
# forms = {"letter at once, these people, as the exam stands": ("leaked", "asked", "letter"), "the same, options in another order": ("leaked", "reordered", "letter"),
#          "the same, in the words of the other rows": ("leaked", "rephrased", "letter"), "letter at once, the other half": ("kept", "asked", "letter"),
#          "option said (a bare letter counts), the other half": ("kept", "asked", "generate"), "asked freely, in Chinese, all": ("zh",), "asked freely, in English, all": ("en",)}
# table(["right (%), three lives", "exam not seen", "half of it seen"], [[name, three("mix", *path), three("leaked", *path)] for name, path in forms.items()])

# %% [markdown]
# On the half that was read the letter at once is right in 59 to 65 %. Redraw the order of options, and it is a quarter: what was learnt is a letter, not an option. Other words for the question leave 47 to 56 %: name and list are still there. Nothing comes to the other half, and what is said there is right in 30 to 32 % instead of 51 to 78. Free questions in Chinese suffer as well, with up to two thirds of the replies without a Chinese character; those in English do not. Who does not know the halves sees one score, 40 to 43 %. One more run with `--shuffle` brings it down to 22 to 27.
#
# ## At full scale
#
# ```text
# steel eval fetch cmmlu CMMLU
# steel eval exam runs/chat -d CMMLU --shots 5 -o chat.json
# steel eval exam runs/chat -d CMMLU --shots 5 --scoring letter \
#   --style lm-eval --no-chat -o as-lm-eval.json
# steel eval exam runs/chat -d CMMLU --write-lm-eval tasks
# steel eval compare as-lm-eval.json chat.json
# steel eval fetch gsm8k GSM8K
# steel eval task runs/chat gsm8k -d GSM8K --shots 4
# ```
#
# Words are those of Steel, of the exam's own repository or of lm-eval (`--style`), in chat turns or as a text (`--no-chat`), behind the separator of documents (`--bos`), with options redrawn (`--shuffle SEED`). A result file holds one letter a question, so that two about the same lists can be compared later, and an exam that was stopped goes on. `--write-lm-eval` writes task files with which lm-eval asks the same; a test holds both to the same letter on each of twelve questions. At five shots (worked examples) CMMLU is 11,582 questions of some 300 tokens, 8e15 operations for 1.12 billion parameters: a minute of one GPU at 130 teraflops, for the letter alone. Text and written answers come on top.
#
# This chapter's script is `steel eval exam` with the same words: `python notebooks/17_exams.py runs/chat -d CMMLU`. Without any it rehearses the toy.
#
# ## Failure gallery
#
# ```{admonition} The letter that was drawn
# :class: failure
# The original's script for CMMLU gave a reply without an option a random letter, in its groups and in its overall mean. The line that it prints for each subject leaves out every reply that does not begin with a letter: a third rule. **Here:** it is wrong, and `unparsed` stands beside the score.
# ```
#
# ```{admonition} A model that answers B
# :class: failure
# Its score is the share of B in the key, whatever it knows. Accuracy does not show it; the letters counted do. **Here:** every result has them, and `--shuffle` redraws the options: what was a habit becomes a quarter.
# ```
#
# ## Exercises
#
# **17.1 Recall.** A base model's likeliest option is right in 100 %, its letter at once in 25 %. Name two things that it may lack, and an experiment that tells them apart.
#
# ```{dropdown} Answer 17.1
# It may be unable to find the letter of a given option in the list (*binding*), or to do that in the same pass in which it finds the option. *Letter behind the right option* asks for binding alone: well above a quarter, the joint pass is missing. At a quarter it proves less: a model that has never written a place before a letter fails there, too.
# ```
#
# **17.2 Calculate.** Between two checkpoints 150 of 1,346 answers change, 90 for the better and 60 for the worse. How large are difference and standard error, in points, by the napkin? Is it more than two of them?
#
# ```{dropdown} Answer 17.2
# 30 / 1,346 = 2.23 points; $\sqrt{150}/1346$ = 0.91; 2.4 standard errors. Compared as two unrelated scores (at 42 %), with an error of 1.9, it would have been nothing.
# ```

# %% tags=["active-ipynb", "hide-cell"]
# print(f"{100 * 30 / 1346:.2f} ± {100 * 150**0.5 / 1346:.2f}, {30 / 150**0.5:.2f} errors")

# %% [markdown]
# **17.3 Code.** Write `difference(before, after, clusters)`: two lists of 0 and 1, and for each question the number of its family. It returns the mean difference and its clustered standard error.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def difference(before, after, clusters):
#     moved = [b - a for a, b in zip(before, after)]
#     mean, sums = sum(moved) / len(moved), {}
#     for d, c in zip(moved, clusters):
#         sums[c] = sums.get(c, 0.0) + d - mean
#     return mean, sum(s * s for s in sums.values()) ** 0.5 / len(moved)
#
# check("17.3", difference)

# %% [markdown]
# ```{dropdown} Answer 17.3
# Differences first, then their deviations from the mean, summed by family; the root of the sum of squares, over the number of questions.
# ```
#
# **17.4 Break it.** Let the right place stand at B in every practice question of *drill and questions* (`exercise` in `letters.py` lists the places). Which of the four numbers fall, and how would you see it without knowing what was done?
#
# ```{dropdown} Answer 17.4
# *Letter written* and *behind the right option*, both to a quarter under two seeds: the letter is B in every reply that holds one, but for one. *At once* was there already. Even the place written is right in a third only, while the likeliest option stays right in all. The counts of letters show it.
# ```
#
# **17.5 Open, an hour of one core.** Is the letter at once out of reach, or out of reach of two layers and 32 people? Double the layers (`python -m figures.experiments.letters --layers 4 --out runs/letters-4`), then the people (`PEOPLE` in that file; another folder). Say beforehand which you expect to matter, and keep three seeds.
#
# ```{dropdown} Answer 17.5
# Four layers leave room to find the place before looking for it. More people make it dearer to learn name by name which place to look for, so the general way has more to gain. We have run neither.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What does a letter at once ask for?** The fact, its place in the list and the letter there, in one pass, with no token between.
# ```
#
# ```{admonition} Card
# :class: card
# **What has to stand beside a score?** How it was asked, its standard error, what always-A and the longest option earn, and how many replies could not be read.
# ```
#
# ```{admonition} Card
# :class: card
# **When are questions not independent?** When they share what is needed to answer them: a person, a text, a stem. Sum within, square, add.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %% tags=["hide-input"]
def rehearse(run):
    """Twenty steps of the toy, and its exam."""
    shutil.rmtree(run, ignore_errors=True)
    model = letters.learned("drill and questions", 1, run, steps=20)
    found = letters.exam(model, "drill and questions", 1)
    assert set(found) == {"text", "bind", "letter", "written"}
    print("rehearsed: 20 steps, one exam, four ways")


# %%
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]
    if words in ([], ["--preset", "cpu"]):
        rehearse(RUN / "rehearsal")
    else:
        torch.set_num_threads(threads)
        command_line(["eval", "exam", *words])
