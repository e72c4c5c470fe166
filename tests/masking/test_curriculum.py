"""The curriculum's rule, from the specification's table, and its budgets."""

import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import Config, CurriculumConfig
from cmgems_jax.masking import curriculum


def run(perplexities: list[float], **settings: object) -> list[tuple[int, float]]:
    """Returns (stage, budget) after each evaluation."""
    config = Config(curriculum=CurriculumConfig(**settings))
    state = curriculum.init(config)
    history = []
    for perplexity in perplexities:
        state = curriculum.update(state, perplexity, config.curriculum)
        history.append((int(state.stage), round(float(state.budget), 4)))
    return history


def stages(perplexities: list[float], **settings: object) -> list[int]:
    """Returns the stage after each evaluation."""
    return [stage for stage, _ in run(perplexities, **settings)]


def test_cm_gems_switches_once_the_change_is_below_the_threshold_and_stays():
    assert stages([100, 50, 30, 29.5, 90, 20, 80]) == [0, 0, 0, 1, 1, 1, 1]


def test_one_evaluation_cannot_switch():
    assert stages([1e-9]) == [0]


def test_a_change_equal_to_the_threshold_does_not_switch():
    assert stages([10, 9]) == [0, 0]
    assert stages([10, 9.0625]) == [0, 1]


def test_a_rise_of_perplexity_counts_by_its_size():
    assert stages([10, 10.5]) == [0, 1]
    assert stages([10, 20]) == [0, 0]


def test_a_relative_threshold_divides_by_the_perplexity_before():
    settings = {"threshold": 0.1, "threshold_kind": "relative"}
    assert stages([1000, 800, 730], **settings) == [0, 0, 1]
    assert stages([20, 17, 15], **settings) == [0, 0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_perplexity_changes_nothing(bad):
    config = Config()
    state = curriculum.update(curriculum.init(config), 40.0, config.curriculum)
    after = curriculum.update(state, bad, config.curriculum)
    for field in ("stage", "budget", "last_perplexity", "smallest_change"):
        np.testing.assert_array_equal(getattr(after, field), getattr(state, field))
    assert stages([40, bad, 39.5]) == [0, 0, 1]


def test_the_history_starts_again_after_a_switch():
    config = Config()
    state = curriculum.init(config)
    for perplexity in (10.0, 9.5):
        state = curriculum.update(state, perplexity, config.curriculum)
    assert np.isnan(state.last_perplexity) and np.isinf(state.smallest_change)


def test_fixed_and_cm_step_never_leave_their_stage():
    for name in ("fixed", "cm_step"):
        assert stages([10, 10, 10], name=name) == [0, 0, 0]


def test_strategies_are_those_of_the_table():
    names = {
        "cm_gems": ("genemask", "global"),
        "cm_step": ("random", "global"),
        "hard_to_easy": ("global", "genemask"),
        "fixed": ("random", "random"),
    }
    for name, pair in names.items():
        assert curriculum.strategies(CurriculumConfig(name=name)) == pair


def test_a_budget_by_stage_changes_with_the_stage():
    history = run([10, 9.5], budget_schedule="by_stage", hard_budget=0.25)
    assert history == [(0, 0.15), (1, 0.25)]


@pytest.mark.parametrize("name", ["cm_gems", "cm_step", "hard_to_easy"])
def test_a_hard_batch_has_the_hard_budget_by_stage(name):
    """`cm_step` draws the strategy for each batch, and its stage never changes."""
    settings = CurriculumConfig(name=name, budget_schedule="by_stage", hard_budget=0.25)
    config = Config(curriculum=settings)
    state = curriculum.init(config)
    budgets = [float(curriculum.budget(state, hard, config)) for hard in (False, True)]
    assert budgets == pytest.approx([0.15, 0.25])


def test_an_adaptive_budget_grows_at_each_stall_after_the_switch_up_to_its_maximum():
    stalls = [10, 10, 8, 8, 7, 7, 6, 6, 5, 5]
    history = run(stalls, budget_schedule="adaptive", budget_step=0.1, budget_max=0.3)
    assert history == [
        (0, 0.15), (1, 0.15), (1, 0.15), (1, 0.25), (1, 0.25), (1, 0.3), (1, 0.3),
        (1, 0.3), (1, 0.3), (1, 0.3),
    ]  # fmt: skip


def test_a_budget_at_its_maximum_keeps_its_history():
    config = CurriculumConfig(name="fixed", budget_schedule="adaptive", budget_max=0.15)
    state = curriculum.init(Config(curriculum=config))
    for _ in range(3):
        state = curriculum.update(state, 8.0, config)
    assert float(state.last_perplexity) == 8 and float(state.smallest_change) == 0


def test_a_constant_budget_never_changes():
    assert {budget for _, budget in run([10, 10, 10, 10])} == {0.15}


@pytest.mark.parametrize("num_steps", [7, 100, 333, 10_000, 120_000])
def test_cm_step_draws_hard_with_the_published_probability(num_steps):
    for step in {0, 1, num_steps // 3, num_steps // 2, num_steps - 1}:
        expected = (100 * step // num_steps) / 100
        probability = curriculum.step_probability(jnp.int32(step), num_steps)
        assert float(probability) == pytest.approx(expected, abs=1e-7)  # float32 of n/100
