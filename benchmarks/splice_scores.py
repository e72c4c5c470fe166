"""Variant scores by position around real splice sites: does a model know GT and AG?

    python -m benchmarks.splice_scores --checkpoint=runs/mine --data_dir=DATA

The 40-base sequences of fewshot/splice_40 are read from either strand: class 1 holds donors
(GT at 20) and acceptors of the other strand (CT at 20), class 2 acceptors (AG at 17) and donors
of the other strand (AC at 17); class 0 holds no site. All are turned to the gene's strand. All
three substitutions of every base are scored; the mean of a site's two invariant bases is set
against that of its neighbours, and against the same two letters in class 0.
"""

import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from cmgems_jax.downstream.inference import variants
from cmgems_jax.downstream.inference.settings import ScoreSettings
from cmgems_jax.downstream.inference.variants import Allele, Scorer
from cmgems_jax.downstream.tasks import files as task_files
from cmgems_jax.genome import reference, vocabulary
from cmgems_jax.pretraining import pretrained
from cmgems_jax.runtime import command

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A pretraining run's folder.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds fewshot/.", required=True)
_LIMIT = flags.DEFINE_integer("limit", 300, "Sequences of each kind at most.", lower_bound=10)
NEAR = 10  # bases on either side that are shown
# Kind: class, where its two bases stand, the two bases; on the gene's strand and the other.
KINDS = {
    "donor": ((1, 20, "GT"), (2, 17, "AC")),
    "acceptor": ((2, 17, "AG"), (1, 20, "CT")),
}


def read_sites(path: Path) -> dict[str, list[tuple[str, int]]]:
    """Returns (sequence on the gene's strand, where its two bases start) by kind."""
    examples = task_files.read_examples(path)
    labels = map(int, examples.label_texts)
    rows = list(zip(map(vocabulary.decode, examples.bases_NM), labels, strict=True))
    found: dict[str, list[tuple[str, int]]] = {}
    for kind, (own, other) in KINDS.items():
        sites = [(text, own[1]) for text, label in rows if is_of(text, label, own)]
        sites += [
            (turned(text), len(text) - other[1] - 2)
            for text, label in rows
            if is_of(text, label, other)
        ]
        found[kind] = sites[: _LIMIT.value // 2] + sites[-(_LIMIT.value // 2) :]
        control = [(text, own[1]) for text, label in rows if is_of(text, label, (0, *own[1:]))]
        found[f"no site, {own[2]} ({kind})"] = control[: _LIMIT.value]
    return found


def is_of(text: str, label: int, what: tuple[int, int, str]) -> bool:
    """True where the class is right and the two bases stand there."""
    number, place, letters = what
    return label == number and text[place : place + 2] == letters


def turned(text: str) -> str:
    """Returns the reverse complement."""
    return vocabulary.decode(vocabulary.reverse_complement(vocabulary.encode(text)))


def mean_scores(model: pretrained.Pretrained, sites: list[tuple[str, int]]) -> np.ndarray:
    """Returns the mean score of the three substitutions: (sites, 2 NEAR + 2), NaN at the ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sites.fa"
        path.write_text("".join(f">{n}\n{text}\n" for n, (text, _) in enumerate(sites)))
        alleles = []
        for number, (text, start) in enumerate(sites):
            codes = vocabulary.encode(text).tolist()
            for place in range(start - NEAR, start + NEAR + 2):
                others = [base for base in range(4) if base != codes[place]]
                alleles += [Allele(str(number), place, codes[place], base) for base in others]
        with reference.opened(path) as genome:
            settings = ScoreSettings(window=len(sites[0][0]), batch_size=64)
            scorer = Scorer(model, genome, settings)
            parts = np.array_split(np.array(alleles, object), max(1, len(alleles) // 6_000))
            rows = np.concatenate([scorer.score(part.tolist()) for part in parts])
    score = np.where(rows["reason"] == variants.SCORED, rows["score"], np.nan)
    return score.reshape(len(sites), 2 * NEAR + 2, 3).mean(axis=2)


def interval(values: np.ndarray) -> str:
    """Returns the mean with its 95 % interval."""
    error = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.3f} [{values.mean() - error:+.3f}, {values.mean() + error:+.3f}]"


def describe(kind: str, score_SP: np.ndarray, control: str, control_SP: np.ndarray) -> None:
    """Prints how the two bases of a site differ from their neighbours, and from chance."""
    core, other = (one[:, NEAR : NEAR + 2].mean(axis=1) for one in (score_SP, control_SP))
    around = np.delete(score_SP, [NEAR, NEAR + 1], axis=1)
    print(f"{kind} ({len(core)}): at its two bases {interval(core)}")
    print(f"  less the {2 * NEAR} neighbours {interval(core - np.nanmean(around, axis=1))}")
    error = np.hypot(*(one.std(ddof=1) / np.sqrt(len(one)) for one in (core, other)))
    gap = core.mean() - other.mean()
    low, high = gap - 1.96 * error, gap + 1.96 * error
    print(f"  less {control} ({len(other)}) {gap:+.3f} [{low:+.3f}, {high:+.3f}]")
    means = enumerate(np.nanmean(score_SP, axis=0), -NEAR)
    print("  by position " + " ".join(f"{place}:{mean:+.2f}" for place, mean in means))


def main() -> None:
    """Runs the command."""
    model = pretrained.load_masked_lm(Path(_CHECKPOINT.value))
    sites = read_sites(Path(_DATA_DIR.value) / "fewshot" / "splice_40" / "test.tsv.gz")
    print(f"{model.name}: mean score of the three substitutions, nats; 95 % intervals over sites")
    scores = {kind: mean_scores(model, found) for kind, found in sites.items()}
    for kind in KINDS:
        control = next(name for name in scores if name.endswith(f"({kind})"))
        describe(kind, scores[kind], control, scores[control])


if __name__ == "__main__":
    command.run(main)
