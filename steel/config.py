"""Every setting of every stage, in one place: dataclasses, YAML presets and dot-overrides.

A preset is a YAML file whose keys are the fields below. It may start from another one (`extends: laptop`), and a
command may change single values: `steel run --preset laptop train.steps=200 model.hidden_size=256`. A key that does
not exist, or a value of the wrong type, is refused with one line that names it and its nearest valid spelling.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

PRESETS = Path(__file__).parent / "presets"


class UserError(ValueError):
    """A mistake that the user can mend: one line that says what is wrong, where, and what to do. The CLI exits 2."""


@dataclass
class ModelConfig:
    """The network. Field names are those of `steel.model.SteelConfig`."""

    source: str = "steel"
    """Which architecture: "steel", or "hf" for any transformers causal LM described by `path`."""
    path: str = ""
    """Folder with a transformers `config.json`; only with source "hf"."""
    vocab_size: int = 2048
    """Rows of the embedding and of the head [entries]; the tokenizer may use fewer."""
    hidden_size: int = 128
    """Width D of the residual stream [channels]."""
    intermediate_size: int = 384
    """Width f of ONE feed-forward expert, or of the dense feed-forward [channels]."""
    num_hidden_layers: int = 3
    """Decoder blocks [layers]."""
    num_attention_heads: int = 4
    """Query heads H [heads]."""
    num_key_value_heads: int = 4
    """Key/value heads shared by groups of query heads (GQA) [heads]."""
    head_dim: int = 0
    """Width of one head [channels]; 0 means hidden_size / num_attention_heads."""
    feed_forward: str = "dense"
    """dense | soft_moe_v1 | soft_moe_v2 | soft_moe_v3 | causal_soft_moe | top_k_moe | none."""
    expert: str = "swiglu"
    """What an expert computes: swiglu (one gate) or double_swiglu (two)."""
    num_experts: int = 6
    """Routed experts E per layer [experts]; not used by dense and none."""
    num_shared_experts: int = 0
    """Experts that see every token, beside the routed ones [experts]; causal_soft_moe needs at least 1."""
    slots_per_expert: int = 1
    """Slots per routed expert of the soft mixtures [slots]."""
    segment_length: int = 64
    """Tokens per segment of causal_soft_moe [tokens]."""
    top_k: int = 2
    """Experts that a token visits in top_k_moe [experts]."""
    balance_loss: float = 0.01
    """Weight of top_k_moe's load-balancing term in training [nats]."""
    soft_moe_normalize_slots: bool = False
    """RMS-normalise the slots of soft_moe_v2 and v3, which wakes the layer; the original did not."""
    qkv_bias: bool = True
    """Bias on the query, key and value projections, as in Qwen1.5."""
    qk_norm: bool = False
    """RMSNorm on each head's queries and keys before RoPE."""
    rope_theta: float = 10000.0
    """Base of the rotary position embedding [1]."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square inside RMSNorm [1]."""
    tie_word_embeddings: bool = True
    """Whether the head shares the embedding's matrix."""
    max_position_embeddings: int = 512
    """Longest sequence that the model promises to handle [tokens]."""
    initializer_range: float = 0.02
    """Standard deviation of initial weights [1]."""


@dataclass
class TokenizerConfig:
    """The byte-level BPE that is trained, or the one that is taken."""

    vocab_size: int = 2048
    """Entries including special tokens [entries]."""
    path: str = ""
    """Folder of an existing tokenizer; empty means: train one on the documents."""
    sample_bytes: int = 50_000_000
    """How much text to train on at most [bytes of UTF-8]."""


@dataclass
class WorldConfig:
    """SteelTown, the closed world that the project writes itself (`steel.corpus.world`)."""

    people: int = 64
    """People who live in it [people]."""
    attributes: list[str] = field(
        default_factory=lambda: ["city", "university", "major", "company"]
    )
    """Which facts each person has: of city, university, major, company, hobby, zodiac."""
    biographies_per_person: int = 40
    """Chinese biographies per person, each in another wording and order [documents]."""
    english_biographies: float = 0.25
    """English biographies for each Chinese one [1]; a quarter makes the text 80:20 by bytes."""
    english_questions: float = 0.22
    """Share of the questions and dialogues that are English [1]."""
    question_share: float = 0.4
    """Share of raw text that is questions and dialogues about the people of the training split [1], 0 to 0.8."""
    arithmetic_problems: int = 600
    """Distinct two-digit additions spread over raw and post-training sets; the exam's are others [problems]."""
    duplicate_share: float = 0.03
    """Planted exact duplicates per raw file, over its records [1]."""
    near_duplicate_share: float = 0.03
    """Planted near-duplicates (1 to 3 characters changed) per raw file, over its records [1]."""
    junk_share: float = 0.04
    """Planted junk (mojibake, HTML debris, symbol soup, broken JSON) per raw file, over its records [1]."""
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
class DataConfig:
    """How token shards are read."""

    sequence_length: int = 256
    """Tokens T per sample [tokens]."""
    mask_documents: bool = True
    """Attention stays inside a document and positions restart with it."""
    weights: dict[str, float] = field(default_factory=dict)
    """Share of samples per source [1]; empty means by size, so that one epoch is one pass."""
    anneal_weights: dict[str, float] = field(default_factory=dict)
    """Shares that replace `weights` from the step at which the wsd schedule starts to decay [1]; a source that is not
    named gets none; empty: no annealing stage."""
    validation_fraction: float = 0.02
    """Share of documents of each source kept for validation [1]."""


@dataclass
class TrainConfig:
    """One training stage: optimizer, schedule, checkpoints. Pretraining uses it as it is, later stages extend it."""

    steps: int = 1000
    """Optimizer steps [steps]."""
    batch_size: int = 32
    """Sequences per optimizer step over all ranks [sequences]."""
    micro_batch_size: int = 32
    """Sequences per forward and backward pass on one rank [sequences]."""
    optimizer: str = "adamw"
    """adamw, or muon (for matrices inside the blocks, AdamW for the rest)."""
    learning_rate: float = 3e-4
    """Peak learning rate of AdamW [1/step]."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon's matrices [1/step]."""
    min_learning_rate_ratio: float = 0.0
    """Learning rate at the end over the peak [1]."""
    schedule: str = "wsd"
    """cosine | wsd (warm-up, stable, linear decay) | linear | constant."""
    warmup_steps: int = 50
    """Steps of linear warm-up [steps]."""
    decay_fraction: float = 0.2
    """Last part of the run in which wsd decays [1]."""
    weight_decay: float = 0.05
    """Decoupled weight decay on matrices [1]."""
    beta1: float = 0.9
    """AdamW's first-moment decay [1]."""
    beta2: float = 0.95
    """AdamW's second-moment decay [1]."""
    eps: float = 1e-8
    """AdamW's denominator guard [1]."""
    grad_clip: float = 1.0
    """Largest global gradient norm [1]; 0 turns clipping off."""
    z_loss: float = 0.0
    """Weight of the squared log-partition penalty on the logits [1]."""
    precision: str = "fp32"
    """Compute type of forward and backward: fp32 or bf16; master weights stay fp32."""
    sharding: str = "full"
    """FSDP2 with many ranks: full | grad_op | hybrid | ddp."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of storing it."""
    compile: bool = False
    """torch.compile each decoder block."""
    kernels: dict[str, str] = field(default_factory=dict)
    """Fused operations by name, or `all`: auto | reference | triton | compile | liger; empty leaves the model as it is.
    Attention: auto | reference | cudnn | flash | efficient | flex | varlen | flash_attn; experts: auto | torch."""
    checkpoint_every: int = 500
    """Steps between checkpoints [steps]; 0: only at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep [checkpoints]."""
    async_checkpoint: bool = False
    """Write checkpoints in a background thread: the run pauses only for the copy to memory."""
    eval_every: int = 250
    """Steps between validations, with samples drawn [steps]; 0: only at the end."""
    log_every: int = 10
    """Steps between log lines [steps]."""
    max_bad_steps: int = 20
    """Steps in a row with a non-finite loss or gradient that are skipped before the run stops [steps]."""
    spike_factor: float = 0.0
    """Skip a step whose gradient norm exceeds this many times its running mean [1]; 0: never."""
    tensorboard: bool = False
    """Also write the curves to RUN/tensorboard; needs the package tensorboard."""
    wandb: str = ""
    """Weights & Biases project to send the curves to; empty: none. Needs the package wandb."""
    profile_steps: int = 0
    """Steps to profile into RUN/trace.json (Chrome trace), after three steps of warm-up [steps]; 0: none."""


@dataclass
class SFTConfig(TrainConfig):
    """Supervised fine-tuning on dialogues."""

    steps: int = 0
    """Optimizer steps [steps]; 0 means: as `epochs` says."""
    epochs: float = 2.0
    """Passes over the dialogues; fractions are allowed [epochs]."""
    sequence_length: int = 256
    """Length of one packed row of dialogues [tokens]."""
    long: str = "skip"
    """What becomes of a dialogue longer than sequence_length: skip or truncate; both are counted."""


@dataclass
class RewardConfig(TrainConfig):
    """The reward model: a scalar head trained on preference pairs (Bradley-Terry)."""

    steps: int = 0
    """Optimizer steps [steps]; 0 means: as `epochs` says."""
    epochs: float = 2.0
    """Passes over the training pairs [epochs]."""
    sequence_length: int = 256
    """Longest prompt and answer together [tokens]; longer pairs are counted and skipped."""
    holdout: float = 0.1
    """Share of pairs held out for the reported accuracy [1], 0 to 0.5."""


@dataclass
class DPOConfig(TrainConfig):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    steps: int = 0
    """Optimizer steps [steps]; 0 means: as `epochs` says."""
    epochs: float = 1.0
    """Passes over the pairs [epochs]."""
    sequence_length: int = 256
    """Longest prompt and answer together [tokens]; longer pairs are counted and skipped."""
    beta: float = 0.1
    """Strength of the pull to the reference model [1/nat]."""
    label_smoothing: float = 0.0
    """Assumed share of flipped preferences [1], 0 to 0.5."""
    length_normalised: bool = False
    """Divide each log-probability by its answer's length in tokens before the margin."""


@dataclass
class GRPOConfig(TrainConfig):
    """Group-relative policy optimisation with verifiable rewards (Shao et al. 2024)."""

    group_size: int = 8
    """Completions sampled per prompt, G [completions]."""
    max_prompt_tokens: int = 128
    """Longest prompt [tokens]; longer ones are counted and skipped."""
    max_new_tokens: int = 24
    """Longest completion [tokens]."""
    temperature: float = 1.0
    """Sampling temperature of the rollouts, above 0 [1]."""
    top_p: float = 1.0
    """Nucleus mass of the rollouts [1]; 1 keeps sampling and training distribution equal."""
    clip_low: float = 0.2
    """The probability ratio is clipped at 1 - clip_low [1]."""
    clip_high: float = 0.2
    """The probability ratio is clipped at 1 + clip_high [1]."""
    kl_beta: float = 0.0
    """Weight of the low-variance KL to the model before this stage [1/nat]; 0: no reference is kept."""
    format_reward: float = 0.1
    """Added to the 0/1 reward of a completion that ends by itself and holds an answer [1]."""
    scale_by_std: bool = True
    """Divide the advantage by the group's standard deviation (GRPO); false only centres it (Dr. GRPO)."""
    updates_per_rollout: int = 1
    """Optimizer steps on each set of rollouts [steps]; the ratio clips only above 1."""


@dataclass
class ExamConfig:
    """What the report card measures."""

    scoring: list[str] = field(default_factory=lambda: ["letter", "text", "generate"])
    """Ways to score a multiple-choice question: letter, text, generate."""
    shots: int = 0
    """Worked examples before a question [questions]."""
    limit: int = 0
    """Questions per subject at most [questions]; 0: all."""
    max_new_tokens: int = 24
    """Length of a generated answer at most [tokens]."""
    batch_size: int = 128
    """Sequences per forward pass [sequences]."""
    min_text_accuracy: float = 0.0
    """The life fails if the final text-scored accuracy lies below [1]; 0: no threshold."""
    min_cloze_accuracy: float = 0.0
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
    train: TrainConfig = field(default_factory=TrainConfig)
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


# -- reading -----------------------------------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(preset_or_path: str, overrides: typing.Iterable[str] = ()) -> Config:
    """Read a preset by name, or a YAML file by path, then apply `section.key=value` overrides.

    Raises UserError for an unknown preset, a key that does not exist or a value of the wrong type.
    """
    values = _read_yaml(_find(preset_or_path))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UserError(
                f"'{override}' is not an override; write section.key=value, for instance train.steps=100"
            )
        _set(values, key.strip(), _parse_scalar(text), override)
    values.setdefault("preset", Path(preset_or_path).stem)
    return _build(Config, values, "")


def preset(argv: list[str] | None = None, default: str = "cpu") -> Config:
    """The configuration a chapter runs with: `--preset NAME` and overrides from the command line.

    Inside Jupyter the command line belongs to the kernel, so the default preset is taken. In a script a UserError from
    here on ends the program as it ends the `steel` command: one line, exit code 2.
    """
    if argv is None:
        argv = [] if _in_jupyter() else sys.argv[1:]
        if not _in_jupyter():
            sys.excepthook = _one_line
    name, overrides, rest = default, [], list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--preset":
            if not rest:
                raise UserError("--preset needs a name: " + ", ".join(preset_names()))
            name = rest.pop(0)
        elif word.startswith("--preset="):
            name = word.partition("=")[2]
        else:
            overrides.append(word)
    return load(name, overrides)


def from_dict(values: dict) -> Config:
    """Build a Config from nested dicts, with the same checks as a preset file."""
    return _build(Config, values, "")


def _one_line(kind: type, error: BaseException, trace) -> None:
    if not issubclass(kind, UserError):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def _in_jupyter() -> bool:
    return "ipykernel" in sys.modules and "ipykernel" in Path(sys.argv[0]).as_posix()


def _find(preset_or_path: str) -> Path:
    path = Path(preset_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"no configuration file at {path}")
        return path
    path = PRESETS / f"{preset_or_path}.yaml"
    if not path.is_file():
        raise UserError(
            f"unknown preset '{preset_or_path}'{_nearest(preset_or_path, preset_names())}"
        )
    return path


def _read_yaml(path: Path) -> dict:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'key: value' lines, not a {type(values).__name__}")
    parent = values.pop("extends", None)
    return _merge(_read_yaml(_find(parent)), values) if parent else values


def _merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _set(values: dict, dotted: str, value: object, override: str) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"'{override}': {section} is a value, not a section")
    values[last] = value


def _parse_scalar(text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        return text


def _build(cls: type, values: object, where: str):
    if not isinstance(values, dict):
        raise UserError(
            f"'{where}' is a section, give its keys, for instance {where}.{_fields(cls)[0]}=…"
        )
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        dotted = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise UserError(f"unknown key '{dotted}'{_nearest(str(key), _fields(cls), where)}")
        arguments[key] = _convert(hints[key], value, dotted)
    return cls(**arguments)


def _convert(hint: type, value: object, dotted: str):
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, dotted)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is list and isinstance(value, (list, tuple)):
        return [_convert(args[0], item, f"{dotted}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(args[1], item, f"{dotted}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, str):  # YAML reads 3e-4, without a dot, as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise UserError(f"'{dotted}' must be {name}, not {value!r} ({type(value).__name__})")


def _fields(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _nearest(word: str, valid: list[str], where: str = "") -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    prefix = f"{where}." if where else ""
    return (
        f"; did you mean '{prefix}{close[0]}'?"
        if close
        else f"; valid: {', '.join(prefix + v for v in valid)}"
    )
