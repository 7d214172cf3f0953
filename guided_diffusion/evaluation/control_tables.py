"""control.json as Markdown, for a person."""

from __future__ import annotations

from typing import Any

from .control_boundary import patch_side
from .control_masks import MOST_OF_A_MASK
from .quality import FEW_GROUPS
from .tables import number, percent, table

_NONE = "-"


def markdown(result: dict[str, Any]) -> str:
    """The tables of a control.json."""
    counts, settings = result["counts"], result["settings"]
    parts = [
        "# Samples against what was asked\n",
        f"{counts['samples']} samples of {settings['samples']}; {counts['real_images']} held-out images "
        f"({counts['real_groups']} groups) of {settings['real']}. Features: {result['provenance']['extractor']}, "
        f"weights {result['provenance']['weights_sha256'][:12]}. In brackets: 95% intervals. A verdict is of the whole "
        "interval, or 'not shown' and that of the value alone. Intervals are too narrow where real images of a type "
        f"are of fewer than {FEW_GROUPS} groups.\n",
    ]
    if result["types"]:
        parts += ["## Types asked for\n", _counts(result["types"]["counts"]), _recall(result), _kid(result)]
    if result["masks"]:
        parts += ["## Masks given\n", _agreement(result), _variety(result)]
    if result["photographs"]:
        parts += ["## Photographs given\n", _outside(result["photographs"]), _borders(result)]
    return "\n".join(parts)


def _reasons(of: dict[str, dict[str, Any]]) -> str:
    return "".join(f"- {name}: not known, {own['reason']}\n" for name, own in of.items() if "reason" in own)


def _counts(counts: dict[str, Any]) -> str:
    rows = [
        [name, f"{own['asked']}", f"{own['present']}", _percent(own["obeyed"])]
        for name, own in counts["per_type"].items()
    ]
    apart = ", ".join(
        f"{100 * share:.0f}% of those {side}" for side, share in counts["imbalance"].items() if share is not None
    )
    head = ["type", "samples asked for it", "masks that hold it", "of those asked for it, in %"]
    return f"{table(head, rows)}\nLargest distance of a count from the mean one: {apart}.\n"


def _recall(result: dict[str, Any]) -> str:
    of, settings = result["types"]["recall"], result["settings"]
    rows = [
        [
            name,
            *(_percent(own["recall"][side]) for side in ("samples", "real")),
            number(own["recall"]["difference"], 100, 1, "+"),
            own["recall"]["verdict"],
            *(_percent(own["false_positives"][side]) for side in ("samples", "real")),
            own["false_positives"]["verdict"] or _NONE,
        ]
        for name, own in of.items()
        if "reason" not in own
    ]
    bound = -100 * settings["bounds"]["recall"]
    within = f"within {bound:.0f} points"
    head = ["found in %", "asked for", "real", "points", within, "false: samples", "real", within]
    text = (
        f"What a classifier finds that says yes to {100 * settings['false_positives']:.0f}% of the held-out images "
        f"without the type. It cannot tell a type of which it finds under {100 * settings['least_recall']:.0f}% "
        "there.\n"
    )
    return f"{text}\n{table(head, rows)}{_reasons(of)}"


def _kid(result: dict[str, Any]) -> str:
    of = result["types"]["kid"]
    rows = [
        [
            name,
            " / ".join(f"{own['counts'].get(side, 0)}" for side in ("samples", "reference", "real")),
            *(number(own[side], 1000, 1, none=_NONE) for side in ("samples", "reference")),
            number(own["difference"], 1000, 1, "+", none=_NONE),
        ]
        for name, own in of.items()
        if "reason" not in own
    ]
    head = ["KID x 1000", "samples / reference / real", "asked for", "reference that shows it", "difference"]
    return f"{table(head, rows)}{_reasons(of)}"


def _agreement(result: dict[str, Any]) -> str:
    agreement = result["masks"]["agreement"]
    if agreement is None:
        return "Agreement with a segmenter was not measured (--no_agreement).\n"
    named = {"mean of an image": agreement["mean"]}
    named |= {f"{name}, all pixels": own for name, own in agreement["per_type"].items()}
    rows = [
        [
            title,
            *(number(own[side], none=_NONE) for side in ("samples", "real")),
            number(own["difference"], 1, 2, "+", none=_NONE),
            own["verdict"] or _NONE,
        ]
        for title, own in named.items()
    ]
    bound = -100 * result["settings"]["bounds"]["agreement"]
    return table(["IoU with a segmenter", "samples", "real", "difference", f"within {bound:.0f} points"], rows)


def _variety(result: dict[str, Any]) -> str:
    of = result["masks"]["variety"]
    rows = [
        [
            name,
            f"{own['counts']['samples']} of {own['counts']['masks']}",
            *(number(own[side], 1, 3) for side in ("samples", "real")),
            number(own["ratio"]),
            own["verdict"],
        ]
        for name, own in of.items()
        if "reason" not in own
    ]
    bound = result["settings"]["bounds"]["variety"]
    head = ["mean distance", "samples of masks", "one mask", "real images of the type", "ratio", f"at least {bound}"]
    text = f"At most {MOST_OF_A_MASK} samples of a mask.\n"
    return f"{text}\n{table(head, rows)}{_reasons(of)}"


def _outside(photographs: dict[str, Any]) -> str:
    outside = photographs["outside"]
    if "reason" in outside:
        return f"Outside of the margin: not known, {outside['reason']}.\n"
    text = (
        f"Further than {photographs['margin']} px from a defect the largest difference from the photograph is "
        f"{outside['largest']} of 255, in {outside['pixels']:,} pixels of {outside['samples']} samples"
    )
    return f"{text}; different: {outside['differ']}, {', '.join(outside['names']) or 'none'}.\n"


def _borders(result: dict[str, Any]) -> str:
    borders = result["photographs"]["borders"]
    if "reason" in borders:
        return f"Borders: not known, {borders['reason']}.\n"
    rows, reasons = [], {}
    for name, own in borders.items():
        reasons |= {f"{name}, {where}": part for where, part in own.items()}
        auc = [number(part.get("auc"), none=_NONE) for part in own.values()]
        rows.append([name, _patches(own["border"]), *auc, own["border"].get("verdict", _NONE)])
    bound = result["settings"]["bounds"]["auc"]
    head = ["AUC", "real / inserted patches (groups)", "borders", "away from defects", f"at most {bound}"]
    side = patch_side(result["photographs"]["margin"])
    text = (
        f"Patches of {side} px around the borders of defects. Away from defects inserted images are photographs, and "
        "what is told there are the photographs, not the defects.\n"
    )
    return f"{text}\n{table(head, rows)}{_reasons(reasons)}"


def _patches(part: dict[str, Any]) -> str:
    return " / ".join(f"{own['patches']} ({own['groups']})" for own in part["counts"].values())


def _percent(figure: dict[str, Any] | None) -> str:
    return _NONE if figure is None else percent(figure)
