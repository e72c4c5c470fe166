"""Imports a HuggingFace BERT over k-mers, such as DNABERT, as a run of our own.

    python -m launch.import_hf --path=DNA_bert_6 --output=runs/dnabert6
    python -m launch.evaluate --checkpoint=runs/dnabert6 ...

The folder holds config.json, vocab.txt (which decides k and the order of the
k-mers), and model.safetensors or pytorch_model.bin (for that torch is needed).
A BertForSequenceClassification, or an export of ours with head.safetensors,
becomes a classifier for launch.predict.
"""

from absl import flags

from cmgems_jax.runtime import command

_PATH = flags.DEFINE_string("path", None, "Local HuggingFace folder.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_STRIDE = flags.DEFINE_integer(
    "stride", None, "Bases between token starts; default: what an export of ours says, or 1.", 1
)


def main() -> None:
    """Runs the command."""
    from cmgems_jax.huggingface import load

    load.import_model(_PATH.value, _OUTPUT.value, stride=_STRIDE.value)


if __name__ == "__main__":
    command.run(main)
