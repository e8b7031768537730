"""Every setting of every stage, in one place: dataclasses, YAML presets and dot-overrides.

A preset is a YAML file whose keys are the fields below. It may start from another one, named or
lying beside it (`extends: laptop`, `extends: base.yaml`), and a command may change single values:
`steel run --preset laptop train.steps=200 model.hidden_size=256`. A section is merged with what it
extends; a mapping of the user's own, such as data.weights, is replaced. A key that does not exist,
a value of the wrong type and one outside its field's range or choice are refused with one line
that names them.
"""

import argparse
import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

PRESETS = Path(__file__).parent / "presets"
REST = "*"  # in the weights of a mixture: all sources that are not named, by their size
RENAMED = {"model.top_k": "experts_per_token"}  # old keys in run folders and files of users
# What a number must be, as its type says it and as errors repeat it.
LIMITS = {"at least": ge, "at most": le, "above": gt, "below": lt}
Count = Annotated[int, "at least 1"]
OrZero = Annotated[int, "at least 0"]
Rate = Annotated[float, "at least 0"]
Positive = Annotated[float, "above 0"]
Share = Annotated[float, "at least 0 and at most 1"]
Mass = Annotated[float, "above 0 and at most 1"]
Half = Annotated[float, "at least 0 and at most 0.5"]
Planted = Annotated[float, "at least 0 and at most 0.3"]
Decay = Annotated[float, "at least 0 and below 1"]
FeedForward = Literal[
    "dense", "soft_moe_v1", "soft_moe_v2", "soft_moe_v3", "causal_soft_moe", "top_k_moe", "none"
]
Scoring = Literal["letter", "text", "generate", "cot", "bind"]
Attribute = Literal["city", "university", "major", "company", "hobby", "zodiac"]


class UserError(ValueError):
    """A mistake that the user can mend: one line that says what is wrong, where, and what to do.

    The CLI prints it and exits 2.
    """


@contextlib.contextmanager
def needs(what: str, package: str, install: str = "") -> Iterator[None]:
    """For the import of an optional package: UserError says what needs it, and how to install it."""
    try:
        yield
    except ImportError:
        install = install or f"pip install {package}"
        raise UserError(f"{what} needs {package} ({install})") from None


@contextlib.contextmanager
def sound(path: Path | str, remedy: str = "write or fetch it again") -> Iterator[None]:
    """For what reads a file: UserError names it when what is in it, or is not, makes the block fail.

    UserErrors pass, and what the operating system says.
    """
    try:
        yield
    except Exception as error:  # a library raises many types for a broken file
        if isinstance(error, UserError) or getattr(error, "errno", None):
            raise
        why = f"{type(error).__name__}: {first_line(error)[:100]}"
        raise UserError(f"{path} is damaged ({why}); {remedy}") from None


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file. UserError when it holds none."""
    import yaml

    try:
        values = yaml.safe_load(path.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'key: value' lines, not a {type(values).__name__}")
    return values


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the error's type when it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@dataclass
class ModelConfig:
    """The network: the fields of `steel.model.SteelConfig`, with their meaning and defaults."""

    source: Literal["steel", "hf"] = "steel"
    """Which architecture: "steel", or "hf" for any transformers causal LM described by `path`."""
    path: str = ""
    """Folder with a transformers `config.json`; only with source "hf"."""
    vocab_size: Count = 2048
    """Rows of the embedding and of the head [entries]; the tokenizer may use fewer."""
    hidden_size: Count = 128
    """Width D of the residual stream [channels]."""
    intermediate_size: OrZero = 384
    """Width f of ONE feed-forward expert, or of the dense feed-forward [channels]."""
    num_hidden_layers: Count = 3
    """Decoder blocks [layers]."""
    num_attention_heads: Count = 4
    """Query heads H [heads]."""
    num_key_value_heads: Count = 4
    """Key/value heads shared by groups of query heads (GQA) [heads]."""
    head_dim: OrZero = 0
    """Width of one head [channels]; 0 means hidden_size / num_attention_heads."""
    feed_forward: FeedForward = "dense"
    """dense | soft_moe_v1 | soft_moe_v2 | soft_moe_v3 | causal_soft_moe | top_k_moe | none."""
    expert: Literal["swiglu", "double_swiglu"] = "swiglu"
    """What an expert computes: swiglu (one gate) or double_swiglu (two)."""
    num_experts: Count = 6
    """Routed experts E per layer [experts]; not used by dense and none."""
    num_shared_experts: OrZero = 0
    """Experts that see every token, beside the routed ones [experts]."""
    slots_per_expert: Count = 1
    """Slots per routed expert of the soft mixtures [slots]."""
    segment_length: Count = 64
    """Tokens per segment of causal_soft_moe [tokens]."""
    experts_per_token: Count = 2
    """Experts that a token visits in top_k_moe [experts]."""
    balance_loss: Rate = 0.01
    """Weight of top_k_moe's load-balancing term in training [nats]."""
    soft_moe_normalize_slots: bool = False
    """RMS-normalise the slots of soft_moe_v2 and v3: it wakes the layer; the original did not."""
    qkv_bias: bool = True
    """Bias on the query, key and value projections, as in Qwen1.5."""
    qk_norm: bool = False
    """RMSNorm on each head's queries and keys before RoPE."""
    rope_theta: Positive = 10000.0
    """Base of the rotary position embedding [1]."""
    rms_norm_eps: Positive = 1e-6
    """Added to the mean square inside RMSNorm [1]."""
    tie_word_embeddings: bool = True
    """Whether the head shares the embedding's matrix."""
    max_position_embeddings: Count = 512
    """Longest sequence that the model promises to handle [tokens]."""
    initializer_range: Rate = 0.02
    """Standard deviation of initial weights [1]."""


@dataclass
class TokenizerConfig:
    """The byte-level BPE that is trained, or the one that is taken."""

    vocab_size: Count = 2048
    """Entries including special tokens [entries]."""
    path: str = ""
    """Folder of an existing tokenizer; empty means: train one on the documents."""
    post_texts: bool = False
    """Train it on the texts of the post-training rows, and give every Hanzi in them an entry, too."""
    longest_entry: OrZero = 0
    """Longest entry [bytes], a Hanzi is three; 0: any length. Without a limit a small town's tokenizer
    learns half sentences (的家乡是柳溪), in which no value is a token that can be copied."""
    sample_bytes: Count = 50_000_000
    """How much text to train on at most [bytes of UTF-8]."""


@dataclass
class WorldConfig:
    """SteelTown, the closed world that the project writes itself (`steel.corpus.world`)."""

    people: Annotated[int, "at least 12 and at most 640"] = 64
    """People who live in it [people]."""
    attributes: list[Attribute] = field(
        default_factory=lambda: ["city", "university", "major", "company"]
    )
    """Which facts each person has, each named once."""
    biographies_per_person: Annotated[int, "at least 4 and at most 200"] = 40
    """Chinese biographies per person, each in another wording and order [documents]."""
    english_biographies: Annotated[float, "at least 0 and at most 4"] = 0.25
    """English biographies for each Chinese one [1]; a quarter makes the text 80:20 by bytes."""
    english_questions: Share = 0.22
    """Share of the questions and dialogues that are English [1]."""
    question_share: Annotated[float, "at least 0 and at most 0.8"] = 0.4
    """Share of raw text that asks and tells about the people of the training split [1]."""
    questions: Literal["worked", "plain"] = "worked"
    """How the raw text's questions are asked and answered. worked: an option's letter stands after it,
    an answer restates the name, sums and two hops are worked out; plain: "A. value", many bare answers."""
    drills: OrZero = 0
    """Documents of each of the three binding drills, sources drill_1 to drill_3 [documents]; 0: none."""
    drill_steps: list[Count] = field(default_factory=lambda: [80, 150, 220])
    """Where each drill's stretch at the start of pretraining ends [steps]."""
    drill_share: Share = 0.08
    """Share of the last drill in what is read after that [1]."""
    arithmetic_problems: Annotated[int, "at least 0 and at most 3900"] = 600
    """Distinct two-digit additions of the training sets; the exam's are others [problems]."""
    duplicate_share: Planted = 0.03
    """Planted exact duplicates per raw file, over its records [1]."""
    near_duplicate_share: Planted = 0.03
    """Planted near-duplicates (1 to 3 characters changed) per raw file, over its records [1]."""
    junk_share: Planted = 0.04
    """Planted junk (mojibake, HTML, symbol soup, broken JSON) per raw file, over its records [1]."""
    assistant_name: str = "小钢"
    """What the assistant calls itself in Chinese."""
    assistant_name_en: str = "Steel"
    """What the assistant calls itself in English."""
    assistant_author: str = "你自己"
    """Who trained it, in Chinese."""
    assistant_author_en: str = "you"
    """Who trained it, in English."""
    assistant_date: str = "2024 年 9 月"
    """When it was trained, as Chinese text."""
    assistant_date_en: str = "September 2024"
    """When it was trained, as English text."""


@dataclass
class Phase:
    """A stretch of pretraining with a mixture of its own."""

    until: Count = 1
    """The step at which the next stretch begins [steps]."""
    weights: dict[str, Rate] = field(default_factory=dict)
    """Share of samples per source [1]; * is all that are not named, by size; without it they get none."""


@dataclass
class DataConfig:
    """How token shards are read."""

    sequence_length: Count = 256
    """Tokens T per sample [tokens]."""
    mask_documents: bool = True
    """Attention stays inside a document and positions restart with it."""
    weights: dict[str, Rate] = field(default_factory=dict)
    """Share of samples per source [1]; empty means by size, so that one epoch is one pass; the name *
    stands for all sources that are not named, by their size."""
    targets: dict[str, str] = field(default_factory=dict)
    """Sources of which only these tokens are predicted, given as text, e.g. {drill: " A B C D"}: in a
    drill all else is chance."""
    curriculum: list[Phase] = field(default_factory=list)
    """What stands before `weights`: stretches of steps from 0 on, each with weights of its own."""
    anneal_weights: dict[str, Rate] = field(default_factory=dict)
    """Shares that replace `weights` from the step at which the wsd schedule starts to decay [1]; a
    source that is not named gets none; empty: no annealing stage."""
    validation_fraction: Share = 0.02
    """Share of documents of each source kept for validation [1]."""


@dataclass
class TrainConfig:
    """One training stage: optimizer, schedule, checkpoints. Every stage extends it."""

    steps: Count = 1000
    """Optimizer steps [steps]."""
    batch_size: Count = 32
    """Sequences per optimizer step over all ranks [sequences]."""
    micro_batch_size: Count = 32
    """Sequences per forward and backward pass on one rank [sequences]."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon (for matrices inside the blocks, AdamW for the rest)."""
    learning_rate: Rate = 3e-4
    """Peak learning rate of AdamW [1/step]."""
    muon_learning_rate: Rate = 0.02
    """Peak learning rate of Muon's matrices [1/step]."""
    min_learning_rate_ratio: Share = 0.0
    """Learning rate at the end over the peak [1]."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "wsd"
    """cosine | wsd (warm-up, stable, linear decay) | linear | constant."""
    warmup_steps: OrZero = 50
    """Steps of linear warm-up [steps]."""
    decay_fraction: Share = 0.2
    """Last part of the run in which wsd decays [1]."""
    weight_decay: Rate = 0.05
    """Decoupled weight decay on matrices [1]."""
    beta1: Decay = 0.9
    """AdamW's first-moment decay [1]."""
    beta2: Decay = 0.95
    """AdamW's second-moment decay [1]."""
    eps: Positive = 1e-8
    """AdamW's denominator guard [1]."""
    grad_clip: Rate = 1.0
    """Largest global gradient norm [1]; 0 turns clipping off."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type of forward and backward: fp32 or bf16; master weights stay fp32."""
    sharding: Literal["full", "grad_op", "hybrid", "ddp"] = "full"
    """FSDP2 with many ranks: full | grad_op | hybrid | ddp."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of storing it."""
    compile: bool = False
    """torch.compile each decoder block."""
    kernels: dict[str, str] = field(default_factory=dict)
    """Fused operations by name, or `all`, each with what computes it; `steel.kernels` says which
    names there are and refuses others. Empty leaves the model as it is."""
    checkpoint_every: OrZero = 500
    """Steps between checkpoints [steps]; 0: only at the end."""
    keep_checkpoints: Count = 2
    """Newest checkpoints to keep, beside those kept for good [checkpoints]."""
    keep_every: OrZero = 0
    """Steps between checkpoints that are kept for good [steps]; 0: none of them."""
    keep_at_decay: bool = True
    """Save where wsd starts to decay and keep it for good, so that other decays can branch off there;
    not with checkpoint_every 0."""
    async_checkpoint: bool = False
    """Write checkpoints in a background thread: the run pauses only for the copy to memory."""
    eval_every: OrZero = 250
    """Steps between validations, with samples drawn [steps]; 0: only at the end."""
    log_every: Count = 10
    """Steps between log lines [steps]."""
    max_bad_steps: Count = 20
    """Steps in a row with a non-finite loss or gradient, skipped before the run stops [steps]."""
    spike_factor: Rate = 0.0
    """Skip a step whose gradient norm exceeds this many times its running mean [1]; 0: never."""
    tensorboard: bool = False
    """Also write the curves to RUN/tensorboard; needs the package tensorboard."""
    wandb: str = ""
    """Weights & Biases project to send the curves to; empty: none. Needs the package wandb."""
    profile_steps: OrZero = 0
    """Steps to profile into RUN/trace.json, a Chrome trace, after three others [steps]; 0: none."""


@dataclass
class PretrainConfig(TrainConfig):
    """Pretraining on token shards."""

    z_loss: Rate = 0.0
    """Weight of the squared log-partition penalty on the logits [1]."""


@dataclass
class AlignConfig(TrainConfig):
    """A stage after pretraining: it starts from a model folder."""

    lora_rank: OrZero = 0
    """Train low-rank updates of the blocks' `Linear`s alone (Hu et al. 2021), and merge them at the
    end [1]; 0: train all weights. Needs the package peft."""
    lora_alpha: Positive = 16.0
    """The update's factor is lora_alpha / lora_rank [1]."""


@dataclass
class EpochConfig(AlignConfig):
    """A stage that passes over a set of rows some number of times."""

    steps: OrZero = 0
    """Optimizer steps [steps]; 0 means: as `epochs` says."""
    epochs: Positive = 2.0
    """Passes over the training rows; fractions are allowed [epochs]."""
    sequence_length: Count = 256
    """Longest row [tokens]; SFT packs dialogues to it, longer pairs are counted and skipped."""


@dataclass
class SFTConfig(EpochConfig):
    """Supervised fine-tuning on dialogues."""

    long: Literal["skip", "truncate"] = "skip"
    """What becomes of a dialogue longer than sequence_length; either way it is counted."""
    languages: dict[str, Rate] = field(default_factory=dict)
    """Shares of dialogues by language: of the rows, the most that hold them [1]; empty: all rows."""
    joined: Share = 0.0
    """Share of the packed rows in which dialogues follow one another as one conversation: who greets a
    model may go on talking [1]. Dialogues that begin with a system turn bring it along."""
    replay_rows: OrZero = 0
    """Rows of pretraining text beside each step's `batch_size` rows of dialogues [sequences]. All their
    tokens are predicted, those of a source in `data.targets`, too."""
    replay_weight: Positive = 1.0
    """Weight of one of their tokens in the loss; an answer's token has 1 [1]."""
    z_loss: Rate = 0.0
    """Weight of the squared log-partition penalty on the logits [1]."""


@dataclass
class RewardConfig(EpochConfig):
    """The reward model: a scalar head trained on preference pairs (Bradley-Terry)."""

    holdout: Half = 0.1
    """Share of pairs held out for the reported accuracy [1]."""


@dataclass
class DPOConfig(EpochConfig):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    epochs: Positive = 1.0
    """Passes over the pairs [epochs]."""
    beta: Positive = 0.1
    """Strength of the pull to the reference model [1/nat]."""
    label_smoothing: Half = 0.0
    """Assumed share of flipped preferences [1]."""
    length_normalised: bool = False
    """Divide each log-probability by its answer's length in tokens before the margin."""
    nll_weight: Rate = 0.0
    """Weight of the chosen answer's loss per token beside it (Pang et al. 2024) [1]."""


@dataclass
class GRPOConfig(AlignConfig):
    """Group-relative policy optimisation with verifiable rewards (Shao et al. 2024)."""

    group_size: Annotated[int, "at least 2"] = 8
    """Completions sampled per prompt, G [completions]."""
    max_prompt_tokens: Count = 128
    """Longest prompt [tokens]; longer ones are counted and skipped."""
    max_new_tokens: Count = 24
    """Longest completion [tokens]."""
    temperature: Positive = 1.0
    """Sampling temperature of the rollouts [1]."""
    top_p: Mass = 1.0
    """Nucleus mass of the rollouts [1]; 1 keeps sampling and training distribution equal."""
    clip_low: Rate = 0.2
    """The probability ratio is clipped at 1 - clip_low [1]."""
    clip_high: Rate = 0.2
    """The probability ratio is clipped at 1 + clip_high [1]."""
    kl_beta: Rate = 0.0
    """Weight of the KL to the model before this stage [1/nat]; 0: none is kept."""
    kl_in: Literal["loss", "weighted_loss", "reward"] = "weighted_loss"
    """loss: k3 per token, whose gradient is not the KL's (Shao et al. 2024); weighted_loss: k3 times
    the probability ratio, whose gradient is (DeepSeek-V3.2); reward: k1 summed over the answer, taken
    off its reward before the group is compared."""
    format_reward: Rate = 0.1
    """Added to the 0/1 reward of a completion that ends by itself and holds an answer [1]."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the group's standard deviation (GRPO), the step's, nothing."""
    normalise: Literal["tokens", "sequences", "constant"] = "tokens"
    """tokens: mean over the tokens of groups that teach something (DAPO); sequences: over those
    answers' own means (GRPO); constant: sum over max_new_tokens of every answer (Dr. GRPO)."""
    updates_per_rollout: Count = 1
    """Optimizer steps on each set of rollouts [steps]; the ratio clips only above 1."""


@dataclass
class ExamConfig:
    """What the report card measures."""

    scoring: list[Scoring] = field(default_factory=lambda: ["letter", "text", "generate", "bind"])
    """Ways to score a multiple-choice question: letter, text, generate, bind."""
    shots: OrZero = 0
    """Worked examples before a question [questions]."""
    limit: OrZero = 0
    """Questions per subject at most [questions]; 0: all."""
    max_new_tokens: Count = 24
    """Length of a generated answer at most [tokens]."""
    batch_size: Count = 128
    """Sequences per forward pass [sequences]."""
    min_text_accuracy: Share = 0.0
    """The life fails if the final text-scored accuracy lies below [1]; 0: no threshold."""
    min_cloze_accuracy: Share = 0.0
    """The life fails if the base model's cloze accuracy lies below [1]; 0: no threshold."""


@dataclass
class Config:
    """Everything a run needs. Two runs with the same Config on the same machine do the same."""

    preset: str = ""
    """Name of the preset it started from."""
    seed: int = 1
    """Reaches everything that draws random numbers [1]."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    exam: ExamConfig = field(default_factory=ExamConfig)

    def to_dict(self) -> dict:
        """Plain nested dict, ready for JSON or YAML."""
        return dataclasses.asdict(self)

    def hash(self) -> str:
        """12 hex digits that change when any setting changes."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


# -- reading ---------------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(preset_or_path: str, overrides: Iterable[str] | None = None) -> Config:
    """Read a preset by name, or a YAML file by path, then apply `section.key=value` overrides.

    Raises UserError for an unknown preset, a key that does not exist and a value that its field
    does not take.
    """
    path = _find(preset_or_path)
    values = {"preset": path.stem} | _read(path)
    for override in overrides or ():
        _set(values, override)
    return from_dict(values)


def from_dict(values: dict) -> Config:
    """Build a Config from nested dicts, with the same checks as a preset file."""
    return _build(Config, values, "")


def preset(argv: list[str] | None = None, default: str = "cpu") -> Config:
    """The configuration a chapter runs with: `--preset NAME` and overrides from the command line.

    In Jupyter the command line belongs to the kernel: the default preset is taken. In a script a
    UserError from here on ends the program as it ends the `steel` command: one line, exit code 2.
    """
    jupyter = "ipykernel" in sys.modules and "ipykernel" in Path(sys.argv[0]).as_posix()
    if argv is None:
        argv = [] if jupyter else sys.argv[1:]
        sys.excepthook = sys.excepthook if jupyter else _one_line
    usage = f"%(prog)s [--preset {'|'.join(preset_names())}] [section.key=value …]"
    parser = argparse.ArgumentParser(usage=usage, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", const="", default=default)
    chosen, overrides = parser.parse_known_args(argv)
    return load(chosen.preset, overrides)


def _one_line(kind: type, error: BaseException, trace) -> None:
    if not issubclass(kind, UserError):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def _find(preset_or_path: str, beside: Path = Path()) -> Path:
    """The file of a preset's name or of a path, which starts from the folder `beside`."""
    if preset_or_path.endswith((".yaml", ".yml")):
        path = beside / preset_or_path
        if not path.is_file():
            raise UserError(f"no configuration file at {path}")
    elif not (path := PRESETS / f"{preset_or_path}.yaml").is_file():
        hint = _nearest(preset_or_path, preset_names())
        raise UserError(f"unknown preset '{preset_or_path}'{hint}")
    return path


def _read(path: Path, children: tuple[Path, ...] = ()) -> dict:
    """What a file says, over what it extends; children: the files that extend this one."""
    if path.resolve() in children:
        raise UserError(f"'extends' of {children[-1]} leads back to {path}")
    values = read_yaml(path)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(f"{path}: 'extends' takes a preset's name or a YAML file, not {parent!r}")
    base = _read(_find(parent, path.parent), (*children, path.resolve()))
    base.pop("preset", None)  # the name of the base is not the name of what extends it
    return _merge(base, values)


def _merge(base: dict, over: dict) -> dict:
    """`over` on top of `base`: sections are merged key by key, what stands in them is replaced."""
    merged = base | over
    for name, section in over.items():
        if isinstance(section, dict) and isinstance(base.get(name), dict):
            merged[name] = base[name] | section
    return merged


def _set(values: dict, override: str) -> None:
    """Apply one `section.key=value` to nested dicts."""
    import yaml

    dotted, separator, text = override.partition("=")
    *sections, last = dotted.strip().split(".")
    if not separator or not all((*sections, last)):
        example = "write section.key=value, for instance train.steps=100"
        raise UserError(f"'{override}' is not an override; {example}")
    try:
        value = yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        value = text
    if not sections:
        values.update(_merge(values, {last: value}))
        return
    for name in sections:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(f"'{override}': {name} is a value, not a section")
    values[last] = value


def _build(cls: type, values: object, where: str):
    """An object of dataclass `cls` from a dict, every value checked against its field's type."""
    hints = get_type_hints(cls, include_extras=True)
    prefix = f"{where}." if where else ""
    if not isinstance(values, dict):
        example = f"for instance {prefix}{next(iter(hints))}=…"
        raise UserError(f"'{where}' is a section, give its keys, {example}")
    arguments = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        key = RENAMED.get(dotted, key)
        if key not in hints:
            raise UserError(f"unknown key '{dotted}'{_nearest(str(key), list(hints), prefix)}")
        arguments[key] = _convert(hints[key], value, dotted)
    return cls(**arguments)


def _convert(hint, value: object, dotted: str):
    """`value` as the type that a field declares; UserError when it is none, or not allowed."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, dotted)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number, limits = _convert(args[0], value, dotted), args[1]
        for words, _, bound in (limit.rpartition(" ") for limit in limits.split(" and ")):
            if not LIMITS[words](number, float(bound)):
                raise UserError(f"'{dotted}' must be {limits}, not {value!r}")
        return number
    if origin is Literal:
        if value not in args:
            raise UserError(f"'{dotted}' must be one of {', '.join(args)}, not {value!r}")
        return value
    if origin is list and isinstance(value, (list, tuple)):
        return [_convert(args[0], item, f"{dotted}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(args[1], item, f"{dotted}.{key}") for key, item in value.items()}
    if hint is float and type(value) in (int, float, str):  # for YAML, 3e-4 without a dot is text
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(number := float(value)):
                return number
    elif hint is int and type(value) is float and value.is_integer():
        return int(value)
    elif type(value) is hint:
        return value
    name = "a finite number" if hint is float else (origin or hint).__name__
    raise UserError(f"'{dotted}' must be {name}, not {value!r} ({type(value).__name__})")


def _nearest(word: str, valid: list[str], prefix: str = "") -> str:
    """The end of an error's line: the likeliest spelling, or everything that is valid."""
    if close := difflib.get_close_matches(word, valid, n=1, cutoff=0.5):
        return f"; did you mean '{prefix}{close[0]}'?"
    return f"; valid: {', '.join(prefix + name for name in valid)}"
