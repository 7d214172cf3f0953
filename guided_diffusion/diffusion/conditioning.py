"""Generating what is asked for: types that the networks are told, and parts of the clean image that are given.

The networks model image and masks together, so either can be held while the other is drawn, by a wrapper of predict_x0:
masks that are given get an image, and a photograph gets a defect where a mask wants one. Any network can do so; one
trained with train.known_share does it better, and one with model.class_cond can be told types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, unknown_name
from ..generation.network import Network
from ..joint_tensor import MASK, RGB, JointLayout, untold
from .samplers import PredictX0

DEFAULT_MARGIN = 4  # pixels around a defect that are drawn anew
BALANCED, NO_DEFECT = "balanced", "none"  # of --defects, beside the types' names


@dataclass(frozen=True)
class Known:
    """Parts of x_start that are given.

    values: float32 [N, C, H, W], in the joint tensor's ranges. where: bool [N, C, H, W], True where they hold.
    """

    values: Tensor
    where: Tensor

    def start(self, noise: Tensor, alpha_bar: float) -> Tensor:
        """x_t at the first timestep: noise, but what is known diffused to that level."""
        diffused = sqrt(alpha_bar) * self.values + sqrt(1 - alpha_bar) * noise
        return torch.where(self.where, diffused, noise)

    def wrap(self, predict_x0: PredictX0, clean: bool = False) -> PredictX0:
        """A predict_x0 that says what is known; samplers derive eps after it, so x_t keeps to it at every level.

        clean: the network was trained to be given what is known without noise (train.known_share).
        """

        def predict(x_t: Tensor, t: int) -> Tensor:
            return self.paste(predict_x0(self.paste(x_t) if clean else x_t, t))

        return predict

    def paste(self, x_start: Tensor) -> Tensor:
        """x_start with what is known put in, to the bit."""
        return torch.where(self.where, self.values, x_start)


@dataclass(frozen=True)
class Held:
    """What samples are held to, checked: sample i to entry i modulo their number. See DefectGen.generate.

    One of: masks; masks and backgrounds; backgrounds whole, for which masks are drawn; nothing. Without masks also
    types, as sets of indices.
    """

    masks: np.ndarray | None = None
    backgrounds: np.ndarray | None = None
    margin: int = DEFAULT_MARGIN
    types: tuple[frozenset[int], ...] | None = None

    def known(self, indices: Sequence[int], layout: JointLayout, device: torch.device) -> Known | None:
        """The parts of x_start that are given of so numbered samples."""
        masks, backgrounds = (
            None if held is None else held[np.asarray(indices) % len(held)] for held in (self.masks, self.backgrounds)
        )
        if masks is None:
            return None if backgrounds is None else known_photographs(layout, backgrounds, device)
        return known_masks(layout, masks, backgrounds, self.margin, device)

    def shrunk(self, factor: int) -> Held:
        """The same on an image of 1 / factor of the size: of the masks the pixel in the middle of each
        factor x factor, so that labels do not blend; of photographs their mean."""
        if factor == 1:
            return self
        masks, backgrounds = self.masks, self.backgrounds
        if masks is not None:
            masks = masks[:, factor // 2 :: factor, factor // 2 :: factor]
        if backgrounds is not None:
            count, height, width, _ = backgrounds.shape
            blocks = backgrounds.reshape(count, height // factor, factor, width // factor, factor, 3)
            backgrounds = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
        return replace(self, masks=masks, backgrounds=backgrounds, margin=-(-self.margin // factor))

    def window(self, top: int, left: int, size: Sequence[int]) -> Held:
        """The same in a window of `size` = (height, width) of the image, for what networks are told of it."""
        here = slice(None), slice(top, top + size[0]), slice(left, left + size[1])
        return self if self.masks is None else Held(self.masks[here])

    def told(self, indices: Sequence[int], layout: JointLayout, device: torch.device) -> Tensor:
        """What a network with class_cond is told of them, float32 [N, 1 + num_defect] as JointLayout.types_in."""
        if self.masks is not None:
            masks = np.ascontiguousarray(self.masks[np.asarray(indices) % len(self.masks)])
            return layout.types_in(torch.from_numpy(masks)).to(device)
        told = torch.zeros(len(indices), 1 + layout.num_defect, device=device)
        if self.types is None:
            return untold(told)
        for row, index in enumerate(indices):
            told[row, list(self.types[index % len(self.types)])] = 1
        return told


def parse_defects(defects: str | Sequence[str], class_names: Sequence[str]) -> tuple[frozenset[int], ...]:
    """Which types samples are to show, each entry the next sample: "crack", "crack,hole" (both), "none", or "balanced",
    which stands for one type after the other. Returns sets of type indices. Raises InputError."""
    entries: list[frozenset[int]] = []
    for entry in [defects] if isinstance(defects, str) else defects:
        names = [name.strip() for name in entry.split(",")]
        if names == [BALANCED]:
            entries += [frozenset({k}) for k in range(1, len(class_names) + 1)]
        elif names == [NO_DEFECT]:
            entries.append(frozenset())
        else:
            for name in names:
                if name not in class_names:
                    raise InputError(unknown_name("type in --defects", name, [*class_names, BALANCED, NO_DEFECT]))
            entries.append(frozenset(class_names.index(name) + 1 for name in names))
    if not entries:
        raise InputError("--defects: names no type; give some, or leave it out")
    return tuple(entries)


def far_from_defects(defect: Tensor, margin: int) -> Tensor:
    """bool [N, 1, H, W]: further than `margin` pixels, along either axis, from where [N, H, W] is above 0."""
    grown = F.max_pool2d((defect > 0).float()[:, None], 2 * margin + 1, stride=1, padding=margin)
    return grown == 0


def check_held(
    masks: np.ndarray | None,
    backgrounds: np.ndarray | None,
    margin: int,
    defects: str | Sequence[str] | None,
    image_size: Sequence[int],
    class_names: Sequence[str],
) -> Held | None:
    """What generate() was given, checked; None where nothing is held. Raises InputError."""
    if masks is None:
        if backgrounds is not None:
            raise InputError("backgrounds: need masks that say where the defects go; give masks too")
        return None if defects is None else Held(types=parse_defects(defects, class_names))
    if defects is not None:
        raise InputError("--defects: the masks tell the types already; give one of the two")
    if masks.dtype != np.uint8 or masks.ndim != 3 or masks.shape[1:] != tuple(image_size) or not len(masks):
        raise InputError(
            f"masks: {masks.dtype} {list(masks.shape)}, expected uint8 [M, {image_size[0]}, {image_size[1]}]"
        )
    if masks.max() > len(class_names):
        raise InputError(f"masks: hold type {masks.max()}, but the networks know {len(class_names)}; correct them")
    if backgrounds is not None and (backgrounds.dtype != np.uint8 or backgrounds.shape != (*masks.shape, 3)):
        raise InputError(
            f"backgrounds: {backgrounds.dtype} {list(backgrounds.shape)}, expected uint8 {[*masks.shape, 3]}"
        )
    if margin < 0:
        raise InputError(f"--margin {margin}: must be 0 or more")
    return Held(masks, backgrounds, margin)


def check_told(
    networks: Sequence[Network], defects: str | Sequence[str] | None, guidance_scale: float, class_names: Sequence[str]
) -> dict[str, Any]:
    """The settings that only networks with class_cond take, those that are used; networks: those that take part.

    Raises InputError.
    """
    settings: dict[str, Any] = {}
    if defects is not None:
        parse_defects(defects, class_names)
        if not networks[0].config.model.class_cond:
            raise InputError(
                f"--defects: {networks[0].path} was trained without model.class_cond, so it cannot be told types; "
                "train with it, or give --masks"
            )
        settings["defects"] = [defects] if isinstance(defects, str) else list(defects)
    if guidance_scale != 1:
        if not any(network.config.model.class_cond for network in networks):
            raise InputError(
                f"--guidance_scale {guidance_scale:g}: the networks were trained without model.class_cond, so they "
                "cannot be told types; leave it out"
            )
        if not isfinite(guidance_scale):
            raise InputError(f"--guidance_scale {guidance_scale}: must be a number")
        settings["guidance_scale"] = guidance_scale
    return settings


def check_guided(settings: Mapping[str, Any], held: bool) -> None:
    """Raise InputError where settings (DefectGen.check_settings) ask for guidance, but nothing tells the types."""
    if "guidance_scale" in settings and not held:
        raise InputError(
            f"--guidance_scale {settings['guidance_scale']:g}: without --defects or --masks there is nothing to "
            "guide to; give one of them, or leave it out"
        )


def known_photographs(layout: JointLayout, photographs: np.ndarray, device: torch.device) -> Known:
    """Hold photographs uint8 [N, H, W, 3]; their masks are free."""
    images = torch.from_numpy(np.ascontiguousarray(photographs)).to(device).permute(0, 3, 1, 2)
    values = layout.encode(images, torch.zeros_like(images[:, 0]))
    where = torch.zeros_like(values, dtype=torch.bool)
    where[:, RGB] = True
    return Known(values, where)


def known_masks(
    layout: JointLayout, masks: np.ndarray, backgrounds: np.ndarray | None, margin: int, device: torch.device
) -> Known:
    """Hold index masks, and photographs outside of what the masks mark.

    masks: uint8 [N, H, W]. backgrounds: uint8 [N, H, W, 3], or None: all of the image is drawn. margin: pixels around a
    defect that are drawn anew too, so that it grows into the photograph.
    """
    index = torch.from_numpy(np.ascontiguousarray(masks)).to(device)
    rgb = np.zeros((*masks.shape, 3), np.uint8) if backgrounds is None else backgrounds
    images = torch.from_numpy(np.ascontiguousarray(rgb)).to(device).permute(0, 3, 1, 2)  # [N, 3, H, W]
    values = layout.encode(images, index)
    where = torch.zeros_like(values, dtype=torch.bool)
    where[:, MASK] = True
    if backgrounds is not None:
        where[:, RGB] = far_from_defects(index, margin)
    return Known(values, where)
