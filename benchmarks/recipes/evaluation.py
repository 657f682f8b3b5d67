"""Frozen features: accuracy of nearest neighbours and of a linear probe, clusters of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset

from negplug.diagnostics.clusters import intra_class_distance, silhouette


def extract_features(
    encoder: nn.Module, dataset: Dataset[Any], batch_size: int = 256, workers: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Runs an encoder in evaluation mode over a data set of (image, label) pairs.

    Returns:
        features: Frozen representations.
            Shape: (num_images, num_features)
        labels: Class labels.
            Shape: (num_images,)
    """
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    features, labels = [], []
    # Its own generator: evaluating must not shift the random numbers of the training.
    loader = DataLoader(
        dataset, batch_size=batch_size, num_workers=workers, generator=torch.Generator()
    )
    with torch.inference_mode():
        for images, targets in loader:
            features.append(encoder(images.to(device)).flatten(start_dim=1).float().cpu())
            labels.append(targets)
    encoder.train(was_training)
    return torch.cat(features).numpy(), torch.cat(labels).numpy()


def evaluate(
    encoder: nn.Module,
    train_set: Dataset[Any],
    test_set: Dataset[Any],
    *,
    neighbors: int = 20,
    workers: int = 0,
) -> dict[str, float]:
    """Measures frozen features of the test images, with those of the training images at hand.

    Args:
        encoder: Maps images to representations.
        train_set: (image, label) pairs to fit both classifiers on.
        test_set: (image, label) pairs to score both classifiers on.
        neighbors: Number of nearest neighbours, by cosine similarity.
        workers: Number of loader processes.

    Returns:
        ``knn_acc`` and ``linear_acc``, in [0, 1]; the linear probe is a multinomial logistic
        regression on standardised features. ``intra_class_distance`` and ``silhouette`` of the
        test features, scaled to unit length.
    """
    features, labels = extract_features(encoder, train_set, workers=workers)
    test_features, test_labels = extract_features(encoder, test_set, workers=workers)
    classifiers = {
        "knn_acc": KNeighborsClassifier(min(neighbors, len(labels)), metric="cosine"),
        # Regularised enough to converge within a few dozen iterations.
        "linear_acc": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)),
    }
    scores = {
        name: float(classifier.fit(features, labels).score(test_features, test_labels))
        for name, classifier in classifiers.items()
    }
    rows, names = torch.from_numpy(test_features), torch.from_numpy(test_labels)
    scores["intra_class_distance"] = intra_class_distance(rows, names)
    scores["silhouette"] = silhouette(rows, names)
    return scores


class OnlineEvaluation:
    """Logs :func:`evaluate` while a recipe trains: give it to the host's ``LambdaCallback``.

    Works with every generation of Lightning, since it uses ``log_dict`` only.

    Args:
        encoder: Maps images to representations.
        train_set: (image, label) pairs to fit both classifiers on.
        test_set: (image, label) pairs to score both classifiers on.
        every: Evaluate after every so many epochs, and always after the last one. 0 evaluates
            after the last one only.
        workers: Number of loader processes.

    Examples:
        >>> evaluation = OnlineEvaluation(model.backbone, train_set, test_set)
        >>> callback = LambdaCallback(on_train_epoch_end=evaluation)
    """

    def __init__(
        self,
        encoder: nn.Module,
        train_set: Dataset[Any],
        test_set: Dataset[Any],
        every: int = 0,
        workers: int = 0,
    ) -> None:
        self.encoder = encoder
        self.train_set = train_set
        self.test_set = test_set
        self.every = every
        self.workers = workers

    def __call__(self, trainer: Any, module: Any) -> None:
        """Evaluates where due; the signature is that of ``on_train_epoch_end``."""
        epoch = trainer.current_epoch + 1
        if epoch == trainer.max_epochs or (self.every and epoch % self.every == 0):
            scores = evaluate(self.encoder, self.train_set, self.test_set, workers=self.workers)
            # Normalisation statistics differ between processes, hence a mean over them.
            module.log_dict(scores, prog_bar=True, sync_dist=True)
