"""What decides the samples, beside the networks, the seed and the masks and photographs that are given."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from math import nan
from numbers import Real
from typing import Any

from ..diffusion.conditioning import DEFAULT_MARGIN
from ..diffusion.respace import SPACINGS, NumSteps, parse_num_steps
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import HANDOFFS
from ..errors import InputError, brief, is_whole, unknown_name, whole
from .windows import WINDOWS

MOST_SEED, MOST_SAMPLES = 10**18, 10**6
DEFAULT_STEPS = 20  # over both networks: as good as 100, by KID (docs/performance.md)
MOST_GUIDANCE, MOST_MARGIN = 1000, 2**16  # beyond, nothing changes but for the worse
CHOICES = {"sampler": SAMPLERS, "spacing": SPACINGS, "handoff": HANDOFFS, "windows": WINDOWS}


def as_indices(given: Any, name: str) -> Sequence[int]:
    """0..given-1 of a whole number; else `given` as whole numbers. Raises InputError."""
    if is_whole(given):
        return range(whole(name, given, MOST_SAMPLES))
    try:
        return [whole(name, index, MOST_SEED) for index in given]
    except TypeError:
        raise InputError(f"`{name}` {brief(given)}: must be a whole number, or a list of such") from None


def as_settings(given: Any, **options: Any) -> "Settings":
    """Settings, by default Settings(), with some options changed. Raises InputError."""
    if not isinstance(given, Settings | None):
        raise InputError(f"`settings` {brief(given)}: must be Settings(...)")
    known = [field.name for field in fields(Settings)]
    if unknown := [name for name in options if name not in known]:
        raise InputError(unknown_name("option", unknown[0], known))
    return replace(given or Settings(), **options)


def _as_types(given: Any) -> tuple[str | tuple[str, ...], ...]:
    """Names of types, or lists of these. Raises InputError."""
    with suppress(TypeError):
        entries = tuple(
            one if isinstance(one, str) else tuple(one) for one in ([given] if isinstance(given, str) else given)
        )
        if all(isinstance(name, str) for one in entries for name in one):
            return entries
    raise InputError(f"`defects` {brief(given)}: must be names of types, or lists of these")


@dataclass(frozen=True)
class Settings:
    """Settings of DefectGen.generate, which DefectGen.settings checks against the networks and completes. Raises
    InputError."""

    step_inference: int = 400  # the large network denoises from this timestep up, the small one below it
    sampler: str = "dpmpp_2m"
    num_steps: NumSteps | None = None  # in all, or (large, small); None: 20, or every step with handoff "released"
    spacing: str = "logsnr"
    handoff: str = "paper"  # "released": the restart of the released script
    image_size: Sequence[int] | None = None  # (height, width); None: that of the training
    windows: str = "auto"  # "on": networks see windows of the size of their training; "auto": on above four of these
    defects: str | Sequence[str] | None = None  # types that samples show, with class_cond: see parse_defects
    guidance_scale: float = 1.0  # how strongly such networks follow the types, see make_predict_x0
    margin: int = DEFAULT_MARGIN  # pixels around a defect that are drawn anew, where photographs are given

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in tuple(known):
                raise InputError(unknown_name(f"`{name}`", str(getattr(self, name)), known))
        steps, size = self.num_steps, self.image_size
        if isinstance(steps, str):
            steps = parse_num_steps(steps)
        if steps is not None:
            steps = whole("num_steps", steps, 10**6) if is_whole(steps) else self._pair("num_steps", steps)
        plain = {"num_steps": steps, "image_size": None if size is None else self._pair("image_size", size)}
        plain["step_inference"] = whole("step_inference", self.step_inference, 10**6)
        plain["margin"] = whole("margin", self.margin, MOST_MARGIN)
        plain["guidance_scale"] = scale = float(self.guidance_scale) if isinstance(self.guidance_scale, Real) else nan
        if not abs(scale) <= MOST_GUIDANCE:
            given = brief(self.guidance_scale)
            raise InputError(f"`guidance_scale` {given}: must be a number from -{MOST_GUIDANCE} to {MOST_GUIDANCE}")
        if self.defects is not None:
            plain["defects"] = _as_types(self.defects)
        if self.handoff == "released":  # all steps leave nothing to space
            plain["spacing"] = "uniform"
        for name, value in plain.items():  # which do not change, and go into a manifest
            object.__setattr__(self, name, value)

    @staticmethod
    def _pair(name: str, value: Any) -> tuple[int, int]:
        try:
            first, second = value
        except (TypeError, ValueError):
            raise InputError(f"`{name}` {brief(value)}: must be two whole numbers") from None
        return whole(name, first, 10**6), whole(name, second, 10**6)

    def row(self) -> dict[str, Any]:
        """What a manifest says of them: those that are used. The margin stands with the photographs that it is for."""
        unused = {"margin": self.margin, "defects": None, "guidance_scale": 1}.items()
        return {key: value for key, value in asdict(self).items() if (key, value) not in unused}
