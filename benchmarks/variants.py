"""Scores of substitutions against the exact ones, on a genome of known law; their rate and memory.

    python -m benchmarks.variants --checkpoint=runs/demo --num_snvs=5000

The synthetic genome is a 5th-order Markov chain, so the exact log ratio of two letters is a sum
over the six 6-mers that hold the base. New contigs are drawn, a VCF of all three substitutions of
random bases is made, and `launch.score_variants`' own path scores it. For a checkpoint that was
pretrained on the synthetic genome (data.synthetic_bases, without data.synthetic_repeats); for
another the rate and memory alone mean anything.
"""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.special
import scipy.stats
from absl import flags

from cmgems_jax.downstream.inference import score_variants
from cmgems_jax.downstream.inference.settings import ScoreSettings
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.runtime import command
from cmgems_jax.windows import synthetic_genome

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A pretraining run's folder.", required=True)
_NUM_SNVS = flags.DEFINE_integer("num_snvs", 5_000, "Substitutions.", lower_bound=10)
_STRAND = flags.DEFINE_enum("strand", "both", vocabulary.STRANDS, "As of launch.score_variants.")
_SEED = flags.DEFINE_integer("seed", 1, "Of contigs and places; the demo's genome has 0.")
CONTIGS, BASES = 20, 10_000


def exact_log(bases_N: np.ndarray, places: np.ndarray, probability_SA: np.ndarray) -> np.ndarray:
    """Returns log P(letter at a place | all other bases): float64 (places, 4)."""
    order, log_SA = synthetic_genome.ORDER, np.log(probability_SA)
    log_P4 = np.zeros((len(places), 4))
    for letter in range(4):
        for end in range(order + 1):  # the letter stands `end` bases before the 6-mer's last
            window_PK = bases_N[places[:, None] + np.arange(end - order, end + 1)].astype(int)
            window_PK[:, order - end] = letter
            state_P = window_PK[:, :order] @ 4 ** np.arange(order)[::-1]
            log_P4[:, letter] += log_SA[state_P, window_PK[:, order]]
    return log_P4 - scipy.special.logsumexp(log_P4, axis=1, keepdims=True)


def write_inputs(folder: Path, num_snvs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes genome.fa and snvs.vcf, a site for every three substitutions.

    Returns the exact log ratios (sites, 3), and the exact -log of the true bases (sites,).
    """
    rng = np.random.default_rng(seed)
    counts = pmi_table.grch38_counts()
    contigs = synthetic_genome.sample_contigs(counts, CONTIGS, BASES, rng)
    probability_SA = synthetic_genome.transition(counts)
    ratios, surprises, lines, num_sites = [], [], [], num_snvs // 3
    for number, bases_N in enumerate(contigs):
        size = num_sites // CONTIGS + (number < num_sites % CONTIGS)
        places = np.sort(rng.choice(np.arange(100, BASES - 100), size, replace=False))
        ref = bases_N[places]
        alt_P3 = (ref[:, None] + np.arange(1, 4)) % 4
        log_P4, true_P1 = exact_log(bases_N, places, probability_SA), ref[:, None].astype(int)
        log_true_P1 = np.take_along_axis(log_P4, true_P1, axis=1)
        ratios.append(np.take_along_axis(log_P4, alt_P3.astype(int), axis=1) - log_true_P1)
        surprises.append(-log_true_P1[:, 0])
        for place, *codes in zip(places, ref, *alt_P3.T, strict=True):
            one, *others = vocabulary.decode(np.array(codes))
            lines.append(f"c{number}\t{place + 1}\t.\t{one}\t{','.join(others)}\t.\t.\t.\n")
    names = [f"c{number}" for number in range(CONTIGS)]
    header = "".join(f"##contig=<ID={name},length={BASES}>\n" for name in names)
    (folder / "snvs.vcf").write_text(
        f"##fileformat=VCFv4.2\n{header}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        + "".join(lines)
    )
    (folder / "genome.fa").write_text(
        "".join(
            f">{name}\n{vocabulary.decode(bases)}\n"
            for name, bases in zip(names, contigs, strict=True)
        )
    )
    return np.concatenate(ratios), np.concatenate(surprises)


def main() -> None:
    """Runs the command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact, surprise = write_inputs(folder, _NUM_SNVS.value, _SEED.value)
        start_s, cpu_s = time.perf_counter(), time.process_time()
        score_variants.score_variants(
            _CHECKPOINT.value, folder / "genome.fa", folder / "out.tsv",
            vcf_path=str(folder / "snvs.vcf"), settings=ScoreSettings(strand=_STRAND.value),
        )  # fmt: skip
        seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        rows = [line.split("\t") for line in (folder / "out.tsv").read_text().splitlines()[1:]]
    score_P3 = np.array([float(row[5]) for row in rows]).reshape(exact.shape)
    score, exact = score_P3.ravel(), exact.ravel()
    own = np.log1p(np.exp(score_P3).sum(axis=1))  # -log of what the ratios leave for the true base
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    spearman, pearson = (
        measure(score, exact)[0] for measure in (scipy.stats.spearmanr, scipy.stats.pearsonr)
    )
    print(
        f"{len(score):,} substitutions, strand {_STRAND.value}: with the exact log ratio Spearman "
        f"{spearman:.4f}, Pearson {pearson:.4f}\nnats per base {own.mean():.4f}, of the exact "
        f"posterior {surprise.mean():.4f}\n{seconds:,.1f} s in all ({cpu_s:,.1f} s of CPU time), "
        f"{len(score) / seconds:,.1f} a second; at most {peak_mb:,.0f} MB"
    )


if __name__ == "__main__":
    command.run(main)
