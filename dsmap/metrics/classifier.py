"""A classifier of two domains, on features of their images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.errors import DsmapError, InputError

Array = npt.NDArray[np.float64]

FOLDS = 5
RELIABLE = 0.8
"""The held-out accuracy from which on the classifier is reliable."""

_PENALTY = 5e-5  # chosen by cross-validation on landscapes (summer, winter); 5 times more or less changes little
_MIN_SPREAD = 1e-6
_STEPS = 500


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Logistic regression on pooled features: the probability that an image is of the target domain."""

    accuracy: float
    """On held-out images: the mean of both domains' shares of right answers. Guessing gives 0.5."""
    held_out: int
    """Number of held-out images."""
    weight_d: Array
    bias: float

    def probability(self, x_nd: npt.ArrayLike) -> Array:
        """(N,) probabilities of the target domain for features (N, D)."""
        return _sigmoid(np.asarray(x_nd, dtype=np.float64) @ self.weight_d + self.bias)

    @property
    def reliable(self) -> bool:
        """Whether it separates the domains well enough."""
        return self.accuracy >= RELIABLE

    @property
    def reliability(self) -> str:
        """A sentence on its reliability, for people."""
        verdict = "" if self.reliable else ": too few to be reliable"
        return f"The classifier is right on {self.accuracy:.1%} of {self.held_out} held-out images{verdict}."


def fit_classifier(
    source_nd: npt.ArrayLike,
    target_md: npt.ArrayLike,
    *,
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    seed: int = 0,
) -> Classifier:
    """Fits a classifier on features of training images: (N, D) of the source and (M, D) of the target domain.

    Features are standardised, both domains weigh the same however many images they have, and weights have an L2
    penalty. The accuracy is measured on the features `test` of other images (source, target), else by five-fold
    cross-validation. The same numbers give the same classifier. Raises InputError for fewer than five images.
    """
    domains = tuple(np.asarray(features, dtype=np.float64) for features in (source_nd, target_md))
    for name, features in zip(("source", "target"), domains, strict=True):
        if len(features) < FOLDS:
            raise InputError(
                f"a classifier needs {FOLDS} images of the {name} domain or more, got {len(features)}",
                "Pass folders with more images; a few hundred make it reliable.",
            )
    weight_d, bias = _fit(*domains)
    if test is None:
        right = _cross_validated(domains, seed)
    else:
        right = _right_answers(tuple(np.asarray(x, dtype=np.float64) for x in test), weight_d, bias)
    return Classifier(
        accuracy=float(np.mean([domain.mean() for domain in right])),
        held_out=sum(map(len, right)),
        weight_d=weight_d,
        bias=bias,
    )


def _cross_validated(domains: tuple[Array, ...], seed: int) -> list[npt.NDArray[np.bool_]]:
    """For either domain, whether each image is classified correctly by a classifier that was not fitted on it."""
    rng = np.random.default_rng(seed)
    folds = [rng.permutation(len(features)) % FOLDS for features in domains]
    right: list[list[npt.NDArray[np.bool_]]] = [[], []]
    for fold in range(FOLDS):
        seen = [features[place != fold] for features, place in zip(domains, folds, strict=True)]
        unseen = tuple(features[place == fold] for features, place in zip(domains, folds, strict=True))
        for side, answers in enumerate(_right_answers(unseen, *_fit(*seen))):
            right[side].append(answers)
    return [np.concatenate(answers) for answers in right]


def _right_answers(domains: tuple[Array, ...], weight_d: Array, bias: float) -> list[npt.NDArray[np.bool_]]:
    source, target = (features @ weight_d + bias > 0 for features in domains)
    return [~source, target]


def _fit(source: Array, target: Array) -> tuple[Array, float]:
    """Weights (D,) and bias for features as they are; fitted on standardised ones."""
    both = np.concatenate([source, target])
    mean, spread = both.mean(0), both.std(0)
    scale = np.where(spread > _MIN_SPREAD, 1 / np.maximum(spread, _MIN_SPREAD), 0)
    scale = scale / max(1, len(scale)) ** 0.5  # makes the penalty independent of the number of features
    x_nd = torch.from_numpy((both - mean) * scale)
    is_target_n = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).double()
    share_n = torch.where(is_target_n > 0, 0.5 / len(target), 0.5 / len(source))
    solved = _minimise(x_nd, is_target_n, share_n)
    weight_d = solved[:-1].numpy() * scale
    return weight_d, float(solved[-1].item() - weight_d @ mean)


def _minimise(x_nd: Tensor, is_target_n: Tensor, share_n: Tensor) -> Tensor:
    """Weights and, last, the bias (D + 1,) with the least penalised cross-entropy."""
    solved = torch.zeros(x_nd.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [solved], max_iter=_STEPS, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x_nd @ solved[:-1] + solved[-1]
        loss = F.binary_cross_entropy_with_logits(logits, is_target_n, weight=share_n, reduction="sum")
        loss = loss + _PENALTY / 2 * solved[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    if not torch.isfinite(solved).all():
        raise DsmapError("the classifier of the domains could not be fitted", "Check that the features are finite.")
    return solved.detach()


def _sigmoid(logits: Array) -> Array:
    return np.exp(-np.logaddexp(0, -logits))
