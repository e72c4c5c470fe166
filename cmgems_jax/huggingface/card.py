"""The model card: what the model is, what it saw, how well it does, how to use it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCard, ModelCardData

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import curriculum
from cmgems_jax.pretraining import pretrained
from cmgems_jax.windows import dataset

NAME = "README.md"
_PAPER = "https://arxiv.org/abs/2408.07180"
_TAGS = ("biology", "genomics", "dna", "bert")
_IMPORTED = "Not recorded: the parameters were imported, not trained here."
_LIMITS = """\
- It reads DNA only, in k-mers; every k-mer with a letter other than A, C, G, T (U) is `[UNK]`.
- Sequences of other species, or of other lengths, than it was trained on may be read badly.
- It has not been evaluated for clinical use."""


def of_run(
    checkpoint: Path, config: Config, evaluation: Path | None, license_name: str | None
) -> ModelCard:
    """Returns the card of a pretraining run.

    Args:
      checkpoint: as for `pretrained.load`.
      config: of the run.
      evaluation: folder of launch.evaluate, or None.
      license_name: of the weights; None: the card names none.

    Raises:
      InputError: `evaluation` holds no summary.
    """
    workdir, step = pretrained.locate(checkpoint)
    is_imported = step == 0  # see checkpoints.save_params
    records = _records(workdir / "metrics.jsonl", step)
    name = workdir.resolve().name
    sections = {
        "Data": _IMPORTED if is_imported else _data(workdir, config),
        "Training": _IMPORTED if is_imported else _training(config, records, step),
        "Results": _results(records) + _evaluation(evaluation, name),
        "How to use it": _use(config, "AutoModelForMaskedLM", config.data.num_tokens),
        "Limits": _LIMITS,
        "Config": _config(config, ("model", "tokens") if is_imported else None),
    }
    first = "A BERT for DNA, "
    if is_imported:
        first += "imported into cmgems_jax and exported again."
    else:
        first += f"pretrained by masked language modelling with [CM-GEMS]({_PAPER}) in cmgems_jax."
    if (workdir / "curves.png").exists():
        first += "\n\n![Perplexity and loss by step](curves.png)"
    return _card(name, first, sections, license_name, "fill-mask")


def of_classifier(folder: Path, model: TrainedClassifier, license_name: str | None) -> ModelCard:
    """Returns the card of a fine-tuned classifier."""
    record = json.loads((folder / classifier.RECORD).read_text())
    recipe = "\n".join(f"- {name}: {value}" for name, value in record["recipe"].items())
    labels = ", ".join(f"{number} = {name}" for number, name in enumerate(model.label_names))
    scores = _read_json(folder / "metrics.json").get("test", {})
    results = "\n".join(
        f"- {name}: {value:.4f}" for name, value in scores.items() if value is not None
    )
    training = f"Fine-tuned from `{Path(record['source']).name}`:\n\n{recipe}"
    is_imported = not recipe
    sections = {
        "Task": f"{record['task']}; classes: {labels}. Sequences of at most {model.max_tokens} "
        "positions.",
        "Training": _IMPORTED if is_imported else training,
        "Results": results or "No metrics were recorded.",
        "How to use it": _use(model.config, "AutoModelForSequenceClassification", model.max_tokens),
        "Limits": _LIMITS,
        "Config": _config(model.config, ("model", "tokens") if is_imported else None),
    }
    first = f"A BERT classifier of DNA sequences ({record['task']}), "
    first += f"{'imported into' if is_imported else 'trained in'} cmgems_jax."
    return _card(folder.resolve().name, first, sections, license_name, "text-classification")


def _card(
    name: str, first: str, sections: dict[str, str], license_name: str | None, pipeline: str
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
    summary = _read_json(folder / dataset.SUMMARY_NAME)
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


def _use(config: Config, auto: str, max_tokens: int) -> str:
    """Shows how to load the model, how DNA becomes tokens, and what launch.embed computes."""
    tokens = config.tokens
    cut = (
        f'" ".join(dna[i : i + {tokens.k}] '
        f"for i in range(0, len(dna) - {tokens.k - 1}, {tokens.stride}))"
    )
    raw = "The tokenizer cuts raw DNA into overlapping k-mers itself; k-mers that are separated"
    if tokens.stride != 1:
        raw = "The tokenizer takes k-mers that are separated"
    text = "dna" if tokens.stride == 1 else cut
    num_bases = vocabulary.num_bases(max_tokens - 2, tokens.k, tokens.stride)
    return f"""\
```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = {auto}.from_pretrained("PATH")
inputs = tokenizer({text}, return_tensors="pt")
logits = model(**inputs).logits
```

{raw} by blanks, with `[MASK]` among them, are read as they are:
`{cut}`. A word of fewer than {tokens.k} letters is one `[UNK]`. To ask for one base, mask every
token that holds it (up to {-(-tokens.k // tokens.stride)}): a single masked k-mer can be read off
its neighbours. At most {config.model.num_positions} positions, `[CLS]` and `[SEP]` included.

The vector of a sequence of at most {num_bases} bases, as `launch.embed` computes it, is the mean
over its k-mers without ambiguous letters:

```python
from transformers import AutoModel

encoder = AutoModel.from_pretrained("PATH")
is_kmer = (inputs["input_ids"] >= {vocabulary.NUM_SPECIAL}).unsqueeze(2)
vector = (encoder(**inputs)[0] * is_kmer).sum(1) / is_kmer.sum(1)
```

The mean over the attention mask is another vector: it counts `[CLS]`, `[SEP]` and `[UNK]`."""


def _config(config: Config, sections: Sequence[str] | None) -> str:
    """Returns the config, or sections of it, as JSON, file names without their folders."""
    values = config_lib.to_dict(config)
    data = values["data"]
    data["dir"] = Path(data["dir"]).name
    data["fasta"] = ",".join(Path(path).name for path in config.fasta_paths)
    values["pmi"]["table"] = Path(values["pmi"]["table"]).name
    if sections:
        values = {name: values[name] for name in sections}
    return f"```json\n{json.dumps(values, indent=1)}\n```"
