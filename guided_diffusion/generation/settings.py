"""What decides the samples, beside the networks, the seed and the masks and photographs that are given."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..diffusion.conditioning import DEFAULT_MARGIN
from ..diffusion.respace import SPACINGS, NumSteps
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import HANDOFFS
from ..errors import InputError, brief, unknown_name
from .windows import WINDOWS

DEFAULT_STEPS = 20  # over both networks: as good as 1,000, by KID (docs/performance.md)
MOST_GUIDANCE, MOST_MARGIN = 1000, 2**16  # beyond, nothing changes but for the worse
CHOICES = {"sampler": SAMPLERS, "spacing": SPACINGS, "handoff": HANDOFFS, "windows": WINDOWS}


@dataclass(frozen=True)
class Settings:
    """Settings of DefectGen.generate. DefectGen.settings checks them against the networks and fills in what is None.

    Raises InputError.
    """

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
            if getattr(self, name) not in known:
                raise InputError(unknown_name(f"`{name}`", getattr(self, name), known))
        if not abs(self.guidance_scale) <= MOST_GUIDANCE:
            raise InputError(
                f"`guidance_scale` {self.guidance_scale}: must be a number from -{MOST_GUIDANCE} to {MOST_GUIDANCE}"
            )
        if not 0 <= self.margin <= MOST_MARGIN:
            raise InputError(f"`margin` {brief(self.margin)}: must be from 0 to {MOST_MARGIN:,}")
        if isinstance(self.defects, str):
            object.__setattr__(self, "defects", (self.defects,))
        if self.handoff == "released":  # all steps leave nothing to space
            object.__setattr__(self, "spacing", "uniform")
        for name in ("num_steps", "image_size", "defects"):  # a list would not be frozen
            if isinstance(getattr(self, name), Sequence):
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def row(self) -> dict[str, Any]:
        """What a manifest says of them: those that are used. The margin stands with the photographs that it is for."""
        unused = {"margin": self.margin, "defects": None, "guidance_scale": 1}.items()
        return {key: value for key, value in asdict(self).items() if (key, value) not in unused}
