"""Perceptual distance between images, and how different from each other generated images are by it.

The distance is that of Zhang et al. 2018 ("The unreasonable effectiveness of deep features as a perceptual metric",
equation 1) without learned weights: at each depth of the extractor, the channels at each place are scaled to unit
length; squared differences are summed over channels, averaged over places, and summed over depths. It is not LPIPS,
whose weights were fitted to human judgements for three other networks; figures compare only under one extractor.

Diversity is its mean over pairs of images. Within clusters (Ojha et al. 2021, "Few-shot image generation via
cross-domain correspondence"): each sample goes to its nearest training image; the mean over pairs inside a cluster,
averaged over clusters. A generator that repeats its training images with small changes has the first but not the
second.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F

from ..keyed_random import Key, numpy_generator
from .bootstrap import NUM_RESAMPLES, Resampling, mean_of_pairs, resampled_mean_of_pairs, with_interval
from .features import Extractor

MEMORY = 2**30  # bytes for what the extractor sees in a set of images; more images than that takes are not all compared


def embed(
    extractor: Extractor,
    images: np.ndarray,
    *,
    batch_size: int = 16,
    progress: Callable[[range], Iterable[int]] = lambda starts: starts,
) -> np.ndarray:
    """uint8 images [N, H, W, 3] as float32 [N, K], whose squared Euclidean distances are the perceptual ones.

    Only those of images of one size compare. K is large: 6e4 at up to 96 px with efficientnet_lite0.
    """
    embedded = None
    for start in progress(range(0, len(images), batch_size)):
        layers = extractor.layers(images[start : start + batch_size])
        # Unit length at each of h * w places; over the root of h * w, the squares become the mean over places.
        parts = [(F.normalize(x, dim=1) / (x.shape[2] * x.shape[3]) ** 0.5).flatten(1).cpu().numpy() for x in layers]
        if embedded is None:
            embedded = np.empty((len(images), sum(part.shape[1] for part in parts)), np.float32)
        np.concatenate(parts, axis=1, out=embedded[start : start + batch_size])
    return embedded


def within_memory(extractor: Extractor, images: np.ndarray, *key: Key) -> np.ndarray:
    """Indices, ascending, of the images [N, H, W, 3] that `embed` can take within MEMORY: all, or some drawn by key."""
    limit = max(8, MEMORY // embed(extractor, images[:1]).nbytes)
    if len(images) <= limit:
        return np.arange(len(images))
    return np.sort(numpy_generator("within memory", *key).choice(len(images), limit, replace=False))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Perceptual distances float64 [N, M] of embedded images [N, K] and [M, K]."""
    squares = [np.einsum("nk,nk->n", z, z, dtype=np.float64) for z in (a, b)]
    return np.maximum(squares[0][:, None] + squares[1] - 2 * (a @ b.T).astype(np.float64), 0)


def diversity(
    embedded: np.ndarray, groups: Sequence[Hashable] | None = None, key: Sequence[Key] = ()
) -> dict[str, Any] | None:
    """The mean distance of pairs of embedded images [N, K], as {"value", "interval"}; None with fewer than 2 images.

    groups: what is resampled together (None: each image by itself); with fewer than 2 the interval is None.
    """
    if len(embedded) < 2:
        return None
    groups = range(len(embedded)) if groups is None else groups
    pairs = distances(embedded, embedded)
    resampled = None
    if len(set(groups)) >= 2:
        of = Resampling.draw(groups, NUM_RESAMPLES, numpy_generator("diversity", *key))
        resampled = resampled_mean_of_pairs(pairs, of)
    return with_interval(mean_of_pairs(pairs), resampled)


def cluster_diversity(
    embedded: np.ndarray,
    train: np.ndarray,
    sources: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    key: Sequence[Key] = (),
) -> dict[str, Any] | None:
    """The mean distance of pairs inside the clusters around training images, averaged over clusters.

    embedded: samples [N, K]; train: [T, K], `sources` naming the image that each of them shows (several windows may
    show one). {"value", "interval", "clusters": with 2 samples or more, which are those that count, "of": training
    images, "largest": share of the samples in the largest cluster}; None where no cluster has 2 samples. The bootstrap
    draws samples, or `groups` of them; clusters stay, and those that a resample leaves without pairs do not count.
    """
    names = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    cluster = np.array([names[sources[i]] for i in distances(embedded, train).argmin(axis=1)])
    sizes = np.bincount(cluster)
    if sizes.max() < 2:
        return None
    groups = range(len(embedded)) if groups is None else groups
    of = None
    if len(set(groups)) >= 2:
        of = Resampling.draw(groups, NUM_RESAMPLES, numpy_generator("cluster diversity", *key))
    values, resampled = [], []
    for number in np.flatnonzero(sizes > 1):
        members = np.flatnonzero(cluster == number)
        pairs = distances(embedded[members], embedded[members])
        values.append(mean_of_pairs(pairs))
        if of is not None:
            units, unit = np.unique(of.unit[members], return_inverse=True)
            with np.errstate(invalid="ignore"):  # 0 / 0: no pairs
                resampled.append(resampled_mean_of_pairs(pairs, Resampling(unit, of.counts[:, units])))
    means = None
    if of is not None:
        there = ~np.isnan(resampled)
        totals, counts = np.where(there, resampled, 0).sum(axis=0), there.sum(axis=0)
        means = totals[counts > 0] / counts[counts > 0]
    return {
        **with_interval(np.mean(values), means),
        "clusters": len(values),
        "of": len(names),
        "largest": float(sizes.max() / len(embedded)),
    }
