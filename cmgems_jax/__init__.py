"""CM-GEMS: masked-language-model pretraining of DNA models in JAX.

    import cmgems_jax as cm

    model = cm.load("runs/mine")
    model.embed(["ACGTTGCAAC", "TTGACCAGTA"])     # float32 (2, hidden size)
    model.base_probabilities("ACGTTGCAAC")[0]     # float32 (10, 4): A, T, C, G at every base
    model.logits("ACGTTGCAAC", hidden=[4])        # float32 (k-mers, vocabulary)
    print(model.mask("ACGTTGCAAC", "genemask"))   # what the strategy hides
    cm.load("runs/classifier").predict("X.fa")    # float32 (records, classes)

Sequences are strings, lists of them, or the path of a FASTA or .2bit file. Commands are
`python -m launch.NAME`; docs/running.md and docs/tasks.md describe them.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmgems_jax.face import Model

__version__ = "0.1.0"
__all__ = ["load"]


def load(path: str | os.PathLike) -> "Model":
    """Returns the model in a folder, to be asked from Python; see `face.Model`.

    Args:
      path: work folder of a pretraining run (its newest checkpoint) or WORKDIR/checkpoints/STEP,
        the output of launch.finetune or launch.import_hf, a HuggingFace folder, or the name of a
        model of the package.

    Raises:
      InputError: no model there, a damaged one, or one of another kind.
    """
    from cmgems_jax.face import Model  # jax and all: not for who wants the version alone

    return Model(path)
