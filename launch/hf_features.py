"""Embeds labelled tasks by any encoder of HuggingFace, for a line of launch.evaluate's tables.

    pip install torch transformers
    python -m launch.hf_features --model=zhihan1996/DNABERT-2-117M --trust_remote_code \\
        --data_dir=data --tasks=prom_core,splice_40 --output=dnabert2.npz
    python -m launch.evaluate --features=DNABERT-2=dnabert2.npz --checkpoint=runs/a ...

A row is the mean of the last layer's states over a sequence's tokens, special ones left out.
"""

from absl import flags

from cmgems_jax.runtime import command

_MODEL = flags.DEFINE_string("model", None, "Name on the Hub, or a folder.")
_TASKS = flags.DEFINE_list("tasks", None, "Names of published tasks, or folders of own ones.")
_DATA_DIR = flags.DEFINE_string("data_dir", ".", "Folder that holds fewshot/ and gue/.")
_OUTPUT = flags.DEFINE_string("output", None, "An .npz: sequences (N,), embeddings (N, F).")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Sequences at a time.", lower_bound=1)
_TRUST = flags.DEFINE_bool("trust_remote_code", False, "Run the code that comes with the model.")
flags.mark_flags_as_required(["model", "tasks", "output"])


def main() -> None:
    """Runs the command."""
    from cmgems_jax.huggingface import features

    features.write(
        _MODEL.value,
        _TASKS.value,
        _DATA_DIR.value,
        _OUTPUT.value,
        batch_size=_BATCH.value,
        trust_remote_code=_TRUST.value,
    )


if __name__ == "__main__":
    command.run(main)
