"""Embeddings of labelled tasks by any encoder of HuggingFace, as `launch.evaluate` takes them.

Torch and transformers are needed here alone, and imported where they are used.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmgems_jax import terminal
from cmgems_jax.downstream.evaluation.given_features import EMBEDDINGS, SEQUENCES
from cmgems_jax.downstream.tasks import files as task_files
from cmgems_jax.downstream.tasks import folder as task_folder
from cmgems_jax.downstream.tasks import table
from cmgems_jax.downstream.tasks.settings import TaskSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import outputs

_NEEDS = (
    "needs torch and transformers: pip install torch transformers, into an environment of its own"
)


def write(
    model: str,
    tasks: Sequence[str],
    data_dir: Path | str,
    output: Path | str,
    *,
    batch_size: int = 32,
    trust_remote_code: bool = False,
) -> None:
    """Writes .npz: `sequences` (N,), the different ones of the tasks, `embeddings` float32 (N, F).

    An embedding is the mean of the last layer's states over the tokens, special ones left out;
    what is longer than the model's positions is cut off, and counted in a note.

    Args:
      model: name on the Hub, or a folder.
      tasks: names of the table, or folders.
      trust_remote_code: run the code that comes with the model.

    Raises:
      InputError: no torch, no such model or task, another suffix.
    """
    outputs.check_file(Path(output), (".npz",))
    texts = sorted(_sequences(tasks, Path(data_dir)), key=len)  # of like length together
    embeddings_NF = _embed(model, texts, batch_size, trust_remote_code)
    with outputs.replaced_file(output) as part, part.open("wb") as file:
        np.savez(file, **{SEQUENCES: np.array(texts), EMBEDDINGS: embeddings_NF})
    print(f"{output}: {len(texts):,} sequences, {embeddings_NF.shape[1]} features of {model}")


def _sequences(tasks: Sequence[str], data_dir: Path) -> set[str]:
    """Returns the different sequences of the tasks' train and test files."""
    texts: set[str] = set()
    for task in table.find_all(tasks, data_dir):
        files, _ = task_folder.split_files(table.folder_of(task, data_dir))
        for path in itertools.chain.from_iterable(files.values()):
            rows = task_files.read_examples(path, TaskSettings(labels="multilabel"))
            texts.update(vocabulary.decode(bases_M) for bases_M in rows.bases_NM)
    return texts


def _embed(name: str, texts: Sequence[str], batch_size: int, trust_remote_code: bool) -> np.ndarray:
    """Returns float32 (N, F), the mean states of every sequence."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(f"launch.hf_features {_NEEDS} ({error})") from None
    try:
        tokenizer, model = (
            kind.from_pretrained(name, trust_remote_code=trust_remote_code)
            for kind in (transformers.AutoTokenizer, transformers.AutoModel)
        )
    except (ImportError, OSError, ValueError) as error:
        raise InputError(
            f"--model={name}: {error} (a model that comes with code: --trust_remote_code)"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, torch.float32).eval()
    positions = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    longest = min(tokenizer.model_max_length, positions)
    ids = (getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "bos", "eos", "pad"))
    special = torch.tensor([number for number in ids if number is not None], device=device)
    means, num_cut = [], 0
    with torch.inference_mode():
        for start in terminal.bar(
            range(0, len(texts), batch_size), desc=f"embedding by {name}", unit="batches"
        ):
            batch = tokenizer(
                list(texts[start : start + batch_size]),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=longest,
            )
            known = {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}
            is_content_BL = (
                ~torch.isin(known["input_ids"], special) & known["attention_mask"].bool()
            )
            num_cut += int((batch["attention_mask"].sum(dim=1) >= longest).sum())
            weight_BL1 = is_content_BL[..., None]
            states_BLD = model(**known)[0]
            sums_BD = (states_BLD * weight_BL1).sum(dim=1)
            means.append((sums_BD / weight_BL1.sum(dim=1).clamp(min=1)).float().cpu().numpy())
    if num_cut:
        print(f"note: {num_cut:,} sequences fill all {longest:,} positions; longer ones were cut")
    return np.concatenate(means)
