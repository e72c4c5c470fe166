"""The model card: what the model is, what it saw, how well it does, how to use it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCard, ModelCardData

from cmgems_jax import config as config_lib
from cmgems_jax import curriculum
from cmgems_jax.config import Config
from cmgems_jax.data import windows
from cmgems_jax.downstream import classifier, evaluation_report, pretrained
from cmgems_jax.downstream.classifier import TrainedClassifier
from cmgems_jax.errors import InputError

NAME = "README.md"
_PAPER = "https://arxiv.org/abs/2408.07180"
_TAGS = ("biology", "genomics", "dna", "bert")
_LIMITS = """\
- It reads DNA only, in k-mers; every k-mer with a letter other than A, C, G, T (U) is `[UNK]`.
- It has learned from the genomes above and from nothing else: other species, and
  sequences of other lengths than it was trained on, may be read badly.
- It has not been evaluated for clinical use."""


def of_run(
    checkpoint: Path, config: Config, evaluation: Path | None, license_name: str
) -> ModelCard:
    """Returns the card of a pretraining run.

    Args:
      checkpoint: as for `pretrained.load`.
      config: of the run.
      evaluation: folder of launch.evaluate, or None.
      license_name: of the weights.

    Raises:
      InputError: `evaluation` holds no summary.
    """
    workdir, step = pretrained.locate(checkpoint)
    records = _records(workdir / "metrics.jsonl", step)
    name = workdir.resolve().name
    sections = {
        "Data": _data(workdir, config),
        "Training": _training(config, records, step),
        "Results": _results(records) + _evaluation(evaluation, name),
        "How to use it": _use(config, "BertForMaskedLM"),
        "Limits": _LIMITS,
        "Config": _config(config),
    }
    first = (
        "A BERT for DNA, pretrained by masked language modelling with "
        f"[CM-GEMS]({_PAPER}) in cmgems_jax."
    )
    if (workdir / "curves.png").exists():
        first += "\n\n![Perplexity and loss by step](curves.png)"
    return _card(name, first, sections, license_name, "fill-mask")


def of_classifier(folder: Path, model: TrainedClassifier, license_name: str) -> ModelCard:
    """Returns the card of a fine-tuned classifier."""
    record = json.loads((folder / classifier.RECORD).read_text())
    recipe = "\n".join(f"- {name}: {value}" for name, value in record["recipe"].items())
    labels = ", ".join(f"{number} = {name}" for number, name in enumerate(model.label_names))
    scores = _read_json(folder / "metrics.json").get("test", {})
    results = "\n".join(f"- {name}: {value:.4f}" for name, value in scores.items() if value)
    sections = {
        "Task": f"{record['task']}; classes: {labels}. Longest training sequence: "
        f"{model.max_tokens} positions.",
        "Training": f"Fine-tuned from `{Path(record['source']).name}`:\n\n{recipe}",
        "Results": results or "No metrics were recorded.",
        "How to use it": _use(model.config, "BertForSequenceClassification"),
        "Limits": _LIMITS,
        "Config": _config(model.config),
    }
    first = f"A BERT classifier of DNA sequences ({record['task']}), trained in cmgems_jax."
    return _card(folder.resolve().name, first, sections, license_name, "text-classification")


def _card(
    name: str, first: str, sections: dict[str, str], license_name: str, pipeline: str
) -> ModelCard:
    """Returns the card of a name, a first paragraph and titled sections."""
    data = ModelCardData(
        license=license_name,
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=[*_TAGS],
        model_name=name,
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{first}\n\n{body}\n")


def _records(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl up to a step; none where there is no such file."""
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if record["step"] <= last_step]


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the file's content, nothing where it is missing."""
    return json.loads(path.read_text()) if path.exists() else {}


def _data(workdir: Path, config: Config) -> str:
    """Describes the genomes and windows."""
    folder = config.data_dir(workdir)
    summary = _read_json(folder / windows.SUMMARY_NAME)
    if not summary:
        return "Not recorded."
    if config.data.synthetic_bases:
        lines = [f"- a synthetic genome of {config.data.synthetic_bases:,} bases"]
    else:
        files = zip(summary["files"], summary["sha256"], strict=True)
        lines = [f"- `{Path(path).name}`, sha256 `{digest}`" for path, digest in files]
    bases, number = summary["real_bases"], summary["windows"]
    lines += [
        f"- {summary['input']['bases']:,} bases in {summary['input']['contigs']:,} contigs",
        f"- {number['train']:,} training windows ({bases['train']:,} bases), "
        f"{number['validation']:,} for validation ({bases['validation']:,}), split by "
        f"{summary['split']}; at most {config.data.num_tokens} positions",
    ]
    return "\n".join(lines)


def _training(config: Config, records: list[dict[str, Any]], step: int) -> str:
    """Describes tokens, masks, curriculum and steps."""
    tokens, masking = config.tokens, config.masking
    easy, hard = curriculum.strategies(config.curriculum)
    switch = next((record for record in records if record["kind"] == "switch"), None)
    stages = f"`{easy}` {step:,} steps"
    if easy != hard and switch:
        stages = f"`{easy}` {switch['step']:,} steps, then `{hard}` {step - switch['step']:,} steps"
    return "\n".join(
        [
            f"- tokens: {tokens.k}-mers, stride {tokens.stride}, alphabet {tokens.alphabet}",
            f"- {step:,} steps, batches of {config.batch_size}, curriculum "
            f"`{config.curriculum.name}`: {stages}",
            f"- masked: {masking.budget:.0%} of the tokens; corruption by {masking.corruption}",
            f"- PMI: normalised, `{config.pmi.segmentation}` segmentation, ranks from "
            f"`{Path(config.pmi_source).name}`",
        ]
    )


def _results(records: list[dict[str, Any]]) -> str:
    """Describes the last evaluation."""
    last = next((record for record in records[::-1] if record["kind"] == "eval"), None)
    if not last:
        return "No evaluation was recorded."
    return (
        f"Perplexity of masked validation tokens at step {last['step']:,}: "
        f"{last['perplexity']:.2f} under `{last['stage']}`, {last['perplexity_random']:.2f} under "
        "`random` (the one to compare models by)."
    )


def _evaluation(folder: Path | None, name: str) -> str:
    """Returns a table of the summary of labelled tasks, nothing without one."""
    if folder is None:
        return ""
    path = folder / "summary.csv"
    if not path.exists():
        raise InputError(
            f"--evaluation={folder}: no summary.csv; expected launch.evaluate's output"
        )
    lines = [
        "\n\nLabelled tasks (mean over draws and 95 % interval), beside the baselines:\n",
        "| task | shots | model | mode | metric | score |",
        "|---|---|---|---|---|---|",
    ]
    means = evaluation_report.read_table(path)
    for row in means.to_dict("records"):
        low, high = (row[f"{row['metric']}_{end}"] for end in ("low", "high"))
        interval = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
        shots = row["shots"] or "all"
        model = f"**{name}**" if row["model"] == name else row["model"]
        lines.append(
            f"| {row['task']} | {shots} | {model} | {row['mode']} | {row['metric']} | "
            f"{row[row['metric']]:.3f}{interval} |"
        )
    notes = evaluation_report.read_notes(folder)
    known = {unit: notes[unit] for unit in notes if unit in evaluation_report.unit_names(means)}
    return "\n".join([*lines, "", *evaluation_report.note_lines(known)])


def _use(config: Config, architecture: str) -> str:
    """Shows how to load the model, and how DNA becomes tokens."""
    tokens = config.tokens
    auto = "AutoModelForMaskedLM"
    if architecture != "BertForMaskedLM":
        auto = "AutoModelForSequenceClassification"
    cut = (
        f'" ".join(dna[i : i + {tokens.k}] '
        f"for i in range(0, len(dna) - {tokens.k - 1}, {tokens.stride}))"
    )
    raw = "The tokenizer cuts raw DNA into overlapping k-mers itself; k-mers that are separated"
    if tokens.stride != 1:
        raw = "The tokenizer takes k-mers that are separated"
    text = "dna" if tokens.stride == 1 else cut
    return f"""\
```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = {auto}.from_pretrained("PATH")
inputs = tokenizer({text}, return_tensors="pt")
logits = model(**inputs).logits
```

{raw} by blanks, with `[MASK]` among them, are read as they are:
`{cut}`. To ask for one base, mask all {2 * tokens.k - 1} tokens around it: a single masked k-mer
can be read off its neighbours. At most {config.model.num_positions} positions, `[CLS]` and
`[SEP]` included."""


def _config(config: Config) -> str:
    """Returns the whole config as JSON, file names without their folders."""
    values = config_lib.to_dict(config)
    data = values["data"]
    data["dir"] = Path(data["dir"]).name
    data["fasta"] = ",".join(Path(path).name for path in config.fasta_paths)
    values["pmi"]["table"] = Path(values["pmi"]["table"]).name
    return f"```json\n{json.dumps(values, indent=1)}\n```"
