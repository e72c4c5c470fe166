"""What a network's outputs stand for: what they are trained on, and how they are read.

Axes: N rows, C classes, numbers or labels of a row, D draws.
"""

import dataclasses

import numpy as np
from scipy import special

from cmgems_jax.downstream.tasks import labels

_LEAST_PROBABILITY = np.finfo(np.float32).tiny  # so that one row's loss is finite


@dataclasses.dataclass(frozen=True)
class Targets:
    """The labels of a task as a network is trained on them; numbers are standardised."""

    kind: str  # of labels.KINDS
    mean_C: np.ndarray  # float32, of the train rows' numbers; 0 of other kinds
    scale_C: np.ndarray  # float32, their standard deviation; 1 of other kinds

    @classmethod
    def of(cls, kind: str, num_outputs: int, labels_N: np.ndarray) -> "Targets":
        """Returns the targets of a train split."""
        mean_C, scale_C = np.zeros(num_outputs, np.float32), np.ones(num_outputs, np.float32)
        if kind == labels.NUMBERS:
            mean_C, scale_C = labels_N.mean(axis=0), labels_N.std(axis=0)
            scale_C = np.where(scale_C > 0, scale_C, np.float32(1))
        return cls(kind, mean_C, scale_C)

    def standardised(self, labels_N: np.ndarray) -> np.ndarray:
        """Returns the labels as the loss takes them: int32 (N,) classes, or float32 (N, C)."""
        if self.kind == labels.CLASSES:
            return labels_N.astype(np.int32)
        return ((labels_N - self.mean_C) / self.scale_C).astype(np.float32)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Returns what outputs (..., C) mean: probabilities, or numbers in the labels' units."""
        if self.kind == labels.NUMBERS:
            return outputs * self.scale_C + self.mean_C
        if self.kind == labels.MULTILABEL:
            return special.expit(outputs)
        return special.softmax(outputs, axis=-1)

    def losses(self, predicted_DNC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        """Returns the mean loss of every draw's predictions, float64 (D,).

        Cross entropy in nats; of numbers the squared error of the standardised ones.
        """
        predicted_DNC = predicted_DNC.astype(np.float64)
        if self.kind == labels.NUMBERS:
            errors_DNC = (predicted_DNC - labels_N) / self.scale_C
            return (errors_DNC**2).mean(axis=(1, 2))
        if self.kind == labels.MULTILABEL:
            right = np.where(labels_N == 1, predicted_DNC, 1 - predicted_DNC)
        else:
            right = predicted_DNC[:, np.arange(len(labels_N)), labels_N]
        nats = -np.log(np.maximum(right, _LEAST_PROBABILITY))
        return nats.reshape(len(nats), -1).mean(axis=1)

    def in_units(self, params: dict) -> dict:
        """Returns a classifier's parameters with outputs in the labels' own units."""
        if self.kind != labels.NUMBERS:
            return params
        layer = params["classifier"]
        scaled = {
            "kernel": layer["kernel"] * self.scale_C,
            "bias": layer["bias"] * self.scale_C + self.mean_C,
        }
        return params | {"classifier": scaled}
