"""Exports a checkpoint for HuggingFace transformers: stock classes, no remote code.

    python -m launch.export_hf --checkpoint=runs/mine --output=exports/mine
    python -m launch.export_hf --checkpoint=runs/classifier --output=exports/classifier

A pretraining run (or human6-nano) becomes a BertForMaskedLM; a classifier with
--head=cls a BertForSequenceClassification with its label names, one of a features
head a BertModel, its head in head.safetensors. Writes model.safetensors,
config.json, the tokenizer (which takes raw DNA) and a model card.
"""

from absl import flags

from cmgems_jax.runtime import command

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A pretraining run's folder, a classifier's, or human6-nano.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier export.")
_TASK_HEAD = flags.DEFINE_bool(
    "task_head", None, "Insist on a classifier, or on none; default: what the checkpoint is."
)
_EVALUATION = flags.DEFINE_string("evaluation", None, "launch.evaluate's output, for the card.")
_LICENSE = flags.DEFINE_string(
    "license", None, "Of the weights, for the card, as in apache-2.0; default: none is named."
)
_PUSH = flags.DEFINE_string("push_to_hub", None, "OWNER/NAME: upload the export there.")
_PRIVATE = flags.DEFINE_bool("private", False, "Make a new repository private.")


def main() -> None:
    """Runs the command."""
    from cmgems_jax.huggingface import export, hub

    if _PUSH.value:
        hub.check_name(_PUSH.value)
    export.export(
        _CHECKPOINT.value,
        _OUTPUT.value,
        overwrite=_OVERWRITE.value,
        task_head=_TASK_HEAD.value,
        evaluation=_EVALUATION.value,
        license_name=_LICENSE.value,
    )
    if _PUSH.value:
        print(hub.push(_OUTPUT.value, _PUSH.value, private=_PRIVATE.value), flush=True)


if __name__ == "__main__":
    command.run(main)
