"""The marks in a run's picture."""

import math

import pytest
from matplotlib.figure import Figure

from cmgems_jax.pretraining import curves
from cmgems_jax.report import figures, svg
from cmgems_jax.runtime import pictures


def record(kind: str, step: int, **values: object) -> dict[str, object]:
    """Returns a record of a log."""
    train = {"loss": 6.0, "nats_per_hidden_base": 3.0, "masked_fraction": 0.1, "mask_budget": 0.1}
    return {"kind": kind, "step": step, **train, **values}


def test_the_marks_are_untrained_guesses_and_composition():
    """Log 4,096 per token of two, then five hidden bases; log 4 per base; GRCh38's entropy."""
    axes = Figure().subplots()
    curves.nats_marks(axes, [record("train", 1), record("train", 2, nats_per_hidden_base=1.2)], 6)
    untrained, guesses, composition = (line.get_ydata() for line in axes.lines)
    assert untrained == pytest.approx([math.log(4096) / 2, math.log(4096) / 5])
    assert guesses == pytest.approx([math.log(4)] * 2)
    assert composition == pytest.approx([1.368] * 2)
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"untrained", "copies and guesses", "base composition"}


def test_a_log_without_a_finite_loss_has_its_marks_too():
    axes = Figure().subplots()
    curves.nats_marks(axes, [record("train", 1, loss=None, nats_per_hidden_base=None)], 6)
    assert len(axes.texts) == 2


def test_the_page_has_the_marks_of_the_runs_own_picture():
    with svg.style():
        panels = figures.run_curves([record("train", 1), record("train", 2)], 6)
    drawn = "".join(panels)
    assert all(text in drawn for text in ("untrained", "copies and guesses", "base composition"))


@pytest.mark.parametrize("other, num_lines", [(5.0, 1), (6.0, 2)])
def test_perplexity_under_random_is_drawn_once_unless_it_differs(other, num_lines):
    """It differs where an adaptive budget grew."""
    axes = Figure().subplots()
    evals = [
        record("eval", step, stage="random", perplexity=5.0, perplexity_random=other)
        for step in (1, 2)
    ]
    curves._perplexity(axes, evals)
    assert len(axes.lines) == num_lines


def test_nats_per_base_are_drawn_with_the_marks_of_their_windows():
    """Two lines, three marks each, and a guess; a log without them keeps the panel of training."""
    marks = dict.fromkeys(
        ("nats_per_base", "nats_per_base_k"), {"composition": 1.37, "flanks": 1.3}
    )
    train = [record("train", 1), record("train", 2)]
    values = {"stage": "random", "perplexity": 5.0, "perplexity_random": 5.0}
    old = [record("eval", step, **values) for step in (1, 2)]
    new = [one | {"nats_per_base": 1.36, "nats_per_base_k": 1.38, "marks": marks} for one in old]
    panel, before = (curves.run_figure(train + evals, 6, (8, 6)).axes[2] for evals in (new, old))
    heights = [line.get_ydata()[0] for line in panel.lines]
    assert heights == pytest.approx([1.36, 1.37, 1.3, 1.38, 1.37, 1.3, math.log(4)])
    assert [text.get_text() for text in panel.texts] == ["composition", "flanks"] * 2
    assert before.get_title() == "nats per hidden base"


def test_panels_are_laid_out_before_they_are_cut_apart():
    """A name that is too long for the usual margin has room beside its panel."""
    with svg.style():
        figure = Figure()
        axes = figure.subplots(1, 2)
        for one in axes:
            pictures.name_lines(one, ["a name of more than thirty letters"])
        svg.panels(figure, "two")
        names = axes[1].get_yticklabels()[0].get_window_extent()
        assert names.x0 > axes[0].get_window_extent().x1
