"""quality.json as Markdown, for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .seen import MOST_CROPS

# key, title, factor, decimals
MEASURES = (
    ("kid", "KID x 1000", 1000, 1),
    ("fid", "FID", 1, 1),
    ("precision", "precision", 1, 2),
    ("recall", "recall", 1, 2),
    ("density", "density", 1, 2),
    ("coverage", "coverage", 1, 2),
    ("diversity", "diversity", 1, 3),
    ("cluster_diversity", "diversity within clusters", 1, 3),
)

_HALVES = "Real: distances from one half of the real images to the other; diversity of all of them.\n"


def markdown(result: dict[str, Any]) -> str:
    """The tables of a quality.json."""
    counts, settings = result["counts"], result["settings"]
    parts = [
        "# Quality of the samples\n",
        f"{counts['samples']} samples of {settings['samples']} against {counts['real_images']} real images "
        f"({counts['real_groups']} groups) of {settings['real']}. Features: {result['provenance']['extractor']}, "
        f"weights {result['provenance']['weights_sha256'][:12]}. In brackets: 95% intervals.\n",
        "".join(f"- {note}\n" for note in result["notes"]),
        "## Overall\n",
        _columns(result, lambda part: part["overall"]),
        _HALVES,
        "## Per type\n",
        _rows(result["per_type"]),
        "## Inside the masks\n",
        f"Crops around the regions, at most {MOST_CROPS} of a type in an image; counts are of crops.\n",
        _columns(result, lambda part: part["inside_masks"]["overall"]),
        _rows(result["inside_masks"]["per_type"]),
        "## Labels\n",
        _labels(result["labels"]),
        "## Memorisation\n",
        _memorization(result["memorization"]),
    ]
    if result["agreement"]:
        parts += ["## Agreement with a segmenter\n", _agreement(result["agreement"])]
    return "\n".join(parts)


def number(ci: dict[str, Any] | None, factor: float = 1, digits: int = 2, sign: str = "", none: str = "too few") -> str:
    """{"value", "interval"} as text: 1.2 [0.9, 1.6]."""
    if ci is None:
        return none
    text = f"{factor * ci['value']:{sign}.{digits}f}"
    if ci["interval"] is None:
        return text
    low, high = (f"{factor * bound:{sign}.{digits}f}" for bound in ci["interval"])
    return f"{text} [{low}, {high}]"


def percent(ci: dict[str, Any] | None) -> str:
    return number(ci, 100, 1)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(block: dict[str, Any], key: str, factor: float, digits: int) -> str:
    if "too_few" in block:
        return "too few"
    # No cluster has two images, or there are no training images to have clusters around.
    return number(block[key], factor, digits, none="-" if key == "cluster_diversity" else "too few")


def _counts(block: dict[str, Any]) -> str:
    counts = block["counts"]
    return f"{counts['samples']} / {counts['real']} in {counts['real_groups']} groups"


def _columns(result: dict[str, Any], choose: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    """All measures of one block, samples beside the references."""
    columns = {"samples": result, "training images": result["reference"]["train"], "real": result["reference"]["real"]}
    blocks = {title: choose(part) for title, part in columns.items() if part}
    rows = [["compared / with", *map(_counts, blocks.values())]]
    rows += [
        [title, *(_cell(block, key, factor, digits) for block in blocks.values())]
        for key, title, factor, digits in MEASURES
    ]
    return table(["measure", *blocks], rows)


def _rows(per_type: dict[str, dict[str, Any]]) -> str:
    """All measures of the samples, type by type."""
    rows = [
        [name, _counts(block), *(_cell(block, key, factor, digits) for key, _, factor, digits in MEASURES)]
        for name, block in per_type.items()
    ]
    return table(["type", "samples / real", *(title for _, title, _, _ in MEASURES)], rows)


def _labels(labels: dict[str, Any]) -> str:
    shares = [
        [f"masks that {what}", *(percent(labels[key][side]) for side in ("samples", "real"))]
        for key, what in (("empty", "are empty"), ("speck", "hold specks only"))
    ]
    rows = []
    for name, of in labels["per_type"].items():
        row = [name, *(percent(of["share"][side]) for side in ("samples", "real"))]
        for key, factor, digits in (("regions", 1, 1), ("area", 100, 2)):
            if of[key] is None:
                row += ["too few"] * 3
                continue
            row += [number(of[key][side], factor, digits) for side in ("samples", "real")]
            row.append(number(of[key]["shift"], 1, 2, "+") if key == "area" else number(of[key]["wasserstein"]))
        rows.append(row)
    missing = ", ".join(labels["missing"]) or "none"
    return "\n".join(
        [
            table(["in %", "samples", "real"], shares),
            f"Trained types in no sample: {missing}.\n",
            table(
                ["type", "in % of samples", "of real", "regions: samples", "real", "distance"]
                + ["area of a region in %: samples", "real", "shift in doublings"],
                rows,
            ),
        ]
    )


def _memorization(memorization: dict[str, Any]) -> str:
    """Shares of near-copies and duplicates, and what the thresholds find among real images and planted copies."""
    thresholds = memorization["thresholds"]
    rows = [
        [title, percent(memorization[key]), percent(thresholds[by]["false_alarms"]), f"{thresholds[by]['value']:.3f}"]
        for key, title, by in (
            ("copies", "near-copies of a training image, by pixels", "copy"),
            ("copies_by_features", "the same by features", "feature_copy"),
            ("duplicates", "near-copies of another sample", "duplicate"),
        )
    ]
    found = thresholds["copy"]["planted_found"]
    patches = memorization["reused_patches"]
    return "\n".join(
        [
            table(["in %", "samples", "false alarms among real images", "distance under"], rows),
            f"Thresholds: {thresholds['copy']['calibrated_on']}, {thresholds['copy']['images']} in "
            f"{thresholds['copy']['groups']} groups. Planted copies of training images found by pixels: "
            + ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in found.items())
            + ".\n",
            f"Reused patches of {patches['side']} px: {percent(patches['share'])}% of the samples' patches are nearer "
            f"to a training image than the nearest {100 * patches['expected']:.0f}% of real patches. Putting known "
            "patches together anew is the method, no fault.\n",
        ]
    )


def _agreement(agreement: dict[str, Any]) -> str:
    """IoU with the samples' masks beside that with true masks of real images."""
    columns = {"samples": agreement, "real": agreement["reference"]}
    columns = {title: part for title, part in columns.items() if part}
    rows = [["images", *(f"{part['images']}" for part in columns.values())]]
    rows += [["mean IoU of an image", *(number(part["mean"]) for part in columns.values())]]
    rows += [
        [f"{name}, all pixels", *(number(part["per_type"][name], none="-") for part in columns.values())]
        for name in agreement["per_type"]
    ]
    return table(["IoU", *columns], rows)
