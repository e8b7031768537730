# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · The same page, again
#
# The web copies itself. A report appears in a newspaper and on forty sites that live on newspapers, each with its own last line; a joke is older than every page it stands on; an encyclopedia is mirrored with other punctuation. A corpus made of six collections holds the same page six times or sixty, and one of its pages may be tomorrow's exam.
#
# Two questions stand between clean documents and training: which of them are *the same*, and how often is each of the rest to be read? The original answered the first with a deduplicator that somebody else had written, and the second by reading everything twice {cite:p}`steel2025`. On the second its author is frank: he made no study of the mixture, and counts that among his regrets {cite:p}`steelblog2024`.

# %% tags=["hide-input"]
import contextlib
import hashlib
import io
import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import numpy as np

from steel.cli import app
from steel.config import UserError, preset
from steel.corpus.dedup import Dedup, Near, Pair, bands, find, keys, letters, normalise, s_curve
from steel.corpus.pipeline import prepare
from steel.corpus.recipe import load_recipe
from steel.corpus.world import write_world
from steel.data.mixture import BLOCK, quotas
from steel.data.shards import ShardSet
from steel.documents import Document, read_documents
from steel.evaluation.contamination import contamination
from steel.evaluation.questions import load_exam

cfg = preset()  # --preset NAME, then overrides
RUN = Path("runs") / f"04_dedup_mix-{cfg.preset}"

def command(*words):
    """A `steel` command, through the parser that the shell's command uses."""
    app(args=[str(word) for word in words], standalone_mode=False)


# %% tags=["active-ipynb", "hide-input"]
# from figures import draw_04
# from figures.claims import log
# from figures.facts import STEEL, STEEL_CORPUS_GB
# from figures.style import answer, badge, say, show, table
#
# shutil.rmtree(RUN, ignore_errors=True)
# write_world(RUN / "world", cfg.world, cfg.seed)
# prepare(RUN / "world" / "raw", RUN / "clean", steps=("convert", "clean"))  # chapters 02 and 03
# docs = list(read_documents(RUN / "clean"))
# show(draw_04.stations(), alt="Four stations from left to right, between the clean documents of all sources and what a model reads. Exact: documents that are equal but for width, case and blanks, by a 128-bit hash. Near: documents that share most of their runs of characters, by MinHash and bands. Exam: documents that hold a long run of a question, by the longest match. Mix: how often is each source read, by quotas and passes. Orange arrows lead downwards from the first three: copies, copies with small changes, questions that the model would remember.",
#      caption="The way of this chapter. The order matters: whoever counts passes before the copies are gone counts wrongly.")

# %% [markdown]
# ```{admonition} Predict
# :class: predict
# 1. The original's deduplicator gives each page a fingerprint of the runs of six *words* in it, words being what stands between blanks, and removes pages whose fingerprints nearly agree. SteelTown has 1,886 clean documents, most of them Chinese, and about a hundred planted copies. Given all of them at once, what per cent does it remove?
# 2. Thirty pages of forty sentences, each made from the one before by changing three. Joining neighbours to clusters would leave one page. A program compares each page with those that it has *kept*, and calls it a copy if they share three quarters of their runs of characters. How many are left?
# 3. The usual rule says that a question is in the training text if the two share a run of 13 words. Put letters for words, as one must where nobody writes blanks. The town's exam has 30 English questions, and none of them stands in its documents. How many does the rule accuse?
# ```
#
# ```{admonition} Napkin
# :class: napkin
# A billion documents make 5 · 10¹⁷ pairs. At ten million comparisons a second that is 1,600 years. So nobody compares pairs. Give each document a few hundred bytes, computed alone, such that copies agree in some of them, and sort. At 512 bytes a document the billion is half a terabyte, before the tables by which it is sorted.
# ```
#
# ## What equal means
#
# Exactly equal is the cheap case: hash every document, and the second of two equal hashes goes. The question is what to hash. A mirror may write ，for , or add a blank at a line's end, and to a reader that is the same page. So first a normal form: NFKC (the one of [chapter 02](02_collect.ipynb) that must not touch the text; here it is only looked at), small letters, no white space.

# %% tags=["active-ipynb"]
# def fingerprint(text):
#     return hashlib.blake2b(normalise(text).encode(), digest_size=16).hexdigest()
#
# for text in ("住在青岩，今年４７岁。", "住在青岩, 今年47岁。", "住在青岩、今年47岁。"):
#     print(fingerprint(text)[:12], text)

# %% [markdown]
# The third has another comma (“Lives in Qingyan, aged 47”), and its hash has nothing in common with the others. That is what a hash is for, and why it cannot find what is *nearly* equal.
#
# ## Nearly equal
#
# Cut a text into all its runs of five characters, its *shingles*, letters only. Two texts are as similar as their sets of shingles overlap: shared ones over all, the *Jaccard similarity*. Broder's trick makes this a matter of a few hundred bytes {cite:p}`broder1997`. Take a random order of all possible shingles. Which shingle of a document comes first in it? Two documents have the same first one with a probability that *is* their similarity: the first of the union is equally likely to be any member, and it is shared if it lies in the overlap. Repeat with 128 orders, and the share of agreements estimates the similarity. A random order is a keyed hash; the first is the minimum, hence the name *MinHash*.

# %%
def shingles(text, n=5):
    plain = "".join(map(chr, letters(normalise(text))))
    return {plain[i:i + n] for i in range(len(plain) - n + 1)}

def jaccard(a, b):
    return len(a & b) / len(a | b)

def signature(grams, orders=128):
    def place(gram, key):
        data = f"{key} {gram}".encode()
        return hashlib.blake2b(data, digest_size=8).digest()
    return [min(place(g, key) for g in grams) for key in range(orders)]


# %% tags=["active-ipynb"]
# one = ("丁知琪是晓月影业的员工。说起老家，丁知琪总会提到沙洲，"
#        "他在长亭大学学的是考古，如今仍住在河边的旧楼里。")
# two = one.replace("如今", "现在").replace("。", "！") + "（转）"
# sets = shingles(one), shingles(two)
# same = sum(a == b for a, b in zip(*map(signature, sets)))
# print(f"similarity {jaccard(*sets):.3f}, by 128 minima {same / 128:.3f}")
# found = keys([Document("1", one, "a"), Document("2", two, "b")], Dedup())
# ours = (found.signature_MP[0] == found.signature_MP[1]).mean()
# print(f"by steel.corpus.dedup {ours:.3f}; standard error "
#       f"{(jaccard(*sets) * (1 - jaccard(*sets)) / 128) ** 0.5:.3f}")

# %% [markdown]
# The two lie just under the recipe's 0.75, and both estimates just over: the estimate decides.
#
# Why characters and not words? Chinese writes no blanks, and a word segmenter would put a model with a dictionary of its own between the page and its hash. Five characters are about three words. Why letters only? Because copies often differ in punctuation; the town's near copies do so by construction.
#
# ## From pairs to a sort
#
# 128 minima still have to be compared pair by pair. Cut them into *bands* of a few rows each, sort by each band, and look only at documents that agree in a whole band. A pair of similarity $s$ agrees in one row with probability $s$, in all $r$ rows of a band with $s^r$, in no band of $b$ with $(1 - s^r)^b$. So it is looked at with probability
#
# $$P(s) = 1 - (1 - s^r)^b$$
#
# an S, flat at both ends {cite:p}`leskovec2020`. More rows move the step to the right, more bands to the left. Draw the curve before you believe a setting. Here it is, with the town's texts against themselves, some characters replaced:

# %% tags=["active-ipynb", "hide-input"]
# rng, base, changed = Random(4), [], []
# long = [d.readable() for d in docs if len(letters(normalise(d.readable()))) >= 100]
# for number, text in enumerate(long * 24):
#     plain = [chr(c) for c in letters(normalise(text))]
#     for at in rng.sample(range(len(plain)), round(len(plain) * 0.25 * rng.random() ** 2)):
#         plain[at] = chr(rng.randrange(0x4E00, 0x9FA5))
#     base.append(text)
#     changed.append("".join(plain))
# near = Dedup(exact=False)
# sides = [keys((Document(str(i), t, "x") for i, t in enumerate(texts)), near).signature_MP for texts in (base, changed)]
# similarity = np.array([jaccard(shingles(a), shingles(b)) for a, b in zip(base, changed)])
# agree = sides[0] == sides[1]
# edges = np.linspace(0.2, 1.0, 17)
# curves, misses = [], {}
# for count, rows in ((42, 3), bands(Near().threshold, 128), (8, 16)):
#     candidate = agree[:, :count * rows].reshape(-1, count, rows).all(2).any(1)
#     inside = [(similarity >= a) & (similarity < b) for a, b in zip(edges, edges[1:])]
#     points = [(similarity[m].mean(), candidate[m].mean(), s_curve(similarity[m], count, rows).mean(), m.sum()) for m in inside if m.sum() >= 150]
#     x = np.linspace(0.1, 1, 91)
#     curves.append((count, rows, (x, s_curve(x, count, rows)), ([p[0] for p in points], [p[1] for p in points])))
#     misses[count] = [abs(p[1] - p[2]) for p in points]
# show(draw_04.s_curves(curves, Near().threshold), alt="Three S-shaped curves of the share of pairs that agree in a band, against the pair's similarity. 42 bands of 3 rise at 0.3, 25 bands of 5 at 0.5, 8 bands of 16 at 0.85. Measured points lie on all three. A dotted line marks the recipe's threshold of 0.75, where the middle curve is at 0.99.",
#      caption="Lines: the formula. Points: measured on the town's texts with characters replaced. Left of the threshold a candidate is compared and let go.")
# miss = float(np.mean(sum(misses.values(), [])))
# say(f"Over {len(sum(misses.values(), []))} points formula and measurement differ by {miss:.3f} on average; a point is a few hundred pairs made from the same texts. The recipe wants pairs above {Near().threshold}; `bands` picks the longest rows that still find 99 % of the pairs at the threshold: {bands(Near().threshold, 128)[0]} bands of {bands(Near().threshold, 128)[1]}. What agrees by luck is then compared in all 128 minima, so the bands decide what is *looked at*, the threshold what *goes*.")
# assert miss < 0.03

# %% [markdown]
# ## Against the truth
#
# “We removed 31 % duplicates” is a sentence that nobody can check. SteelTown knows its copies: it planted exact ones, near ones (one mark changed, perhaps a tail such as “（完）”), some across sources, and junk made of a real page, and wrote down where. *Recall*: of the copies that should go, how many went? *Precision*: of what went, how much was a copy of what stayed?

# %% tags=["active-ipynb", "hide-input"]
# truth = json.loads((RUN / "world" / "truth.json").read_text(encoding="utf-8"))["plants"]
#
# def place(where):
#     source, *folder = where["source"].split("/")
#     return source, "/".join([*folder, where["file"]]), where["record"]
#
# origin = {place(p): place(p["of"]) for p in truth if p["of"]}
# at = [(d.source, d.meta["file"], d.meta["record"]) for d in docs]
# root = [origin.get(key, key) for key in at]
# copies = {place(p) for p in truth if p["kind"].endswith("duplicate")}
# groups = defaultdict(list)
# for i, key in enumerate(at):
#     if key in copies or key in {origin[c] for c in copies}:
#         groups[root[i]].append(i)
# wanted = sum(len(group) - 1 for group in groups.values())
# plain = ["".join(map(chr, letters(normalise(d.readable())))) for d in docs]
# first = {}
# equal = [Pair(i, first[t], "exact", 1.0) for i, t in enumerate(plain) if first.setdefault(t, i) != i]

# %% tags=["active-ipynb"]
# def judge(pairs):
#     """(recall, precision) of the removals in `pairs`, in per cent."""
#     gone = {pair.removed for pair in pairs}
#     left = sum(len(set(group) - gone) - 1 for group in groups.values()
#                if set(group) - gone)
#     right = sum(root[p.removed] == root[p.kept] for p in pairs)
#     return 100 - 100 * left / wanted, 100 * right / len(pairs)
#
# made = keys(docs, Dedup())
# for name, pairs in (("exact", find(made, Dedup(near=None))),
#                     ("letters, exact", equal), ("exact and near", find(made, Dedup()))):
#     recall, precision = judge(pairs)
#     print(f"{name:15} {len(pairs):4} of {len(docs):,} go; recall"
#           f" {recall:.0f} %, precision {precision:.0f} %")

# %% [markdown]
# More is removed than was planted as copies, for junk that was repaired in cleaning has become a copy: a page wrapped in HTML is, unwrapped, the same page. That the last line is full is the town's kindness: most of its near copies differ in marks only, and comparing the letters, exactly, finds nearly all of them. So loosen the threshold, and read what goes wrongly:

# %% tags=["active-ipynb"]
# loose = find(made, Dedup(near=Near(threshold=0.6)))
# wrong = [p for p in loose if root[p.removed] != root[p.kept]]
# print(Counter(docs[p.removed].lang for p in wrong))
# for pair in sorted(wrong, key=lambda p: p.similarity)[-2:]:
#     print(pair.similarity, docs[pair.removed].source)
#     print("   kept:   ", repr(docs[pair.kept].readable()[:96]))
#     print("   removed:", repr(docs[pair.removed].readable()[:96]))

# %% [markdown]
# The same fields in another order; the same sentence and one more. Whether that is a copy is a matter of taste. Nearly all are English: five characters of Chinese are about three words, five letters of English are one, and a long name fills many shingles. One length of shingle is not one strictness.
#
# A text of fewer than 30 letters has too few shingles to be called similar, and is only compared exactly:

# %% tags=["active-ipynb", "hide-input"]
# short = int((~made.long_N).sum())
# scores = {"exact and MinHash, by threshold": [(f"{t:.2f}", *judge(find(made, Dedup(near=Near(threshold=t))))) for t in (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)]}
#
# def by_simhash(**parameters):
#     parameters = {"num_blocks": parameters["hamming_distance"] + 2, "lowercase": True} | parameters
#     how = Dedup(False, None, dict.fromkeys({d.source for d in docs}, parameters))
#     own = keys(docs, how)
#     return own, find(own, how)
#
# simhash = {bits: judge(by_simhash(tokenization="character", window_size=5, hamming_distance=bits, ignore_pattern=r"\p{P}")[1]) for bits in (2, 4, 6, 8, 10)}
# scores["SimHash on letters, by bits"] = [(str(bits), *pair) for bits, pair in simhash.items()]
# with_marks = judge(by_simhash(tokenization="character", window_size=5, hamming_distance=4)[1])
# show(draw_04.found_and_spoiled(scores), alt="Precision against recall for two methods that see letters only. Exact search and MinHash have settings at 100 per cent of both; SimHash finds 93 to 99 per cent at a precision of 98 to 88, and all only at 81 per cent or less.",
#      caption=f"Each point is a setting; right and up is better. {wanted} planted copies in {len(docs):,} documents, one town.")
# minhash = scores["exact and MinHash, by threshold"]
# say(f"{short} of the {len(docs):,} documents are that short. Among the rest, lowering the threshold from {minhash[3][0]} to {minhash[0][0]} takes precision from {minhash[3][2]:.0f} to {minhash[0][2]:.0f} %; raising it to {minhash[-1][0]} takes recall from {minhash[3][1]:.0f} to {minhash[-1][1]:.0f} %. "
#     f"SimHash with the original's 4 bits, on the same runs of five letters, finds {simhash[4][0]:.0f} % at a precision of {simhash[4][1]:.0f} %, and with 8 bits {simhash[8][0]:.0f} % at {simhash[8][1]:.0f} %. With the marks left in, the 4 bits find {with_marks[0]:.0f} %: one changed mark is five changed shingles.")

# %% [markdown]
# *SimHash* is the younger fingerprint, and the original's {cite:p}`charikar2002,manku2007`. All shingles of a page vote on each of 64 bits; near copies differ in few bits. It costs 8 bytes instead of 512. Given letters alone, as MinHash has them, it is nearly as good on these copies; with the marks left in, it loses a quarter of them. (The original's recipe for code leaves them out, the one for text does not.) What 8 bytes cost shows when the last copies are wanted: then it takes pages that are none.
#
# ## Chinese without blanks
#
# The original's recipe calls it with `tokenization: space` and windows of six words, as Data-Juicer's own recipe for the English web pages of C4 does. (Its recipe for Chinese instructions says `character`.) A Chinese page has few blanks, often none: no window, no vote, fingerprint 0. And all zeros are equal.

# %% tags=["active-ipynb"]
# different = ("钢城的春天来得很晚。三月里河面还结着冰，渡船停在岸边。",
#              "红烧肉要用五花肉。先焯水，再下锅炒糖色，小火炖一小时。")
# for words in ("space", "character"):
#     how = Dedup(False, None, {"x": {"tokenization": words, "window_size": 6}})
#     two = keys([Document(str(i), p, "x") for i, p in enumerate(different)], how)
#     print(f"{words:10}", [f"{v:016x}" for v in two.simhash_N.tolist()],
#           "->", len(find(two, how)), "removed")

# %% tags=["active-ipynb", "hide-input"]
# own, pairs = by_simhash(tokenization="space", window_size=6, hamming_distance=4)
# zeros = [i for i, value in enumerate(own.simhash_N.tolist()) if value == 0]
# aside, how = ("skypile", "wanjuan", "wanjuan_exam"), load_recipe("original").dedup
# his, rest = find(keys(docs, how), how), [d for d in docs if d.source not in aside]
# assert not any(docs[p.removed].source in aside for p in his)
# whole = prepare(RUN / "world" / "raw", RUN / "original", recipe="original")["sources"]
# arrived = [part["steps"]["dedup"] for name, part in whole.items() if name not in aside]
# answer("1.1", f"**{100 * len(pairs) / len(docs):.0f} %**: {len(pairs):,} of {len(docs):,}. {len(zeros):,} documents have fingerprint 0, and one of them survives; {judge(pairs)[1]:.0f} % of what was removed were copies of what stayed. The original's recipe leaves SkyPile and WanJuan out of this step: of the other {len(rest):,} documents it removes {len(his):,}. Run whole, behind its own filters, few of them arrive: {sum(sum(a['removed'].values()) for a in arrived)} of {sum(a['in'] for a in arrived)} go.", 100 * len(pairs) / len(docs), unit="%")
# names = Counter(docs[i].lang for i in zeros)
# say("By language, of the documents with fingerprint 0: " + ", ".join(f"{n:,} {name}" for name, n in names.most_common()) + f". Short English texts have fewer than six words, too.")

# %% [markdown]
# A page on the river's ice and a recipe for braised pork are one document to it. Nothing fails and the report looks like success: so many duplicates found. What it cost the original nobody can say: SkyPile and WanJuan, the bulk, skipped it, and the one log in the repository, of a run that broke off, warns that it is left out, for its library is not installed. datatrove's MinHash, too, ignored its language setting for a while, and LongMemory, whose tokens were ASCII only, took different Chinese notes for one.
#
# ## Crowds and chains
#
# Copies come in crowds. A licence text stands in countless repositories; of three hundred copies one must be left. The danger is inside an implementation: a bucket (those that agree in a band) that holds only so many, a list of pairs that grows with the square. And then the chains. A resembles B, B resembles C, and A does not resemble C.

# %% tags=["active-ipynb"]
# rng = Random(7)
# chain = [["".join(rng.choices("甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳", k=12))
#           for _ in range(40)]]
# for _ in range(29):                      # a page of 40 sentences, 3 of them new
#     chain.append(chain[-1][3:] + ["".join(rng.choices("东西南北春夏秋冬金木水火", k=12))
#                                   for _ in range(3)])
# pages = [Document(str(i), "".join(p), "x") for i, p in enumerate(chain)]
# crowd = [Document(str(i), pages[0].text + f"（{i}）", "x") for i in range(300)]
# shingled = [shingles(page.text) for page in pages]
# linked = sum(jaccard(a, b) >= 0.75 for a, b in zip(shingled, shingled[1:]))
# print("neighbours above 0.75:", linked, "of 29; first and last:", jaccard(shingled[0], shingled[-1]))
# for name, some in (("chain", pages), ("crowd", crowd)):
#     print(name, "of", len(some), "->", len(some) - len(find(keys(some, near), near)), "kept")

# %% tags=["active-ipynb", "hide-input"]
# stay = len(pages) - len(find(keys(pages, near), near))
# near_ones = []
# for i, grams in enumerate(shingled):
#     if all(jaccard(grams, shingled[j]) < 0.75 for j in near_ones):
#         near_ones.append(i)
# answer("1.2", f"**{stay}**. Every page that is kept takes the next one or two with it. By the exact similarity {len(near_ones)} would be left: two pages on it is {jaccard(shingled[0], shingled[2]):.2f}, just too little, and the estimate is sometimes over.", stay, unit="pages")

# %% [markdown]
# Joining pairs to clusters (*union-find*) suits many machines, since pairs can be found in any order. It chains: of our thirty, the last goes for a copy of a first one with which it shares nothing. Ours goes through the documents in order and compares with those kept so far: nothing goes for resembling what is itself gone.
#
# Where to look, finally: within each source, or across all? The original put its smaller Chinese sources into one run and the code into another, and its author regrets that the corpus was never cleaned as a whole {cite:p}`steelblog2024`. What only the second finds:

# %% tags=["active-ipynb"]
# inside = 0
# for source in {d.source for d in docs}:
#     own = keys([d for d in docs if d.source == source], Dedup())
#     inside += len(find(own, Dedup()))
# across = [p for p in find(made, Dedup()) if docs[p.removed].source != docs[p.kept].source]
# print("within sources:", inside, " across all:", len(find(made, Dedup())))
# print(Counter(f"{docs[p.removed].source} <- {docs[p.kept].source}" for p in across))

# %% [markdown]
# Which of the two stays depends on the order of the sources, here that of our catalogue; it ought to be the order of your trust.
#
# ## Is the exam in it?
#
# A question that the model has read, answer and all, measures memory. The common test looks for a shared run of 13 words {cite:p}`gpt32020`. Ours counts letters and digits, in any language, and reports the *longest* run, for it says more than a yes {cite:p}`singh2024`. Which length is a copy, though? Plant some: of half the town's exam questions, copy the first half of the characters into a page, and see whom each threshold accuses.

# %% tags=["active-ipynb"]
# exam = load_exam(RUN / "world" / "exam")
# half = [q for i, q in enumerate(exam) if i % 2]
#
# def cut(q):
#     plain = "".join(map(chr, letters(normalise(q.question + q.right))))
#     return plain[:len(plain) // 2]
#
# canaries = [Document(f"canary-{i}", f"昨天有人问：「{cut(q)}」……", "personal")
#             for i, q in enumerate(half)]
# longest = {}
# for row in contamination([*docs, *canaries], exam, 8)["rows"]:
#     longest[row["subject"], row["id"]] = row["match"]

# %% tags=["active-ipynb", "hide-input"]
# lengths, lines, planted = range(8, 35), {}, {}
# marked = {(q.subject, q.id) for q in half}
# for chinese, language in ((True, "Chinese questions"), (False, "English questions")):
#     ids = [(q.subject, q.id) for q in exam if q.chinese is chinese]
#     parts = [[longest.get(i, 0) for i in ids if (i in marked) is wanted_] for wanted_ in (False, True)]
#     planted[language] = (len(parts[1]), len(parts[0]))
#     lines[language] = (lengths, *([100 * sum(m >= n for m in part) / len(part) for n in lengths] for part in parts))
# show(draw_04.by_length(lines, planted), alt="Two panels: per cent of questions accused against the number of characters that count as a copy. Chinese: no question that was never planted is accused at any length, and of the planted halves fewer than half are found, below 10 characters only. English: all innocent questions are accused at 13 characters, and both lines fall between 13 and 29 characters.",
#      caption="One town, whose English names are long and whose questions are made from templates. A threshold of 13 is right for neither language; runs shorter than 8 are not looked for.")
# english = [q for q in exam if not q.chinese]
# blind = contamination(docs, english, 13)
# top = blind["rows"][0]
# answer("1.3", f"**{blind['found']} of {len(english)}**. The longest run is `{top['text']}`, {top['match']} letters, of a newspaper page that says where somebody comes from. The question is what that town is famous for. An English name and a few small words make 13 letters.", blind["found"], unit="questions")
# chance = contamination(docs, [q for q in exam if q.chinese], 8)
# say(f"Of the {chance['questions']} Chinese ones not a single one shares even 8 characters with the documents: {sum(r['match'] >= 8 for r in chance['rows'])}. Of the Chinese halves that we planted 8 finds {lines['Chinese questions'][2][0]:.0f} %, 10 {lines['Chinese questions'][2][2]:.0f} % and 13 {lines['Chinese questions'][2][5]:.0f} %.")

# %% [markdown]
# A Chinese name has three characters, an English one seven to eleven letters, and half of a Chinese question of the town, answer included, has six to nine. So 13 finds no half there, and in English accuses nearly every innocent question. For short Chinese questions we use 8, the shortest run that is looked for, and still miss the halves of the shortest. In English here *no* length parts the two lines: the questions are made from the same templates as the biographies. Then one has to read, and `steel eval contamination docs exam --length 8` prints the ten longest matches. Then drop the page, or report scores with and without the questions found; chapter 17, still to be written, is to do the latter.
#
# ## How often is each source read
#
# What is left goes to the mixture. “Twenty per cent code” has at least three meanings, and sources with short documents or rare characters tell them apart:

# %% tags=["active-ipynb", "hide-input"]
# report = prepare(RUN / "clean", RUN / "docs", steps=("dedup",))
# with contextlib.redirect_stdout(io.StringIO()):
#     command("tokenizer", "train", RUN / "docs", RUN / "tokenizer", "--vocab-size", cfg.tokenizer.vocab_size)
#     command("pack", RUN / "docs", RUN / "shards", "--tokenizer", RUN / "tokenizer")
# tokens = Counter()
# for piece in ShardSet.open(RUN / "shards").pieces:
#     tokens[piece.source] += piece.tokens
# number, size = Counter(), Counter()
# for d in read_documents(RUN / "docs"):
#     number[d.source] += 1
#     size[d.source] += len(d.readable().encode())
# order = [name for name, _ in tokens.most_common()]
# rows = [[f"`{n}`", *(f"{100 * c[n] / sum(c.values()):.1f} %" for c in (number, size, tokens))] for n in order if n in ("wanjuan", "skypile", "belle_3_5m", "wanjuan_exam", "starcoder", "zhihu_kol")]
# table(["share of the town, by", "documents", "bytes", "tokens"], rows)
# say(f"`starcoder` is {100 * number['starcoder'] / sum(number.values()):.1f} % of the documents and {tokens['starcoder'] / sum(tokens.values()) / (number['starcoder'] / sum(number.values())):.0f} times that by tokens. A model pays for tokens, so a share is a share of tokens here: of every {BLOCK:,} samples a source gets a whole number, rounded so that they add up (chapter 10 shows how they are ordered).")

# %% [markdown]
# From shares follow passes: tokens of the run, times the share, over the tokens that there are. Weights may be proportional to size to a power α: 1 reads every source equally often, 0 gives every source the same share.

# %% tags=["active-ipynb"]
# def passes(weights, tokens, run):
#     """How often a run of so many tokens reads each source."""
#     slots = quotas(weights)
#     return {name: run * slots[name] / BLOCK / tokens[name] for name in slots}
#
# run = 2 * sum(tokens.values())           # two passes, as the original's
# curve_of = {}
# for power in (1.0, 0.7, 0.3):
#     weights = {name: count ** power for name, count in tokens.items()}
#     found = passes(weights, tokens, run)
#     curve_of[f"α = {power}"] = [found[name] for name in order]
#     print(power, "most:", max(found, key=found.get), f"{max(found.values()):.1f}")

# %% tags=["active-ipynb", "hide-input"]
# show(draw_04.passes(order, curve_of, 4), alt="Passes over thirteen sources, from the largest to the smallest, on a logarithmic axis. With α 1 all are read twice. With α 0.7 the largest less than twice, the smallest about four times. With α 0.3 the smallest more than ten times. A dotted line stands at four passes.",
#      caption="A power below 1 lifts small sources. It is paid in repetition.")

# %% [markdown]
# What does repetition cost? Muennighoff and colleagues trained hundreds of models on repeated text: up to four passes it was nearly as good as new text, and the value of a further pass then decays {cite:p}`datalimits2023`. Their fit: $U$ unique tokens read $1 + R$ times are worth $U + U R^* (1 - e^{-R / R^*})$ of new ones, with $R^*$ about 15. That is for whole corpora read again. For a *part* that is read far more often than the rest there is a warning from Anthropic: a tenth of a per cent of the data repeated a hundred times, 90 % of the tokens unique, and a model of 800 million parameters did no better than one of 400 {cite:p}`hernandez2022`. They suspect that it spends its capacity on learning the copies by heart. Hence the first half of this chapter: a page that stands in a corpus three hundred times is read three hundred times a pass. Lee and colleagues found one sentence of 61 words over 60,000 times in C4; without the copies their models recited training text ten times less often {cite:p}`lee2022`.
#
# ```{admonition} Predict
# :class: predict
# Somebody plans Steel again: the same 1.12 trillion tokens, the same sources, but a quarter of it code, for code is said to help with reasoning. How often does the run read its 201 GB of code?
# ```

# %%
def worth(n, star=15.39):
    """New tokens that n passes over one token are worth."""
    return 1 + star * (1 - np.exp(-(n - 1) / star)) if n > 1 else n

for n in (2, 4, 8, 16, 40):
    print(f"{n:3} passes are worth {worth(n):4.1f}: {worth(n) / n:.0%}")


# %% tags=["active-ipynb", "hide-input"]
# rate = next(row["bytes_per_token"] for row in log("convert-compare") if row["source"] == "starcoder")
# there = STEEL_CORPUS_GB["code"] * 1e9 / rate
# read = STEEL["steps"] * 2**20
# often = 0.25 * read / there
# answer("2", f"**{often:.1f} times**. A quarter of {read / 1e12:.2f} trillion is {0.25 * read / 1e9:.0f} billion tokens; at {rate:.1f} bytes a token there are {there / 1e9:.0f} billion. Were the fit true of a part, they would be worth {worth(often):.1f} of new code. The remedy was on the author's own list: StarCoder has 783 GB, of which he took three languages.", often, unit="passes")

# %% [markdown]
# A dry run notices a mixture that cannot be before a GPU is rented:

# %% tags=["active-ipynb"]
# page = io.StringIO()
# with contextlib.redirect_stdout(page):
#     command("pretrain", "--preset", "cpu", "--dry-run", "--data", RUN / "shards",
#             'data.weights={starcoder: 0.25, "*": 0.75}')
# plan = page.getvalue()
# print(plan[plan.index("Data   "):])

# %% [markdown]
# The preset `cpu` reads the whole town five times, so most sources are warned of; but one of them stands out: code, a quarter by plan, is read 26 times. [Chapter 11](11_pretrain.ipynb) explains level and decay.
#
# Which mixture is *best* takes runs at several sizes, and nobody on this project has made them. The arithmetic gives those that are possible.
#
# ```{admonition} Takeaway
# :class: takeaway
# Two pages are copies if they share most of their runs of *characters*; draw the S-curve, plant copies, and give recall and precision. Compare with what is kept, not with what is gone. Then divide: tokens of the run times the share, over the tokens there are.
# ```
#
# ## At full scale
#
# ```text
# steel data prepare RAW docs                                   convert, clean, deduplicate across all sources
# steel data rejects docs --operator near --limit 20            read what was taken for a copy, the doubtful first
# steel eval contamination docs EXAM --length 8                 before training, not after
# steel pretrain --preset steel-1b-causal --dry-run --data shards 'data.weights={starcoder: 0.2, "*": 0.8}'
# ```
#
# This chapter's script runs the first, and the third if there is an exam: `python notebooks/04_dedup_mix.py --preset steel-1b` on what lies in `runs/04_dedup_mix-steel-1b/raw`. While it compares it holds about 1.7 KB a document, so a hundred million want 170 GB; beyond that datatrove's MinHash, which sorts on disk and joins to clusters, is the tool, with a segmenter or characters set for Chinese.

# %% tags=["hide-input"]
def real(root):
    """Prepare root/raw into root/docs; look for root/exam in it."""
    if not (root / "raw").is_dir():
        raise UserError(f"no raw files at {root / 'raw'}; begin with 'steel data download wikipedia_cn {root / 'raw' / 'wikipedia_cn'} --sample 1000'")
    command("data", "prepare", root / "raw", root / "docs")
    if (root / "exam").is_dir():
        command("eval", "contamination", root / "docs", root / "exam", "--length", 8, "--out", root / "contamination.json")


# %% [markdown]
# ## Failure gallery
#
# ```{admonition} All zeros are equal
# :class: failure
# Run by us in Data-Juicer 1.6.1, on samples of its sources with SkyPile and WanJuan added, the original's step took 2,999 documents to 1,748 and listed not one pair of near copies. **Here:** characters, and a test that different texts stay.
# ```
#
# ```{admonition} The bucket that was full
# :class: failure
# To bound the work, a document meets only the last 64 of its bucket. Suppose removed ones stood there, too: copy 65 finds only what is gone. **Here:** a removed document enters no bucket, and a crowd of 300 is in the tests.
# ```
#
# ```{admonition} Passes before copies
# :class: failure
# Count tokens, set weights, then deduplicate: the source that lost half of its documents is read twice as often as planned, and no line says so. **Here:** the passes are counted on packed shards, by the loader's own mixture, each time a run is planned.
# ```
#
# ## Exercises
#
# **04.1 Recall.** Name three kinds of copy that hashing the normal form does not find, and say which the near search finds.
#
# ```{dropdown} Answer 04.1
# A copy with another comma or a tail (found). A part of a page inside a longer one, such as a quoted article (found only if it is most of both: Jaccard falls with the longer text). A translation or a paraphrase (not found by any method of this chapter). Texts of fewer than 30 letters with one changed (not compared).
# ```
#
# **04.2 Calculate.** 20 bands of 6 rows. With what probability is a pair of similarity 0.8 looked at, and one of 0.5? You halve the rows to 3 and keep 120 minima: how many bands, and what happens to the pair at 0.5?
#
# ```{dropdown} Answer 04.2
# 0.8⁶ is 0.262; not in any of 20 bands: 0.0023. So 99.8 %. 0.5⁶ is 0.0156: 27.0 %. With 3 rows there are 40 bands, and 0.5³ is an eighth: 99.5 %. Nearly every pair at 0.5 becomes a candidate that has to be compared and let go: hardly a copy more is found, and the work grows.
# ```
#
# **04.3 Code.** Write `keep(texts, threshold)`: `texts` is a list of sets of shingles; return the indices of those that stay, in order. The first of similar ones stays, similar means Jaccard at or above the threshold, and nothing goes for resembling what is itself gone. Then `from figures.check import check` and `check("04.3", keep)`.

# %% tags=["active-ipynb", "hide-cell"]
# from figures.check import check
#
# def keep(texts, threshold):
#     kept = []
#     for i, text in enumerate(texts):
#         if all(jaccard(text, texts[j]) < threshold for j in kept):
#             kept.append(i)
#     return kept
#
# check("04.3", keep)

# %% [markdown]
# **04.4 Break it.** `Near(ngram=…)` sets the length of a shingle. Deduplicate the town with 1, 2, 5 and 20 and judge each. Guess first: which way does precision go, and which way recall?

# %% tags=["active-ipynb", "hide-cell"]
# broken = {}
# for n in (1, 2, 5, 20):
#     how = Dedup(near=Near(ngram=n))
#     pairs = find(keys(docs, how), how)
#     broken[n] = (len(pairs), *judge(pairs))
#     print(n, len(pairs), "removed, recall {:.0f} %, precision {:.0f} %".format(*broken[n][1:]))
# assert broken[1][0] > broken[2][0] > broken[5][0] and broken[1][2] < broken[5][2]
# assert broken[20][1] < broken[5][1]

# %% [markdown]
# ```{dropdown} Answer 04.4
# With single characters two pages on the same kind of thing are the same set: far too much goes, and precision falls. With 20 one changed letter spoils twenty shingles, and of the short pages some copies fall below the threshold: recall falls a little. Five is a compromise for Chinese; English, whose letters say less, would want more.
# ```
#
# **04.5 Open, an evening.** Take a folder of your own texts, `steel data prepare` it, and read all the near copies it found. For each, which of the two would *you* have kept? What does “the first stays” cost you, and which order of the files would cost less?
#
# ```{dropdown} Answer 04.5
# There is no model answer. We look for: drafts, of which the last is the best; replies that quote the letter they answer; forms and signatures that make short texts alike. If the newest should stay, sort the files newest first: the order is the rule.
# ```
#
# ## Cards
#
# ```{admonition} Card
# :class: card
# **Why does MinHash work?** In a random order the first shingle of two sets is the same with probability |A ∩ B| / |A ∪ B|.
# ```
#
# ```{admonition} Card
# :class: card
# **The S-curve?** $1 - (1 - s^r)^b$: what is looked at. The threshold decides what goes.
# ```
#
# ```{admonition} Card
# :class: card
# **Why characters?** A tokenizer that finds no words gives every Chinese page the same fingerprint.
# ```
#
# ```{admonition} Card
# :class: card
# **A resembles B, B resembles C?** Compare with what is kept. Clusters chain.
# ```
#
# ```{admonition} Card
# :class: card
# **Passes?** Tokens of the run × share / tokens there are. Up to about four, repetition is nearly free.
# ```

# %% tags=["active-ipynb", "timing"]
# badge()

# %%
if __name__ == "__main__":
    if cfg.preset != "cpu":
        real(RUN)
    else:
        if not (RUN / "world").is_dir():
            write_world(RUN / "world", cfg.world, cfg.seed)
        report = prepare(RUN / "world" / "raw", RUN / "docs")
        total = Counter()
        for source in report["sources"].values():
            step = source["steps"]["dedup"]
            total.update({"in": step["in"], "kept": step["kept"], **step["removed"]})
        print(dict(total))
