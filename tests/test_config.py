"""Presets load, overrides work, mistakes get one line, and every field is documented."""

import ast
import dataclasses
import inspect
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from steel import config
from steel.config import UserError


@pytest.mark.parametrize("name", config.preset_names())
def test_every_preset_loads_and_survives_a_round_trip(name):
    cfg = config.load(name)
    assert cfg.preset == name
    assert config.from_dict(cfg.to_dict()) == cfg
    assert cfg.hash() == config.load(name).hash()


def test_the_presets_that_the_book_promises_are_there():
    promised = {
        "smoke",
        "cpu",
        "laptop",
        "gpu1",
        "steel-1b",
        "steel-1b-causal",
        "minillm-0.2b",
        "minillm-1.1b",
        "hammer-1.4b",
    }
    assert promised <= set(config.preset_names())


@pytest.mark.parametrize("name", ["steel-1b", "steel-1b-causal", "steel-1b-dense"])
def test_a_reward_model_at_steels_size_learns_as_dpo_does(name):
    reward, dpo = config.load(name).reward, config.load(name).dpo
    for key in ("learning_rate", "batch_size", "micro_batch_size", "sequence_length", "precision"):
        assert getattr(reward, key) == getattr(dpo, key)


def test_overrides_reach_nested_values_and_change_the_hash():
    cfg = config.load(
        "laptop",
        [
            "train.steps=7",
            "data.weights={wiki: 1}",
            "train.learning_rate=3e-4",
            "exam.scoring=[text]",
            "model.qk_norm=true",
        ],
    )
    assert (cfg.train.steps, cfg.data.weights, cfg.train.learning_rate) == (7, {"wiki": 1.0}, 3e-4)
    assert cfg.exam.scoring == ["text"] and cfg.model.qk_norm is True
    assert cfg.hash() != config.load("laptop").hash()


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.stpes=3", "unknown key 'train.stpes'; did you mean 'train.steps'?"),
        ("trian.steps=3", "did you mean 'train'?"),
        ("train.steps=many", "'train.steps' must be int, not 'many'"),
        ("train.steps=1.5", "'train.steps' must be int"),
        ("model.qk_norm=1", "'model.qk_norm' must be bool"),
        ("exam.scoring=text", "'exam.scoring' must be list"),
        ("model=big", "'model' is a section"),
        ("train.schedule.x=1", "schedule is a value, not a section"),
        ("train.steps", "not an override"),
        ("=3", "not an override"),
        ("train..steps=3", "not an override"),
        # values: a type alone lets these through
        ("train.precision=bfloat16", "'train.precision' must be one of fp32, bf16, not 'bfloat16'"),
        ("model.source=huggingface", "'model.source' must be one of steel, hf"),
        ("train.optimizer=sgd", "'train.optimizer' must be one of adamw, muon, not 'sgd'"),
        ("train.sharding=zero", "'train.sharding' must be one of full, grad_op, hybrid, ddp"),
        ("train.schedule=cosin", "'train.schedule' must be one of cosine, wsd, linear, constant"),
        ("train.schedule=3", "'train.schedule' must be one of cosine, wsd, linear, constant"),
        ("exam.scoring=[letter, tex]", "'exam.scoring[1]' must be one of letter, text, generate"),
        ("train.log_every=0", "'train.log_every' must be at least 1, not 0"),
        ("train.learning_rate=nan", "'train.learning_rate' must be a finite number"),
        ("train.learning_rate=.inf", "'train.learning_rate' must be a finite number"),
        ("train.learning_rate=-1e-3", "'train.learning_rate' must be at least 0"),
        ("sft.joined=2", "'sft.joined' must be at least 0 and at most 1, not 2"),
        ("train.beta2=1", "'train.beta2' must be at least 0 and below 1, not 1"),
        ("grpo.temperature=0", "'grpo.temperature' must be above 0"),
        ("data.weights={wiki: -1}", "'data.weights.wiki' must be at least 0"),
        ("world.people=1", "'world.people' must be at least 12 and at most 640"),
        # settings of one stage that another has no use for
        ("dpo.z_loss=1e-4", "unknown key 'dpo.z_loss'"),
        ("grpo.epochs=2", "unknown key 'grpo.epochs'"),
    ],
)
def test_a_wrong_override_gets_one_line_that_names_it(override, message):
    with pytest.raises(UserError) as caught:
        config.load("laptop", [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_section_is_changed_and_a_mapping_replaced(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "extends: smoke\npreset: mine\ndata: {weights: {a: 1, b: 2}}\n"
    )
    child = tmp_path / "deep" / "child.yaml"
    child.parent.mkdir()
    child.write_text("extends: ../base.yaml\ntrain: {steps: 5}\ndata: {weights: {c: 1}}\n")
    cfg = config.load(str(child))
    assert cfg.preset == "child" and cfg.data.weights == {"c": 1.0}
    assert cfg.train.steps == 5 and cfg.train.batch_size == config.load("smoke").train.batch_size
    overrides = ["data.weights.d=3", "train={warmup_steps: 2}"]
    cfg = config.load(str(child), overrides)
    assert cfg.data.weights == {"c": 1.0, "d": 3.0}
    assert (cfg.train.steps, cfg.train.warmup_steps) == (5, 2)


def test_a_wrong_preset_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'laptop'"):
        config.load("labtop")
    with pytest.raises(UserError, match="no configuration file"):
        config.load("missing/file.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must hold 'key: value'"),
        ("extends: nope", "unknown preset"),
        ("extends: 3", "'extends' takes a preset's name or a YAML file, not 3"),
        ("extends: broken.yaml", "leads back to"),
        ("extends: missing.yaml", "no configuration file"),
    ],
)
def test_a_broken_file_gets_one_line(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        config.load(str(path))
    assert "\n" not in str(caught.value)


def test_the_chapters_ignore_jupyters_own_arguments(monkeypatch):
    assert config.preset([]).preset == "cpu"
    assert config.preset(["--preset", "smoke", "train.steps=3"]).train.steps == 3
    assert config.preset(["--preset=gpu1"]).preset == "gpu1"
    monkeypatch.setattr("sys.argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setitem(config.sys.modules, "ipykernel", config)
    assert config.preset().preset == "cpu"


def test_every_field_has_a_docstring_and_sizes_name_their_unit():
    tree = ast.parse(inspect.getsource(config))
    hints = {
        name: get_type_hints(cls, include_extras=True)
        for name, cls in vars(config).items()
        if dataclasses.is_dataclass(cls)
    }
    for node in tree.body:
        if not (isinstance(node, ast.ClassDef) and node.name.endswith("Config")):
            continue
        sections = node.name == "Config"
        for field, after in zip(node.body, node.body[1:] + [None], strict=True):
            if (
                not isinstance(field, ast.AnnAssign)
                or sections
                and "Config" in ast.unparse(field.annotation)
            ):
                continue
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert documented, f"{node.name}.{field.target.id} has no docstring"
            hint = hints[node.name][field.target.id]
            if (get_args(hint) or [hint])[0] in (int, float):
                assert "[" in after.value.value, f"{field.target.id} does not say its unit"


def test_what_another_room_has_to_name_again_is_the_same_there():
    """A model's folder loads without `steel`, so its configuration lists fields and choices itself."""
    from steel.corpus.world.people import table
    from steel.evaluation.exam import SCORINGS
    from steel.model import SteelConfig
    from steel.model.build import steel_config

    hints = get_type_hints(config.ModelConfig)
    assert set(hints) - {"source", "path"} <= set(SteelConfig.__annotations__)
    for name in ("feed_forward", "expert"):
        with pytest.raises(UserError, match=f"one of {', '.join(get_args(hints[name]))}$"):
            steel_config(config.ModelConfig(**{name: "magic"}))
    assert get_args(config.Scoring) == tuple(SCORINGS)
    assert set(get_args(config.Attribute)) <= set(table("town")["pools"])


def test_a_script_ends_with_one_line_and_code_2_on_a_mistake(tmp_path):
    script = tmp_path / "chapter.py"
    start = "from steel.config import UserError, preset\ncfg = preset()\n"
    script.write_text(start + "raise UserError('no shards\\nthere')\n")
    run = subprocess.run(
        [sys.executable, script, "--preset", "smoke"], capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (2, "chapter.py: no shards there\n")
    run = subprocess.run(
        [sys.executable, script, "--preset", "smok"], capture_output=True, text=True
    )
    assert (
        run.returncode == 2 and "did you mean 'smoke'" in run.stderr and run.stderr.count("\n") == 1
    )
    script.write_text(start + "1 / 0\n")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" in run.stderr and "ZeroDivisionError" in run.stderr
