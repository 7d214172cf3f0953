"""The section of the report on lift.json: what the samples are worth to a segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import report_html as h
from .report_data import Contents
from .report_html import dig
from .report_plots import Axis, Mark, axis_row, interval_row

_KINDS = {
    "real": "Real images alone",
    "plain": "Real, without augmentation",
    "repeat": "Real, repeated",
    "copy_paste": "Real + copy-paste",
}
_SCORES = (
    ("f1", "Pixel F1"),
    ("image_recall", "Defective images found"),
    ("false_positive_rate", "False alarms on defect-free images"),
)


def lift_section(contents: Contents) -> str:
    """Every arm's score and its difference to real images alone; then the other scores, and IoU by type."""
    lift = contents.results.get("lift")
    if lift is None:
        return ""
    arms = lift.get("arms") or {}
    chosen = [name == dig(lift, "verdict", "arm") for name in arms]
    counts = lift.get("counts") or {}
    train, val, seeds = (counts.get(key, "–") for key in ("train", "val", "seeds"))
    explained = (
        f"The same segmenter trained on {train} real images, alone and with other images beside them, tested on {val} "
        f"held-out real images; mean over {seeds} training seeds. mIoU over the defect types, background apart, in per "
        "cent. Intervals are at 95%; a difference whose interval holds 0 is not shown to be one. The verdict is on the "
        "arm set off in grey, which was named beforehand."
    )
    parts = [h.note(explained)]
    if arms:
        parts += [_difference_table(arms, chosen), "<h3>Other scores, %</h3>", _score_table(arms, chosen)]
        types = list(dict.fromkeys(name for arm in arms.values() for name in arm.get("per_type") or {}))
        if types:
            rows = [
                [_title(name, arm), *(h.figure(dig(arm, "per_type", type_, "iou"), 1, none="–") for type_ in types)]
                for name, arm in arms.items()
            ]
            parts += ["<h3>IoU by type, %</h3>", h.table(["", *map(h.escape, types)], rows, strong=chosen)]
    return h.section("lift", *parts)


def _difference_table(arms: Mapping[str, Any], chosen: list[bool]) -> str:
    """mIoU of each arm, and its difference to real images alone as a plot and as a figure."""
    differences = {name: dig(arm, "difference_to_real", "miou") for name, arm in arms.items()}
    known = {name: value for name, value in differences.items() if dig(value, "value") is not None}
    ends = [end for value in known.values() for end in (value["value"], *(value["interval"] or ()))]
    axis = Axis.of(ends, include=[0.0]) if ends else None
    rows = []
    for name, arm in arms.items():
        plot = ""
        if axis:
            marks = [Mark(known[name]["value"], known[name]["interval"])] if name in known else []
            plot = interval_row(marks, axis, zero=0.0)
        difference = h.figure(differences[name], 1, none="–", sign=True)
        miou = h.figure(arm.get("miou"), 1, none="–")
        rows.append([_title(name, arm), plot, difference, miou, f"{arm.get('extra', 0):,}"])
    if axis:
        rows.append(["", axis_row(axis, lambda tick: f"{tick:g}".replace("-", "−")), "", "", ""])
    head = ["Trained on", "Difference to real images alone, points of mIoU", "", "mIoU, %", "Images added"]
    return h.table(head, rows, strong=chosen, plot=1)


def _score_table(arms: Mapping[str, Any], chosen: list[bool]) -> str:
    rows = []
    for name, arm in arms.items():
        to_paste = dig(arm, "difference_to_copy_paste", "miou")
        figures = [h.figure(arm.get(key), 1, none="–") for key, _ in _SCORES]
        rows.append([_title(name, arm), *figures, h.figure(to_paste, 1, none="–", sign=True)])
    head = ["", *(title for _, title in _SCORES), "mIoU, difference to copy-paste"]
    return h.table(head, rows, strong=chosen)


def _title(name: str, arm: Mapping[str, Any]) -> str:
    """What an arm trains on, in words."""
    kind, ratio = arm.get("kind"), arm.get("ratio")
    words = f"Real + {arm.get('samples')}" if kind == "synthetic" else _KINDS.get(kind, name)
    if ratio is not None:
        words += f", ×\u00a0{ratio:g}"
    return h.escape(words)
