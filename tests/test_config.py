"""The schema: what is filled in, what is refused, and in which words."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from orchestrator import build
from orchestrator.config.schema import Config
from orchestrator.curve import Outcome
from orchestrator.errors import ConfigError
from orchestrator.objectives.quadratic import QuadraticObjective
from orchestrator.recipe import Decision, Facts, Recipe, Run
from orchestrator.stages import STAGES
from orchestrator.stages.expected.fields import WeightDecayChoice
from orchestrator.stages.stage import Stage, option

FACTS = Facts(
    train_examples=1000, held_out_examples=200, chance_loss=2.3, final_epochs=4, dropout=0.2
)


@dataclass(frozen=True, kw_only=True)
class Silent(Stage):
    """A stage of a user: proposes nothing, changes nothing."""

    kind: ClassVar[str] = "silent"
    needs: ClassVar[tuple[str, ...]] = ()

    rates: tuple[float, ...] = option((0.1,), "rates", min_length=1, item_gt=0, item_lt=1)
    sizes: tuple[int, ...] = option((), "batch sizes", item_ge=1)
    seeds: int = option(2, "seeds", ge=1, le=9)
    margin: float | None = option(None, "margin", gt=0)
    tie: Literal["incumbent", "paper"] = option("incumbent", "ties")
    wide: bool = option(False, "wide")
    values: tuple[float, ...] = option((1.0,), "a name that our own classes could have taken")

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Ask for nothing."""
        return []

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Change nothing."""
        return Decision(stage=self.name, kind=self.kind, reason="nothing was asked")


class Plain:
    """A user's stage that is no dataclass."""

    kind = "plain"
    needs = ()
    gives = ()

    def __init__(self, name: str, facts: Facts, depth: int = 1) -> None:
        self.name, self.facts, self.depth = name, facts, depth

    def propose(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> list[Run]:
        """Ask for nothing."""
        return []

    def decide(self, recipe: Recipe, outcomes: Sequence[Outcome]) -> Decision:
        """Change nothing."""
        return Decision(stage=self.name, kind=self.kind, reason="nothing was asked")


def problems(**mapping: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(mapping)
    return caught.value.lines


def silent(**options: Any) -> dict[str, Any]:
    entry = {"_target_": f"{__name__}.Silent", **options}
    return {"plan": ["silent"], "stages": {"silent": entry}}


# --- what is filled in


def test_an_empty_config_is_complete() -> None:
    """Without a single key there is a plan with a stage for each of its names."""
    config = Config.from_mapping({})
    assert set(config.plan) <= set(config.stages)
    assert build.recipe(config, FACTS) == Recipe()


@pytest.mark.parametrize("kind", STAGES)
def test_every_stage_builds_from_its_own_defaults(kind: str) -> None:
    """A built-in stage that the config does not mention equals the class called without options."""
    config = Config.from_mapping({"effort": "thorough", "plan": [kind], "recipe": {"max_lr": 0.1}})
    assert build.stages(config, FACTS) == [STAGES[kind](name=kind, facts=FACTS)]


@pytest.mark.parametrize("kind", STAGES)
def test_every_option_of_a_stage_has_a_line_of_help(kind: str) -> None:
    """Options are declared with `option`, so that their documentation can be printed."""
    undocumented = [
        f.name
        for f in fields(STAGES[kind])
        if f.name not in ("name", "facts") and not f.metadata.get("doc")
    ]
    assert undocumented == []


def test_plain_values_make_the_same_config_again() -> None:
    """config.yaml can be read back: defaults pass their own limits, nothing is lost."""
    config = Config.from_mapping(
        {**silent(rates=[0.5, 0.25]), "objective": {"name": "quadratic", "noise": 2}}
    )
    assert Config.from_mapping(config.as_mapping()) == config


def test_the_final_stage_sets_the_horizon() -> None:
    """`final_epochs` is the epochs of the final stage, planned or not."""
    mapping = {"plan": ["lr_range"], "stages": {"final": {"epochs": 3}}}
    assert Config.from_mapping(mapping).final_epochs == 3


def test_a_planned_final_stage_of_another_name_sets_the_horizon() -> None:
    """The planned one counts where two stages are of kind final."""
    mapping = {"plan": ["lr_range", "end"], "stages": {"end": {"kind": "final", "epochs": 7}}}
    assert Config.from_mapping(mapping).final_epochs == 7


def test_a_stage_can_be_repeated_under_another_name() -> None:
    """An entry's `kind` says what it is, its key what it is called."""
    mapping = {"plan": ["lr_range", "again"], "stages": {"again": {"kind": "lr_range"}}}
    first, second = build.stages(Config.from_mapping(mapping), FACTS)
    assert (first.kind, second.kind, second.name) == ("lr_range", "lr_range", "again")


def test_schedule_and_optimizer_become_part_of_the_recipe() -> None:
    """Their names are in the recipe from the start."""
    config = Config.from_mapping({"schedule": {"name": "linear"}, "recipe": {"max_lr": 1}})
    assert build.recipe(config, FACTS) == Recipe(max_lr=1.0, schedule="linear")


def test_whole_numbers_serve_as_rates() -> None:
    """YAML reads 0 as an integer; a rate made of it is a float all the same."""
    config = Config.from_mapping({"recipe": {"weight_decay": 0, "max_lr": 1, "batch_size": 1e2}})
    values = build.recipe(config, FACTS).values()
    assert (
        repr((values["weight_decay"], values["max_lr"], values["batch_size"])) == "(0.0, 1.0, 100)"
    )


def test_the_quadratic_objective_takes_its_options() -> None:
    """`objective.name=quadratic` builds the fake objective, without any training code."""
    mapping = {"objective": {"name": "quadratic", "noise": 0.5}, "seed": 3}
    objective = build.objective(Config.from_mapping(mapping), Path("unused"))
    assert isinstance(objective, QuadraticObjective)
    assert (objective.problem.noise, objective.seed) == (0.5, 3)


class Hopeless(QuadraticObjective):
    """An objective whose loss is compared with 0."""

    def __init__(self) -> None:
        super().__init__(final_epochs=4)
        self.facts = replace(self.facts, chance_loss=0.0)


def test_an_objective_of_ones_own_has_a_chance_loss_above_0() -> None:
    """One line, before anything is compared with it."""
    config = Config.from_mapping({"objective": {"_target_": f"{__name__}.Hopeless"}})
    with pytest.raises(ConfigError, match=r"Hopeless has a chance_loss of 0.0: it must be above 0"):
        build.objective(config, Path("unused"))


def test_the_pruner_can_be_tuned_and_switched_off() -> None:
    """The pruner is the clue pruner with its rules, None for `none`."""
    tuned = build.pruner(Config.from_mapping({"pruner": {"stuck_points": 5}}), 2.3)
    assert tuned is not None
    assert tuned.rules.stuck_points == 5
    assert tuned.start_loss == 2.3
    assert build.pruner(Config.from_mapping({"pruner": {"name": "none"}}), 2.3) is None


def test_a_study_name_of_digits_is_a_name() -> None:
    """The command line reads study_name=2024 as a number."""
    assert Config.from_mapping({"study_name": 2024}).study_name == "2024"


# --- the user's own stage


def test_a_users_stage_gets_the_same_checks() -> None:
    """A dataclass named by `_target_` has its options checked like ours."""
    (stage,) = build.stages(Config.from_mapping(silent(seeds=3, rates=[0.5])), FACTS)
    assert stage == Silent(name="silent", facts=FACTS, seeds=3, rates=(0.5,))


def test_a_users_stage_needs_not_be_a_dataclass() -> None:
    """Any class with propose and decide is called with its arguments, name and facts."""
    entry = {"_target_": f"{__name__}.Plain", "depth": 3}
    mapping = {"plan": ["mine"], "stages": {"mine": entry}}
    (stage,) = build.stages(Config.from_mapping(mapping), FACTS)
    assert isinstance(stage, Plain)
    assert (stage.name, stage.depth) == ("mine", 3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rates": [1.0]}, "rates.0: 1.0 is not allowed: must be less than 1"),
        ({"rates": [0.5, 0]}, "rates.1: 0 is not allowed: must be greater than 0"),
        ({"rates": []}, "rates: [] is not allowed: must be a list of at least 1"),
        ({"rates": 0.5}, "rates: 0.5 is not allowed: must be a list in square brackets"),
        ({"rates": ["0.5"]}, "rates.0: '0.5' is not allowed: must be a number"),
        ({"rates": [True]}, "rates.0: True is not allowed: must be a number"),
        ({"rates": [float("nan")]}, "rates.0: nan is not allowed: must be a finite number"),
        (
            {"rates": [0.5, 0.5]},
            "rates: [0.5, 0.5] is not allowed: must contain each value once, 0.5 is there twice",
        ),
        ({"sizes": [64, 0.5]}, "sizes.1: 0.5 is not allowed: must be a whole number"),
        ({"sizes": [0]}, "sizes.0: 0 is not allowed: must be at least 1"),
        ({"seeds": 10}, "seeds: 10 is not allowed: must be at most 9"),
        ({"seeds": True}, "seeds: True is not allowed: must be a whole number"),
        ({"margin": -1}, "margin: -1 is not allowed: must be greater than 0"),
        ({"tie": "coin"}, "tie: 'coin' is not allowed: must be one of incumbent or paper"),
        ({"wide": "maybe"}, "wide: 'maybe' is not allowed: must be true or false"),
        (
            {"seed": 2},
            "seed: unknown key: must be one of _target_, rates, sizes, seeds, margin, tie, wide,"
            " values; did you mean seeds?",
        ),
    ],
)
def test_each_wrong_option_is_one_line(options: dict[str, Any], line: str) -> None:
    """A wrong value gives its path, itself and what is allowed; a wrong key the nearest ones."""
    assert problems(**silent(**options)) == [f"stages.silent.{line}"]


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("nowhere.Stage", "nowhere.Stage: there is no module nowhere in the working folder"),
        ("os.system", "os.system is not allowed"),
        (f"{__name__}.FACTS", f"{__name__}.FACTS is a Facts, not a class or function"),
        ("orchestrator.recipe.Facts", "orchestrator.recipe.Facts is not a stage: it needs propose"),
        (f"{__name__}.Silen", f"{__name__}.Silen: {__name__} has no Silen, did you mean Silent"),
    ],
)
def test_a_target_that_is_no_stage_is_one_line(target: str, line: str) -> None:
    """What cannot be a stage is refused before anything runs."""
    (problem,) = problems(plan=["mine"], stages={"mine": {"_target_": target}})
    assert problem.startswith(f"stages.mine._target_: {line}")


# --- what is refused


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        (
            {"recipe": {"max_lr": -0.1}},
            "recipe.max_lr: -0.1 is not allowed: must be greater than 0",
        ),
        (
            {"recipe": {"max_momentum": 1}},
            "recipe.max_momentum: 1 is not allowed: must be less than 1",
        ),
        ({"recipe": {"batch_size": 0}}, "recipe.batch_size: 0 is not allowed: must be at least 1"),
        (
            {"recipe": {"max_momentum": 0.5}},
            "recipe.min_momentum: 0.85 is not allowed: must be at most recipe.max_momentum, 0.5",
        ),
        (
            {"recipe": {"max_lr": 0.1, "min_lr": 1}},
            "recipe.min_lr: 1.0 is not allowed: must be at most recipe.max_lr, 0.1",
        ),
        ({"recipe": 3}, "recipe: 3 is not allowed: must be a mapping of keys to values"),
        (
            {"recipe": {"batch_size": 5000}},
            "recipe.batch_size: 5000 is not allowed: must be at most 1198, the number of training"
            " examples",
        ),
        (
            {"data": {"train_examples": 32}},
            "recipe.batch_size: 64 is not allowed: must be at most 32, the number of training"
            " examples",
        ),
        (
            {"stages": {"batch_size": {"candidates": [16, 2048]}}},
            "stages.batch_size.candidates.1: 2048 is not allowed: must be at most 1198, the number"
            " of training examples",
        ),
        (
            {"data": {"train_examples": 1400, "held_out_examples": 100}},
            "data.train_examples: 1400 is not allowed: must be at most 1338, since there are 1438",
        ),
        (
            {"data": {"held_out_examples": 99999}},
            "data.held_out_examples: 99999 is not allowed: must be at most 1437, since there are",
        ),
        ({"data": {"name": "mnist"}}, "data.name: 'mnist' is not allowed: must be one of digits, "),
        ({"seed": "abc"}, "seed: 'abc' is not allowed: must be a whole number"),
        ({"seed": -1}, "seed: -1 is not allowed: must be at least 0"),
        ({"device": "gpu"}, "device: 'gpu' is not allowed: must be auto, cpu, cuda, cuda:0 (1, 2"),
        ({"threads": 0}, "threads: 0 is not allowed: must be at least 1"),
        (
            {"precision": "float8"},
            "precision: 'float8' is not allowed: must be one of float32 or b",
        ),
        ({"study_name": "../up"}, "study_name: '../up' is not allowed: must not start with a dot"),
        (
            {"study_name": "a/b"},
            "study_name: 'a/b' is not allowed: must be 1 to 80 letters, digits",
        ),
        ({"study_name": "ä"}, "study_name: 'ä' is not allowed: must be 1 to 80 letters, digits"),
        ({"study_name": "x" * 81}, "study_name: 'xxxx"),
        ({"plan": []}, "plan: [] is not allowed: must be a list of at least 1"),
        ({"plan": "final"}, "plan: 'final' is not allowed: must be a list in square brackets"),
        (
            {"plan": ["lr_rang"]},
            "plan.0: 'lr_rang' is not allowed: must be one of lr_range, first_run, momentum,"
            " weight_decay, dropout, batch_size, lr_check, final; did you mean lr_range",
        ),
        (
            {"plan": ["lr_range", "lr_range"]},
            "plan.1: 'lr_range' is not allowed: it is planned already; to repeat it, add"
            " an entry such as stages.lr_range_again: {kind: lr_range}",
        ),
        (
            {"plan": ["momentum"]},
            "plan: stage momentum needs max_lr, which nothing sets: set recipe.max_lr, or plan a"
            " stage before it that sets max_lr (lr_range)",
        ),
        (
            {"plan": ["lr_range", "final", "momentum"]},
            "plan: ['lr_range', 'final', 'momentum'] is not allowed: final opens the sealed test"
            " data, so it must be the last stage",
        ),
        (
            {"stages": {"mine": {}}},
            "stages.mine.kind: 'mine' is not allowed: must be one of lr_range",
        ),
        ({"stages": {"momentum": 3}}, "stages.momentum: 3 is not allowed: must be a mapping"),
        ({"stages": [1]}, "stages: [1] is not allowed: must be a mapping of names to options"),
        (
            {"pruner": {"name": "median"}},
            "pruner.name: 'median' is not allowed: must be one of clue",
        ),
        (
            {"objective": {"name": "x"}},
            "objective.name: 'x' is not allowed: must be one of training",
        ),
        ({"objective": {"name": "quadratic", "noise": -1}}, "objective.noise: -1 is not allowed"),
        ({"storage": {"name": "url"}}, "storage.url: must be given for storage.name=url"),
        ({"model": {"_target_": "os.system"}}, "model._target_: os.system is not allowed"),
        (
            {"model": {"_target_": f"{__name__}.Plain", "width": 2}},
            f"model._target_: {__name__}.Plain takes no argument width: it takes name, facts,"
            " depth (to remove one that a study sets: ~model.width)",
        ),
        (
            {"sed": 1},
            "sed: unknown key: must be one of study_name, effort, plan, rate, stages",
        ),
    ],
)
def test_each_wrong_request_is_one_line(mapping: dict[str, Any], line: str) -> None:
    """Path, value and what is allowed, in one line, and nothing but that line."""
    (problem,) = problems(**mapping)
    assert problem.startswith(line)
    assert "\n" not in problem


def test_all_problems_are_told_at_once() -> None:
    """Mistakes in several sections, keys and cross checks come in one go."""
    lines = problems(
        sed=1,
        device="gpu",
        recipe={"max_lr": -1, "maxlr": 2},
        plan=["momentun"],
        stages={"momentum": {"candidates": [1.0, 0.9, 2]}},
        storage={"name": "url"},
    )
    assert [line.split(":")[0] for line in lines] == [
        "recipe.max_lr",
        "recipe.maxlr",
        "stages.momentum.candidates.0",
        "stages.momentum.candidates.2",
        "device",
        "sed",
        "storage.url",
        "plan.0",
    ]


def test_an_lr_in_the_config_replaces_the_range_test() -> None:
    """A stage that needs max_lr is content with recipe.max_lr."""
    mapping = {"plan": ["momentum"], "recipe": {"max_lr": 0.1}}
    assert Config.from_mapping(mapping).plan == ("momentum",)


def test_a_batch_larger_than_the_split_is_refused_before_anything_runs() -> None:
    """How much there is to train on may be known only when the data has been opened."""
    config = Config.from_mapping({"recipe": {"batch_size": 1100}})
    with pytest.raises(ConfigError, match=r"^recipe.batch_size: 1100 is not allowed: .* most 1000"):
        build.stages(config, FACTS)


RANGE = "is refused: a momentum range test shows no minimum (Smith 2018, 4.3)"
CYCLE = "is refused: weight decay stays constant: cycling it does not help (Smith 2018, 4.4)"


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        (
            {"stages": {"momentum": {"mode": "range_test"}}},
            f"stages.momentum.mode: range_test {RANGE}",
        ),
        ({"plan": ["lr_range", "momentum_range", "final"]}, f"plan.1: momentum_range {RANGE}"),
        (
            {"stages": {"m": {"kind": "momentum_range_test"}}, "plan": ["lr_range", "m", "final"]},
            f"stages.m.kind: momentum_range_test {RANGE}",
        ),
        ({"recipe": {"min_weight_decay": 1e-5}}, f"recipe.min_weight_decay: 1e-05 {CYCLE}"),
        ({"recipe": {"max_weight_decay": 1e-3}}, f"recipe.max_weight_decay: 0.001 {CYCLE}"),
        (
            {"schedule": {"name": "paper", "weight_decay": [0, 1e-3]}},
            f"schedule.weight_decay: [0, 0.001] {CYCLE}",
        ),
    ],
)
def test_what_the_method_found_useless_is_refused_with_the_reason(
    mapping: dict[str, Any], line: str
) -> None:
    """One line that says why, not that a key is unknown."""
    with pytest.raises(ConfigError) as error:
        Config.from_mapping(mapping)
    assert len(error.value.lines) == 1
    assert error.value.lines[0].startswith(line)


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        ({"plan": ["lr_range", "dropout"]}, "stages.dropout: the model has no dropout module"),
        ({"recipe": {"dropout": 0.2}}, "recipe.dropout: 0.2 is not allowed: the model has no"),
    ],
)
def test_dropout_needs_a_model_that_has_it(mapping: dict[str, Any], line: str) -> None:
    """One line before anything trains."""
    config = Config.from_mapping(mapping)
    with pytest.raises(ConfigError) as error:
        build.stages(config, replace(FACTS, dropout=None))
    assert len(error.value.lines) == 1
    assert error.value.lines[0].startswith(line)


def test_weight_decay_has_presets() -> None:
    """`stages.weight_decay.preset=shallow` is all that a small net needs."""
    config = Config.from_mapping(
        {"plan": ["weight_decay"], "recipe": {"max_lr": 0.1}}
        | {"stages": {"weight_decay": {"preset": "shallow"}}}
    )
    (stage,) = build.stages(config, FACTS)
    assert isinstance(stage, WeightDecayChoice)
    assert stage.candidates == (1e-2, 1e-3, 1e-4)


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        ("lr_range", "margin", "lr_factor"),
        ("lr_range", "least_steps", "min_steps"),
        ("batch_size", "largest", "max_size"),
        ("momentum", "most_seeds", "max_seeds"),
    ],
)
def test_a_key_that_was_renamed_is_refused_with_its_new_name(
    stage: str, old: str, new: str
) -> None:
    """One line with the name to write now."""
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"stages": {stage: {old: 0.5}}})
    assert caught.value.lines == [f"stages.{stage}.{old}: unknown key: it is now {new}"]
