# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · What a corpus is before it is text
#
# Nobody publishes a corpus. People publish files: a terabyte of JSON lines in tar archives behind a registration, an encyclopedia as a single list of brackets, forum answers in Parquet with upvotes written as the site displays them. Each has
# its own idea of what a record is.
#
# Steel's author took ten such sets, all of them public, and wrote for most of them a few lines that turn a record into a string {cite:p}`steelreadme2025,steelblog2024`. He released his, so we could run them.
# This chapter asks two things of such lines: what do we have, and what does turning it into text lose?
#
# Two names, to keep apart: **original** means his rules, as the released program has them. Ours are the recipe `steel`, in code type. Steel with a capital is always the model of 2024.

# %% tags=["hide-input"]
import json
import re
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from random import Random

from steel.cli import app
from steel.config import UserError, preset
from steel.corpus.pipeline import prepare
from steel.corpus.sources import SOURCES, original_rules, steel_rules
from steel.corpus.sources.readers import Bad, records
from steel.corpus.sources.rules import Skip
from steel.corpus.world import write_world
from steel.documents import read_documents

cfg = preset()  # --preset NAME, then overrides
RUN = Path("runs") / f"02_collect-{cfg.preset}"
RAW = RUN / "world" / "raw"

def command(*words):
    """A `steel` command, through the parser that the shell's command uses."""
    app(args=[str(word) for word in words], standalone_mode=False)


# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_02
# from figures.claims import ROOT
# from figures.facts import STEEL_CORPUS_GB
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)  # this notebook starts afresh every time
# LOG = {row["source"]: row for row in json.loads((ROOT / "figures/runs/convert-compare.json").read_text(encoding="utf-8"))["rows"]}
# show(draw_02.way_of_a_record(), alt="Four stations from left to right. Raw files in six containers: JSON lines, the same compressed, one JSON array, Parquet, tar, and text files of many kinds. Records, read one at a time with their number. A rule from the source's card that says which field plays which role. Documents with id, text, source, language and meta. Orange arrows lead downwards: from the records, unreadable bytes; from the rule, records that give no document, and fields that no role reads.",
#      caption="The way of a record. What leaves downwards does not come back. A program can count the first two; the third it never sees.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# Three numbers, before you read on. The last two are about real samples of 700 records each.
#
# 1. Our catalogue has 41 sources, from a terabyte of web pages to a hundred questions about who is speaking. Where it suffices to say which field plays which role, that is all we write. For how many does it not suffice?
# 2. An entry of the encyclopedia Baidu Baike has a title, a summary and a list of sections. The original keeps an entry that has a title and a summary, if 20 characters come together. What per cent of the entries did it keep?
# 3. On Zhihu, a forum, an answer carries the words 赞同 312 (“312 agree”). The original takes the word and its blank off, reads the rest with `int`, and counts 0 where that fails. What per cent of all upvotes stands on answers that it counts as 0?
# ```
#
# ```{admonition} Napkin
# :class: napkin
# How much must be collected? Steel read 1.12 trillion tokens in two passes: 561 billion, once. With its vocabulary a token is about 4.2 bytes of our samples, Chinese and code. That is 2.4 TB of text, 24 million books of 100 kB.
#
# His own figure of the data adds up to a quarter less. We come back to it at the end; the order of size stands.
# ```
#
# ## What is there
#
# Ten of these sources we can look at in samples; with MOSS, a set of dialogues, and WanJuan's exam questions they are all that its README lists.

# %% tags=["active-ipynb", "hide-input"]
# WHAT = {"skypile": "Chinese web pages, cleaned by Skywork", "wanjuan": "web and other text, Chinese and English", "starcoder": "source files of public repositories", "wikipedia_cn": "Chinese Wikipedia",
#         "baidu_baike": "an encyclopedia, edited by users", "baidu_qa": "questions to strangers, and answers", "zhihu_kol": "a forum: questions, long answers, upvotes", "belle_2m": "instructions and answers by ChatGPT",
#         "belle_3_5m": "conversations, made likewise", "firefly": "tasks in 23 kinds, as question and answer"}
# chosen = [SOURCES[name] for name in WHAT]
# table(["source", "licence", "what it is", "kind", "container", "size"],
#       [[f"`{s.name}`", s.licence, WHAT[s.name], s.kind, s.container, f"{s.size_bytes / 1e9:,.1f} GB".replace(".0", "") if s.size_bytes else f"{s.records:,} records"] for s in chosen], "lllllr")
# words = {"state none": "not stated", "forbid commercial use (NC)": "NC", "are for research": "research"}
# found = {what: [n for n, s in SOURCES.items() if word in s.licence] for what, word in words.items()}
# say("Read the second column before anything else. Of the sources in the whole catalogue " + ", ".join(f"**{len(names)}** {what}" for what, names in found.items())
#     + ". The publisher of users' answers (Zhihu, Baidu) is not even their owner. What is said here was true on the day it was written.")

# %% [markdown]
# SteelTown, the town that this book invents from a seed, writes its texts in the containers and fields of the real sources, damage included, so that we may look at them and quote them. The first bytes of one file of each kind:

# %% tags=["active-ipynb", "hide-input"]
# write_world(RUN / "world", cfg.world, cfg.seed)
#
# def head(path, size=60):
#     data = path.read_bytes()[:size]
#     binary = data[:2] in (b"PA", b"\x1f\x8b", b"(\xb5")
#     text = str(data[:12]) if binary else data.decode("utf-8", "ignore")
#     return text.replace("\n", "⏎")
#
# kinds = {"array": RAW / "wikipedia_cn" / "wikipedia-cn-filtered.json"}
# for path in sorted(RAW.rglob("*.*")):
#     if path.stat().st_size:
#         kinds.setdefault(path.suffix, path)
# for path in kinds.values():
#     print(f"{path.relative_to(RAW).as_posix():45} {head(path)}")

# %% [markdown]
# Of JSON the name cannot be trusted: `baidubaike.json` holds JSON lines, `wikipedia-cn-filtered.json` one array over many lines. So ours looks: a file is JSON lines when at least half of its first twenty are objects; anything else is read object by object, bracket by bracket, in constant memory. The original loaded the Wikipedia array whole, which works at half a gigabyte and would not at five hundred. The bytes after `PAR1` are Parquet, a table stored by columns.
#
# All containers end in the same stream, a number and a record. Damage is a record, too:

# %% tags=["active-ipynb"]
# print(Counter(path.suffix for path in RAW.rglob("*.*")))
# for number, record in records(RAW / "baidu_baike" / "baidubaike.json"):
#     if isinstance(record, Bad):
#         print(number, record)
#     elif number < 2:
#         print(number, {key: str(record[key])[:18] for key in record})

# %% [markdown]
# Two lines of this file were broken on purpose. Each costs itself, with its number and its bytes, and the record behind it is read as if nothing had happened.
#
# ## From fields to roles
#
# `content`, `completion`, `text`: three names for the same thing. `instruction`/`output`, `input`/`target`, `question`/`answer`, again the same. So instead of a function for every source, write down a mapping from *roles* to the source's fields, and one function for all of them. Here it is without dialogues of many turns, which the package's has too.

# %%
def convert(record, roles):
    """A text, or the turns of a dialogue; roles: role -> field."""
    def get(role):  # "" when the card lacks the role or the record the field
        return (record.get(roles.get(role)) or "").strip()

    if "text" in roles:
        title, text = get("title"), record[roles["text"]]
        begins = text.lstrip().startswith(title)  # an empty title, too
        return text if begins else f"{title}\n{text}"
    asked, more = get("question"), get("input")
    asked = asked if more in asked else f"{asked}\n{more}"
    return [{"role": "user", "content": asked},
            {"role": "assistant", "content": get("answer")}]


# %% tags=["active-ipynb", "hide-input"]
# same = Counter()
# for name in ("skypile", "wanjuan", "wikipedia_cn", "belle_2m", "firefly"):
#     roles = SOURCES[name].map
#     rule = steel_rules.mapped(roles, keep=[])
#     for path in (RAW / name).iterdir():
#         for number, record in records(path):
#             try:
#                 piece = rule(record, path, {})
#             except (Skip, AttributeError):
#                 continue  # damaged: further below
#             assert convert(record, roles) == (piece.messages or piece.text)
#             same[name] += 1
# print("as steel.corpus makes them:", dict(same))

# %% tags=["active-ipynb", "hide-input"]
# assert all(SOURCES[s].map[role] == name for role, fields in draw_02.MAPS for s, name in fields)
# own = [name for name, source in SOURCES.items() if not source.map]
# show(draw_02.roles(), alt="Fourteen fields of eleven sources on the left are joined by lines to five roles: text, question, answer, turns, chosen. The role text leads to a text, the other four to a dialogue. Roles that may be added: input, history, system, title.",
#      caption="Names of fields, and the few roles that they play. A set of preferences is a dialogue that ends in the chosen answer; the rejected one goes into the meta.")
# answer("1.1", f"**{len(own)} of {len(SOURCES)}** have a function of their own: " + ", ".join(f"`{name}`" for name in own) + ". The others are a line of YAML.", len(own), unit="sources")

# %% [markdown]
# What the nine have in common is structure that a mapping cannot say: sections under headings, options with letters, a number inside a string inside JSON, a transcript in a single field.
#
# The mapping stands on the source's *card*, a dozen lines of YAML. Here is a whole one, a record, and what the two become. The instruction says “Pick the right one of four options”; the question (“Do you know where Feng Yiyan comes from?”) and the options stand in `input`. The original did not read `input`, and in the real sample lost nothing by it: there the field is empty in all 700 records. SteelTown fills it, to see whether a rule would notice.

# %% tags=["active-ipynb", "hide-input"]
# from steel.corpus import sources
#
# cards = (Path(sources.__file__).parent / "cards.yaml").read_text(encoding="utf-8")
# print(cards[cards.index("belle_2m:"):cards.index("belle_3_5m:")])
# one = next(r for _, r in records(RAW / "belle_2m" / "train_2M_CN.json") if isinstance(r, dict) and r.get("input"))
# assert "四个选项" in one["instruction"] and "冯亦言" in one["input"], "as the text says"
# print(one, "\n→", *convert(one, SOURCES["belle_2m"].map), sep="\n")

# %% [markdown]
# A dialogue stays a list of turns. The original rendered it at once with a *chat template*, marks that say who speaks:

# %% tags=["active-ipynb"]
# ask = {"input": "24+45等于几？", "target": "69"}
# text = original_rules.firefly(ask, Path("a file"), {}).text
# print(text)
# print(len(text), "characters,", sum(map(len, ask.values())), "of them said")

# %% [markdown]
# [Chapter 14](14_sft.ipynb) will need to know who said what, and a cleaning step that deletes repeated lines would delete the template's (in the original, it did; that is the next chapter's story).
#
# ## What the original's rules lose
#
# We took ours from his rules, source by source, and reproduced them first. A *recipe* names the rules and cleaning steps of a whole corpus; `--recipe original` gives the same bytes as the released program, bugs included, on the eight sources with a rule that we could run. His rules for exams and MOSS we have only read; our copies have not run beside his program. (SkyPile and WanJuan went to the
# tokenizer as they came.)
#
# **An empty summary.** Some entries say everything in their sections. Here is Luwan, a town that is proudest of its grapes. The rule asks for title *and* summary:

# %% tags=["active-ipynb"]
# FILE = Path("a file")  # some rules look at its name
#
# def verdict(rule, record):
#     try:
#         piece = rule(record, FILE, {})
#     except Skip as skip:
#         return f"dropped: {skip}"
#     return piece.messages or piece.text
#
# entry = next(r for _, r in records(RAW / "baidu_baike" / "baidubaike.json")
#              if isinstance(r, dict) and r.get("summary") == ""
#              and r["title"] in str(r["sections"]))
# print("original:", verdict(original_rules.baidu_baike, entry))
# print("ours:    ", verdict(steel_rules.baidu_baike, entry))

# %% tags=["active-ipynb", "hide-input"]
# baike = LOG["baidu_baike"]
# gone = baike["original_rejected"]
# answer("1.2", f"**{100 * baike['original'] / baike['records']:.0f} %**, {baike['original']} of {baike['records']}. {gone['no title or no summary']} fall for want of a summary, {gone['fewer than 20 characters']} more because fewer than 20 characters came together. "
#        f"Of the {baike['empty_summary']} without a summary (a few hold a blank, and pass the rule) {baike['of_these_with_text']} have text in their sections. Ours keeps {baike['steel']} in all.", 100 * baike["original"] / baike["records"], unit="%")

# %% [markdown]
# Of the characters that ours keeps it kept a third. The program's log says that Baike lost nothing: what its function returns for a dropped record is never read. And the entries that did pass have no line break in them: title, summary, headings and sections run into one line.
#
# **A number with a unit.** The original keeps an answer from 100 upvotes on. From ten thousand upwards Zhihu writes 万, “ten thousand”:

# %% tags=["active-ipynb"]
# for words in ("赞同 312", "赞同 1.6 万", "赞同"):
#     try:
#         print(words, "→", int(words.replace("赞同 ", "")))
#     except ValueError as error:
#         print(words, "→ 0, since", error)

# %% tags=["active-ipynb", "hide-input"]
# zhihu = LOG["zhihu_kol"]
# votes, large = zhihu["upvotes"], zhihu["in_ten_thousands"]
# lost, passed = sum(votes[i] for i in large), sum(v >= 100 for v in votes)
# draws = [Random(seed).choices(range(len(votes)), k=len(votes)) for seed in range(500)]
# drawn = sorted(sum(votes[i] for i in draw if i in large) / sum(votes[i] for i in draw) for draw in draws)
# low, high = 100 * drawn[12], 100 * drawn[487]
# show(draw_02.upvotes_read(votes, large), alt="Upvotes meant against upvotes read, both logarithmic. Answers below ten thousand lie on the diagonal; a dashed line at 100 parts kept from dropped. Twelve orange points above ten thousand lie at zero.",
#      caption="Answers with at least one upvote, at what the number means and what the original read; dots that would cover each other are one. The orange ones are dropped for being unpopular.")
# answer("1.3", f"**{100 * lost / sum(votes):.0f} %**, on {len(large)} answers: every one with more than ten thousand upvotes in the sample, and none below. Twelve are few: resampled, the share is {low:.0f} to {high:.0f} %. That the top is gone is certain; how much it weighs is not.", 100 * lost / sum(votes), unit="%")
# say(f"In records it looks harmless: {zhihu['original']} answers pass where {passed} should. The rule was meant to keep the best, and it threw out exactly these.")

# %% [markdown]
# Baidu Baike weighs 17 GB. Lose all of it, and the corpus is smaller by less than one per cent: no total would show it. What a conversion loses is not volume but kind: what was edited, asked for or liked stands in the small sources. Whether a model feels it we cannot say; nobody has trained the two recipes against each other.
#
# **A field that nobody read.** In Baidu's questions the title often holds the beginning of the description, cut off. The original asks with the title. (“My stove won't light”, and then: “I have changed the gas, could it be the battery?” “It could.”)

# %% tags=["active-ipynb"]
# question = {"title": "我家的炉子总是点不着",
#             "desc": "我家的炉子总是点不着，换过煤气了，会不会是电池没电？",
#             "answer": "会。先换电池试试。"}
# old = original_rules.baidu_qa(question, FILE, {}).text
# new = steel_rules.baidu_qa(question, FILE, {}).messages
# print("original asks:", old.split("user\n")[1].partition("<|im_end|>")[0])
# print("ours asks:    ", new[0]["content"])
# print("and the answer:", new[1]["content"])

# %% tags=["active-ipynb", "hide-input"]
# asked = LOG["baidu_qa"]
# share = asked["original_without_template"] / asked["steel_characters"]
# say(f"In the real sample ours uses the description in {asked['notes']['description used']} of {asked['records']} questions, now and then for next to nothing. Without it {1 - share:.0%} of our characters are missing, about one in seven of them words that the title has, too; and an answer may speak of what was never asked.")

# %% [markdown]
# **A strip that takes a set.** To remove the mark at the end of a conversation the original calls `rstrip`, which takes a set of characters and not a suffix. (An earlier version called `strip`, which eats into the beginning, too.) And its only gate, 20 characters at least, is shut after the template is in the count:

# %% tags=["active-ipynb"]
# mark = "<|im_end|>\n"
# for last in ("The Steel Corporation", "dimmed", "再见"):
#     print(repr((last + mark).rstrip(mark)), (last + mark).removesuffix(mark))
# empty = original_rules.baidu_qa({"title": "", "answer": ""}, FILE, {}).text
# short = {"instruction": "7 乘 8 等于几？", "output": "56"}
# print("nothing at all:", len(empty), "characters, kept")
# print("a sum:         ", verdict(original_rules.belle_2m, short))

# %% [markdown]
# A text that ends in one of the characters `< | i m _ e n d >` is shortened (再见, goodbye, is safe). In the mostly Chinese sample of BELLE 3.5M that is 4 conversations of 700: two end in an English word, two in a table, which loses its last bar. The gate wants 20 characters. An empty dialogue has 108, all template, and
# passes. “7 times 8?” “56”, from a source without template, is shorter, and goes.
#
# **A normal form that is not harmless.** NFKC, Unicode's *compatibility* form, replaces a character by the plainer one that it is taken for a variant of. The last lines are an exam question (“In which city is Liu Yang?”, and four cities):

# %% tags=["active-ipynb"]
# print(unicodedata.normalize("NFKC", "他说：“好！”（笑）面积 x²，共 ½ 份，第①步"))
# exam = {"q_main": "刘洋在哪座城市？", "option_a": "青岩", "option_b": "云州",
#         "option_c": "望江", "option_d": "平湖", "option_e": "",
#         "std_ans": "B", "answer_detail": "他住在云州。"}
# print(original_rules.wanjuan_exam(exam, FILE, {}).text)
# print(steel_rules.wanjuan_exam(exam, FILE, {}).text)

# %% [markdown]
# The full-width ，！？：；（） of Chinese become ASCII while 。、“” stay: both kinds in one sentence. x² becomes x2. It changes about one character in twenty of every source that it touches.
#
# And the exam, by our copy of his rule, has lost its letters. “The answer is B”, but no option is called so: a model has to guess where one option ends to learn what B is. We have not measured what this cost Steel in its exams, where answers are letters; [chapter 17](17_exams.ipynb) takes letters up again.
#
# ## Measure
#
# ```{admonition} Predict
# :class: predict
# Both recipes convert the same samples of nine sources of prose. Counted as each writes them, the original's documents have 5 % fewer characters than ours. 2,358 of its documents are dialogues, each with 108 characters of template or more. Take the template out. What per cent fewer are they?
# ```
#
# `steel data compare RAW` runs both recipes over the same files and prints these columns. On samples of ten real sources:

# %% tags=["active-ipynb", "hide-input"]
# table(["source", "kept, original / ours", "characters: original", "without template", "ours"],
#       [[f"`{n}`", f"{r['original']:,} / {r['steel']:,}", f"{r['original_characters']:,}", f"{r['original_without_template']:,}", f"{r['steel_characters']:,}"] for n, r in LOG.items()])
# show(draw_02.unread([LOG[name] for name in ("baidu_baike", "baidu_qa", "zhihu_kol")]), alt="Three records as rows of boxes, a box for each field; filled where the original reads them, hollow with an orange edge where text is lost. Baidu Baike: an empty summary, and sections lost with it. Baidu's question: the description. Zhihu: upvotes of 1.6 ten thousand, read as 0. At the right what the original keeps of records and of characters.",
#      caption="The three sources of ten in which the count of characters shows a loss, and the field that makes it (orange). In the other seven the original keeps as many characters as ours, or nearly.")
# others = [r["original_without_template"] / r["steel_characters"] for n, r in LOG.items() if n not in ("baidu_baike", "baidu_qa", "zhihu_kol")]
# assert min(others) > 0.98, "the caption says so"
# prose = [r for n, r in LOG.items() if n != "starcoder"]
# total = [sum(r[key] for r in prose) for key in ("original_characters", "original_without_template", "steel_characters")]
# answer("2", f"**{100 - 100 * total[1] / total[2]:.0f} %**: {total[1]:,} characters against our {total[2]:,}. With the template in the count it was {total[0]:,}, {100 - 100 * total[0] / total[2]:.0f} % less.", 100 - 100 * total[1] / total[2], unit="%")
# rows = {name: 100 * LOG[name]["original_characters"] / LOG[name]["steel_characters"] for name in ("baidu_qa", "zhihu_kol", "belle_3_5m")}
# say(f"Read the third column with care. By it the original keeps {rows['baidu_qa']:.0f} % of Baidu's questions and {rows['zhihu_kol']:.0f} % of Zhihu: the template *hides* a loss. BELLE 3.5M, which loses next to nothing, stands at {rows['belle_3_5m']:.0f} %.")

# %% [markdown]
# This share is one of *these samples*, each the first records of a file and as large as the next, and most of it is Baike. Of the corpus by weight it is below one per cent.
#
# SkyPile, WanJuan and code, which are nearly all of the corpus by weight, passed whole. But an equal count is not the same text: a normal form or a lost line break hardly moves it, and code kept repository tags such as `<gh_stars>` in 534 of 1,050 files (ours move them to the meta).
#
# The only large drop of ours is the threshold on Zhihu, 100 upvotes, and it is his. It discards six answers in ten: a bet that upvotes measure quality, which neither of us has tested.
#
# ## What is broken, and where
#
# Real files may hold lines that are cut, bytes that are no characters, fields of another type. In the original's converter, as we read it, one such line ended its *file*. (This is the one thing that recipe `original` does not reproduce; the samples hold no such line.) Here one bad record costs one record; its reason is counted, and the first five places of each reason are written down.

# %% tags=["active-ipynb"]
# report = prepare(RAW, RUN / "docs", steps=("convert",))  # steel data convert
# for name, source in report["sources"].items():
#     step = source["steps"]["convert"]
#     assert step["in"] == step["kept"] + sum(step["rejected"].values())
#     if name in ("skypile", "firefly"):
#         print(name, step["in"], "in,", step["kept"], "kept")
#         for reason, places in step["first_rejected"].items():
#             print(f"   {reason}: {places[0]}")

# %% [markdown]
# The sums close for each source. Since SteelTown planted its own damage and wrote down where, we can also ask whether the right records were rejected.

# %% tags=["active-ipynb", "hide-input"]
# truth = json.loads((RUN / "world" / "truth.json").read_text(encoding="utf-8"))["plants"]
# kept = {(d.source, d.meta["file"], d.meta["record"]) for path in (RUN / "docs").glob("*.zst") for d in read_documents(path)}
#
# def place(plant):
#     source, *folder = plant["source"].split("/")
#     return source, "/".join([*folder, plant["file"]]), plant["record"]
#
# fates = Counter((p["kind"], place(p) in kept) for p in truth)
# broken = ("broken_json", "bad_utf8", "missing_field", "wrong_type", "bad_role_order")
# others = {p["kind"] for p in truth} - set(broken)
# gloss = ("a line cut short", "bytes that are no characters", "a field is missing", "another type where text should be", "turns in the wrong order")
# told = [[f"{word} (`{k}`)", fates[k, True] + fates[k, False], fates[k, False], fates[k, True]] for k, word in zip(broken, gloss)]
# counts = [sum(fates[k, passes] for k in others) for passes in (False, True)]
# table(["planted", "records", "rejected here", "kept for chapters 03 and 04"], [*told, ["copies, garbled text, repeated lines and other junk", sum(counts), *counts]])
# slipped = [p for p in truth if p["kind"] in broken and place(p) in kept]
# hit = sum(fates[k, False] for k in broken)
# fields = dict(records(RAW / slipped[0]["source"] / slipped[0]["file"]))
# passed, whole = fields[slipped[0]["record"]], max(fields.values(), key=len)
# lost = [k for k in whole if not isinstance(passed.get(k), str)]
# say(f"Of {hit + len(slipped)} broken records {hit} are rejected. The one that passed, `{slipped[0]['source']}:{slipped[0]['record']}`, lacks its `{lost[0]}`:")
# print(passed)
# bare = [r for r in fields.values() if isinstance(r, dict) and re.fullmatch(r"\s*[A-E][.。]?\s*", str(r.get("output"))) and not re.search("A[.．、]", str(r.get("instruction")) + str(r.get("input")))]
# assert bare == [passed], "the text below says so"
# assert len(slipped) == 1 and lost == ["input"] and "选项" in passed["instruction"] and not all(r.get("input") for r in fields.values())

# %% [markdown]
# It asks for the option that says Songhe University, answers “A”, and has lost the options. Our rule takes a missing field for an empty one, which this source allows; a check for the card's fields would have caught it, and not an `input` that is there and empty. Chapters 03 and 04 let it pass, so the model reads it. A check of *sense* finds it, a bare letter for an answer and no letters in the question: two lines, this record and no other of its file. But somebody has to think of it first. The original, which does not read `input`, would make every such record look like this one.
#
# Copies and junk pass through. Conversion asks whether there *is* a text; whether it is a good one is asked in the next chapter. If a step does both, nobody can tell later why a document is gone.
#
# ## Your own folder
#
# Today you write a card beside the files, and nothing in the package changes. The letters (“Letter from Steel City. The stove was lit today.”) have German field names, *Betreff* for the subject, *Brief* for the letter: a card does not mind.

# %% tags=["active-ipynb"]
# mine = RUN / "mine"
# (mine / "letters").mkdir(parents=True)
# (mine / "personal").mkdir()
# card = "title: Letters from the office\nlicence: mine\nmap: {text: brief, title: betreff}\n"
# (mine / "letters" / "card.yaml").write_text(card, encoding="utf-8")
# (mine / "letters" / "2019.jsonl").write_text(
#     '{"betreff": "钢城来信", "brief": "炉子今天点火了。"}\n{"betreff": "再信"}\n', encoding="utf-8")
# (mine / "personal" / "旧文件.txt").write_bytes("一九九八年的文章，编码是国标。".encode("gb18030"))
# found = prepare(mine, RUN / "mine-docs", steps=("convert",))
# for document in read_documents(RUN / "mine-docs"):
#     print(document.source, "|", document.lang, "|", repr(document.text))
# print(found["sources"]["letters"]["steps"]["convert"]["first_rejected"])

# %% [markdown]
# ```{admonition} Bring your own folder
# :class: tip
# `RAW/personal` takes `.txt` (UTF-8, GB18030 or UTF-16, told by their bytes), `.md`, `.html`, `.docx`, `.epub` and `.pdf`. Records need a `card.yaml` with a `map`. Any dataset of the hub: `steel data download hub:OWNER/NAME RAW --map question=prompt,answer=text --sample 1000`
# writes rows and card at once. Then `steel data prepare RAW docs`, and the report counts what became of every record. No `--recipe` means ours.
# ```
#
# ```{admonition} Takeaway
# :class: takeaway
# Say what each field means, in data and not in code; count by its reason every record that leaves; and, since a field that nobody reads is counted nowhere, compare with the recipe before, in records *and* in characters, source by source.
# ```
#
# ## At full scale
#
# What Steel collected stands in a figure of its repository: 588, 576 and 29 of Chinese, 388 of English, 201 of code, in gigabytes if we read it rightly. Today one would begin elsewhere; the author himself names CCI3.0-HQ and MAP-NEO's corpus (Matrix, not in our catalogue; MAP-CC is a relative).

# %% tags=["active-ipynb", "hide-input"]
# weights = sum(r["text_bytes"] for r in LOG.values()) / sum(r["text_bytes"] / r["bytes_per_token"] for r in LOG.values())
# used = {"Chinese": STEEL_CORPUS_GB["web text, Chinese"] + STEEL_CORPUS_GB["other Chinese"], "English": STEEL_CORPUS_GB["English"], "code": STEEL_CORPUS_GB["code"]}
# then = {name: (gb / weights, name, True) for name, gb in used.items()}
# now = {"Chinese FineWeb-Edu v2": (SOURCES["fineweb_edu_zh"].tokens / 1e9, "Chinese", False), "MAP-CC": (SOURCES["map_cc"].tokens / 1e9, "Chinese", False),
#        "CCI 3.0-HQ": (SOURCES["cci3_hq"].size_bytes / 1e9 / weights, "Chinese", True), "FineWeb-Edu, whole": (1300.0, "English", False), "StarCoder, three languages": (SOURCES["starcoder"].size_bytes / 1e9 / weights, "code", True)}
# show(draw_02.budget(then, now), alt="Bars of tokens, one for each set. Steel, 2024: Chinese about two thirds, English a fifth, code a tenth. On offer today, six times as much: Chinese FineWeb-Edu, MAP-CC, CCI 3.0-HQ, FineWeb-Edu in English, StarCoder. Hatched bars are estimated from bytes.",
#      caption=f"Billions of tokens: full bars by the publishers' counts, hatched ones from gigabytes at {weights:.1f} bytes a token. Today's sets overlap: they were drawn from the same crawls and partly from each other.")
# gb, once = sum(used.values()), 561
# say(f"Now the Napkin's quarter: {gb:,} GB at {weights:.1f} bytes are {gb / weights:.0f} billion tokens, where 1.12 trillion in two passes would be {once}. "
#     f"Those would need {gb / once:.1f} bytes a token, fewer than any prose here has ({min(r['bytes_per_token'] for r in prose):.1f} to {max(r['bytes_per_token'] for r in prose):.1f}). So the {weights:.1f} is not the loose number; the gigabytes or the passes are.")

# %% [markdown]
# A gigabyte on a card is not a gigabyte of text. SkyPile's 620 GB of plain JSON hold 150 billion tokens, four bytes each; Chinese FineWeb-Edu 2.1 (not the v2 of the figure), in its middle tier, is 800 GB of compressed Parquet with 530 billion by its publisher's count, 1.5 bytes each {cite:p}`finewebeduzh2025`. Ask for the number of tokens, and by which tokenizer. What is *best* to mix nobody here has measured: it is on the author's list of regrets, and the runs that would tell are many and large.
#
# ```text
# steel data list                                    what there is, with sizes and licences
# steel data download skypile look --sample 1000     look first: no more is fetched than a thousand records need
# steel data download skypile RAW                    says the size, checks the disk, goes on after a break
# steel data compare RAW --out compare.json
# steel data convert RAW docs
# ```
#
# This chapter's script runs the last two: `python notebooks/02_collect.py --preset steel-1b` on what lies in `runs/02_collect-steel-1b/raw`.

# %% tags=["hide-input"]
def real(root):
    """Compare both recipes on root/raw, then convert it into root/docs."""
    if not (root / "raw").is_dir():
        remedy = f"steel data download wikipedia_cn {root / 'raw' / 'wikipedia_cn'} --sample 1000"
        raise UserError(f"no raw files at {root / 'raw'}; to begin with a sample: {remedy}")
    command("data", "compare", root / "raw", "--out", root / "compare.json")
    command("data", "convert", root / "raw", root / "docs")


# %% [markdown]
# ## Failure gallery
#
# ```{admonition} A folder that nobody read
# :class: failure
# MOSS was downloaded to `firefly/moss`, and the conversion looked into `moss`. Unless somebody moved it by hand, its million dialogues were not read, and nothing fails. **Here:** a file's source is told by its folder *or* by its records, and files that belong to none are a warning in the report.
# ```
#
# ```{admonition} One line ends its file
# :class: failure
# Read in the code, not run. The packer was a step worse than the converter: its worker caught every exception, printed it and returned, so the rest of its *files* was dropped, exit code 0. **Here:** every record has its own `try`; a test feeds the rules ten thousand malformed ones.
# ```
#
# ```{admonition} A count that flattered
# :class: failure
# Our own. The first version of the table above compared characters as both recipes write them, template included, and the original won in seven rows of ten. `steel data compare` now prints both counts.
# ```
#
# ## Exercises
#
# **02.1 Recall.** Name three things that leave a conversion without showing in its number of documents.
#
# ```{dropdown} Answer 02.1
# Text in a field that the rule does not read (Baidu's description; an `input`, where a set fills it). Characters that a strip or a normal form changes. Structure: line breaks, option letters, who said what. All three keep every record; only characters, or reading, show them.
# ```
#
# **02.2 Calculate.** SkyPile is 620 GB of JSON lines and 150 billion tokens. How long does it take to download at 200 Mbit/s? How large are its shards at 4 bytes a token? Which of the two do you keep when the disk holds 1 TB?
#
# ```{dropdown} Answer 02.2
# 620 GB are 4,960 Gbit: 24,800 s, 6.9 hours. The shards are 600 GB. The two together do not fit, and one alone leaves no room to work in, so keep neither. Keep documents as zstd, about 0.45 of the text, 280 GB: shards can be made from them again, with any tokenizer, and the raw files can be fetched again in a night, if they are still there. Convert file by file and delete each raw one when it is done.
# ```
#
# **02.3 Code.** Write `upvotes(words)`: 16000 for `"赞同 1.6 万"`, 23000 for `"赞同 2.3万"`, 1234 for `"1,234"`, 0 for `"赞同"`, for `None` and for `""`. Always a whole number, of type `int`; the multiplication is a trap.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def upvotes(words):
#     found = re.search(r"(\d[\d,]*(?:\.\d+)?)\s*(万?)", str(words))
#     if not found:
#         return 0
#     number = float(found[1].replace(",", ""))
#     return round(number * 10_000) if found[2] else round(number)
#
# check("02.3", upvotes)

# %% [markdown]
# **02.4 Break it.** First the bytes. In a *copy* of SteelTown's Baike file, one at a time: join two lines by removing the newline between them; delete the last `}` of a line; put a NUL character into a text. In a copy of the Wikipedia array delete one `}`. Guess what each costs; then count what `records(path)` gives, and how much of it is a `Bad`.
# Now the rule: give `convert` a map for firefly that keeps every record and loses its answers. Which line of the report tells you?

# %% tags=["active-ipynb", "hide-cell"]
# def good(name, data):
#     (RUN / "broken").mkdir(exist_ok=True)
#     (RUN / "broken" / name).write_bytes(data)
#     return sum(isinstance(r, dict) for _, r in records(RUN / "broken" / name))
#
# lines = (RAW / "baidu_baike" / "baidubaike.json").read_bytes()
# array = (RAW / "wikipedia_cn" / "wikipedia-cn-filtered.json").read_bytes()
# whole = good("a.json", lines), good("b.json", array)
# first = lines.index(b"\n")
# costs = {"newline gone": whole[0] - good("a.json", lines[:first] + lines[first + 1:]),
#          "last } gone": whole[0] - good("a.json", lines[:first - 1] + lines[first:]),
#          "a NUL": whole[0] - good("a.json", lines[:20] + b"\0" + lines[20:]),
#          "} gone in the array": whole[1] - good("b.json", array.replace(b"\n  },", b"\n  ,", 1))}
# print(costs)
# silent = steel_rules.mapped({"text": "input"}, keep=[])
# tasks = [r for _, r in records(RAW / "firefly" / "firefly-train-1.1M.jsonl") if isinstance(r, dict) and isinstance(r.get("input"), str) and r["input"].strip() and isinstance(r.get("target"), str) and r["target"]]
# texts = [silent(r, FILE, {}).text for r in tasks]
# assert len(texts) == len(tasks) == same["firefly"]
# assert costs == {"newline gone": 0, "last } gone": 1, "a NUL": 1, "} gone in the array": 1}

# %% [markdown]
# ```{dropdown} Answer 02.4
# None, one, one, one. Two objects on one line are two records if their keys are those of a record. A raw control character is not allowed inside a JSON string, so the line is no JSON; written as `\u0000` it would be read, and recipe steel would reject the document for the NUL. In the array the reader loses the damaged object, then
# looks for the next one whose keys are mostly those of a record.
#
# The map is `{text: input}`: every record has a text, in = kept + rejected, and no line of the report tells you. Only characters do, beside another recipe or beside the raw bytes. Or reading.
# ```
#
# **02.5 Open, an evening.** Take a source that the catalogue does not have, in a language that you read. You need the network: `hub:OWNER/NAME` as above fetches a thousand records and writes a card (`title`, `licence`, `map`, perhaps `keep`). Correct it, convert, and read fifty documents beside their records. Which field did you leave out, and who would miss it? Write the licence down first.
#
# ```{dropdown} Answer 02.5
# There is no model answer. Look at fields that are nearly always empty in the first records and not later; a title that repeats the first sentence; HTML or Markdown inside a field; dates and places in the meta that a reader would want in the text; answers ranked by votes, of which the set keeps only one.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **What is a converter?** A map from roles to fields, for most sources. For the rest a function that returns a document or raises a reason.
# ```
#
# ```{admonition} Card
# :class: card
# **What must a rejected record leave behind?** A count for its reason, and file and number of the first five. In = kept + rejected, for every source, asserted.
# ```
#
# ```{admonition} Card
# :class: card
# **Why compare in characters too?** A field that nobody reads costs no record. And take the template out before you count.
# ```
#
# ```{admonition} Card
# :class: card
# **“1.6 万”?** 16,000. `int` says 0, and the best answers are gone.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %%
if __name__ == "__main__":
    if cfg.preset != "cpu":
        real(RUN)
    else:
        if not RAW.is_dir():
            write_world(RUN / "world", cfg.world, cfg.seed)
        command("data", "compare", RAW, "--out", RUN / "compare.json")
        rows = json.loads((RUN / "compare.json").read_text(encoding="utf-8"))
        for key in ("records", "original", "steel"):
            print(f"{key:8} {sum(row.get(key, 0) for row in rows.values()):,}")
