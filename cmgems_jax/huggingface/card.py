"""The model card: what the model is, what it saw, how well it does, how to use it.

The words are in card.md.jinja; here is what it needs to know.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import curriculum, strategies
from cmgems_jax.model import heads
from cmgems_jax.pretraining import checkpoints, packaged, pretrained
from cmgems_jax.runtime import run_log
from cmgems_jax.windows import dataset

NAME = "README.md"
TEMPLATE = Path(__file__).with_name("card.md.jinja")
_TAGS = ("biology", "genomics", "dna", "bert")


def of_run(
    checkpoint: Path, config: Config, evaluation: Path | str | None, license_name: str | None
) -> ModelCard:
    """Returns the card of a pretraining run, with the results in a folder of launch.evaluate.

    Raises:
      InputError: `evaluation` holds no summary.
    """
    workdir, step = pretrained.locate(checkpoint)
    records = [one for one in run_log.read(workdir / "metrics.jsonl") if one["step"] <= step]
    windows = _read_json(config.data_dir(workdir) / dataset.SUMMARY_NAME)
    files = zip(windows.get("files", ()), windows.get("sha256", ()), strict=True)
    evals = [record for record in records if record["kind"] == "eval"]
    return _card(
        _data(workdir, license_name, "fill-mask"),
        config,
        max_tokens=config.data.num_tokens,
        auto_class="AutoModelForMaskedLM",
        is_imported=step == 0,  # see checkpoints.save_params
        is_packaged=packaged.is_name(checkpoint),
        has_curves=(workdir / "curves.png").exists(),
        windows=windows,
        files=[(Path(path).name, digest) for path, digest in files],
        step=step,
        stages=_stages(config, records, step),
        source_name=_source_name(config),
        pmi_source=Path(config.pmi_source).name,
        evaluated=evals[-1] if evals else None,
        **(_labelled_tasks(Path(evaluation)) if evaluation else {}),
    )


def of_classifier(folder: Path, model: TrainedClassifier, license_name: str | None) -> ModelCard:
    """Returns the card of a fine-tuned classifier."""
    record = json.loads((folder / classifier.RECORD).read_text())
    scores = _read_json(folder / "metrics.json").get("test", {})
    return _card(
        _data(folder, license_name, "text-classification"),
        model.config,
        max_tokens=model.max_tokens,
        auto_class="AutoModelForSequenceClassification",
        has_own_head=model.head == heads.FEATURES,
        is_imported=not record["recipe"],
        task=record["task"],
        kind={labels.MULTILABEL: "labels"}.get(model.labels, model.labels),
        classes=", ".join(f"{number} = {name}" for number, name in enumerate(model.label_names)),
        source=Path(record["source"]).name,
        recipe=record["recipe"],
        scores={name: value for name, value in scores.items() if value is not None},
    )


def _data(folder: Path, license_name: str | None, pipeline_tag: str) -> ModelCardData:
    """Returns what the hub reads of a card; its values are the template's too."""
    return ModelCardData(
        model_name=folder.resolve().name,
        license=license_name,
        pipeline_tag=pipeline_tag,
        library_name="transformers",
        tags=[*_TAGS],
    )


def _card(
    data: ModelCardData, config: Config, *, max_tokens: int, is_imported: bool, **values: Any
) -> ModelCard:
    """Returns the card of what both kinds of model need, and of the values of one kind."""
    k, stride = config.tokens.k, config.tokens.stride
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        config=config,
        tokens=config.tokens,
        config_json=_config_json(config, is_imported),
        is_imported=is_imported,
        max_tokens=max_tokens,
        max_bases=vocabulary.num_bases(max_tokens - 2, k, stride),
        num_special=vocabulary.NUM_SPECIAL,
        num_parts=heads.NUM_PARTS,
        tokens_per_base=strategies.tokens_per_base(k, stride),
        cut=f'" ".join(dna[i : i + {k}] for i in range(0, len(dna) - {k - 1}, {stride}))',
        **values,
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the file's content, nothing where it is missing."""
    return json.loads(path.read_text()) if path.exists() else {}


def _source_name(config: Config) -> str:
    """Returns the folder's name of the model that the run began with, or nothing."""
    path = Path(config.init_from.path)
    is_step = path.parent.name == checkpoints.FOLDER
    return path.parent.parent.name if is_step else path.name


def _stages(config: Config, records: list[dict[str, Any]], step: int) -> str:
    """Returns the strategies and how many steps each masked."""
    easy, hard = curriculum.strategies(config.curriculum)
    switch = next((record["step"] for record in records if record["kind"] == "switch"), None)
    if easy == hard or switch is None:
        return f"`{easy}` {step:,} steps"
    return f"`{easy}` {switch:,} steps, then `{hard}` {step - switch:,} steps"


def _labelled_tasks(folder: Path) -> dict[str, Any]:
    """Returns the rows of a suite's summary and what is to be known of them."""
    path = folder / "summary.csv"
    if not path.exists():
        raise InputError(
            f"--evaluation={folder}: no summary.csv; expected launch.evaluate's output"
        )
    means = evaluation_report.read_table(path)
    notes, units = evaluation_report.read_notes(folder), evaluation_report.unit_names(means)
    known = {unit: texts for unit, texts in notes.items() if unit in units}
    return {
        "means": [row | {"score": evaluation_report.cell(row)} for row in means.to_dict("records")],
        "notes": "\n".join(evaluation_report.note_lines(known)),
    }


def _config_json(config: Config, is_imported: bool) -> str:
    """Returns what of the config is known, file names without their folders."""
    values = config_lib.to_dict(config)
    data = values["data"]
    data["dir"] = Path(data["dir"]).name
    data["fasta"] = ",".join(Path(path).name for path in config.fasta_paths)
    values["init_from"]["path"] = _source_name(config)
    values["pmi"]["table"] = Path(values["pmi"]["table"]).name
    if is_imported:
        values = {name: values[name] for name in ("model", "tokens")}
    return json.dumps(values, indent=1)
