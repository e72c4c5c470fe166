"""The PyTorch side of the benchmarks: HuggingFace's BERT, trained as it usually is.

A program of its own, so that a benchmark can run it under another Python (torch is
no requirement of the package) and no thread of one framework disturbs the other:

    python benchmarks/torch_peer.py SETTINGS.json

SETTINGS.json has the model's sizes, the batch and the file of windows (npy, uint8
(N, M), codes 0..3, 255 behind the end). Each line "COUNT" on stdin runs COUNT steps
and answers one JSON line: seconds, real bases, tokens computed. What torch users do is
done here: sdpa attention, fused AdamW, a DataLoader whose collator cuts 6-mers,
masks runs of six tokens and pads to the longest of the batch, logits everywhere; on
a GPU bfloat16 autocast and torch.compile (autocast on a CPU too, with model.matmul=bfloat16).
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler
from transformers import BertConfig, BertForMaskedLM

PAD, CLS, SEP, MASK, FIRST_KMER = 0, 2, 3, 4, 5
NO_LABEL = -100
PADDING = 255


class Collator:
    """Cuts k-mers, masks runs of k tokens around random centers, and pads to the longest."""

    def __init__(self, k: int, budget: float, pad_to: int) -> None:
        """Keeps the settings; pads to `pad_to` tokens where it is not 0."""
        self.k, self.budget, self.pad_to = k, budget, pad_to

    def __call__(self, windows: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Returns ids, attention mask, labels (B, L) and the number of real bases."""
        bases_BM = np.stack(windows)
        is_base_BM = bases_BM != PADDING
        longest = int(is_base_BM.sum(axis=1).max())
        ids_BL = self._ids(bases_BM[:, :longest], is_base_BM[:, :longest])
        if self.pad_to:
            ids_BL = np.pad(ids_BL, ((0, 0), (0, self.pad_to - ids_BL.shape[1])))
        ids = torch.from_numpy(ids_BL)
        return {
            **self._mask(ids),
            "attention_mask": (ids != PAD).long(),
            "bases": torch.tensor(int(is_base_BM.sum())),
        }

    def _ids(self, bases_BM: np.ndarray, is_base_BM: np.ndarray) -> np.ndarray:
        """Returns [CLS], k-mers, [SEP] and padding, int64 (B, L)."""
        num_kmers = bases_BM.shape[1] - self.k + 1
        code_BT = np.zeros((len(bases_BM), num_kmers), np.int64)
        for offset in range(self.k):
            code_BT = 4 * code_BT + (bases_BM[:, offset : offset + num_kmers] & 3)
        is_kmer_BT = is_base_BM[:, self.k - 1 :]
        ids_BL = np.pad(np.where(is_kmer_BT, code_BT + FIRST_KMER, PAD), ((0, 0), (1, 1)))
        ids_BL[:, 0] = CLS
        ids_BL[np.arange(len(ids_BL)), is_kmer_BT.sum(axis=1) + 1] = SEP
        return ids_BL

    def _mask(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns corrupted ids and labels: 80 % [MASK], 10 % random, 10 % kept."""
        is_kmer = ids >= FIRST_KMER
        centers = (torch.rand(ids.shape) < self.budget / self.k) & is_kmer
        masked = torch.zeros_like(is_kmer)
        for offset in range(-((self.k - 1) // 2), self.k // 2 + 1):
            masked |= torch.roll(centers, offset, dims=1)
        masked &= is_kmer
        fate = torch.rand(ids.shape)
        random_ids = torch.randint(FIRST_KMER, FIRST_KMER + 4**self.k, ids.shape)
        corrupted = torch.where(masked & (fate < 0.9), random_ids, ids)
        corrupted[masked & (fate < 0.8)] = MASK
        return {"input_ids": corrupted, "labels": torch.where(masked, ids, NO_LABEL)}


def make_model(settings: dict, device: torch.device) -> torch.nn.Module:
    """Returns the network on the device, compiled on a GPU."""
    sizes = settings["model"]
    config = BertConfig(
        vocab_size=FIRST_KMER + 4 ** settings["k"],
        hidden_size=sizes["hidden_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        intermediate_size=sizes["feedforward_size"],
        max_position_embeddings=sizes["num_positions"],
        hidden_dropout_prob=sizes["dropout"],
        attention_probs_dropout_prob=sizes["attention_dropout"],
    )
    model = BertForMaskedLM._from_config(config, attn_implementation="sdpa").to(device).train()
    return torch.compile(model) if device.type == "cuda" else model


def batches(settings: dict) -> Iterator[dict[str, torch.Tensor]]:
    """Yields batches without end, in random order."""
    windows = np.load(settings["windows"], mmap_mode="r")
    loader = DataLoader(
        windows,
        batch_size=settings["batch_size"],
        sampler=RandomSampler(windows, replacement=True, num_samples=2**40),
        collate_fn=Collator(settings["k"], settings["budget"], settings["pad_to"]),
        num_workers=settings["num_workers"],
    )
    yield from loader


def main() -> None:
    """Answers the lines of stdin."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = make_model(settings, device)
    is_rounded = device.type == "cuda" or settings["model"]["matmul"] == "bfloat16"
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.01, fused=True)
    stream = batches(settings)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(json.dumps({"device": name, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        bases = tokens = 0
        for _ in range(int(line)):
            batch = next(stream)
            bases += int(batch.pop("bases"))
            tokens += batch["input_ids"].numel()
            batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=is_rounded):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        print(json.dumps({"seconds": took, "bases": bases, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
