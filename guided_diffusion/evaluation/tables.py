"""How figures and tables are written, for terminals and Markdown files; and the tables of quality.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def number(ci: dict[str, Any] | None, factor: float = 1, digits: int = 2, sign: str = "", none: str = "too few") -> str:
    """{"value", "interval"} as text: 1.2 [0.9, 1.6]; `none` where it or its value is None. sign: "+" or ""."""
    if ci is None or ci["value"] is None:
        return none
    text = f"{factor * ci['value']:{sign}.{digits}f}"
    if ci["interval"] is None:
        return text
    low, high = (f"{factor * bound:{sign}.{digits}f}" for bound in ci["interval"])
    return f"{text} [{low}, {high}]"


def percent(ci: dict[str, Any] | None, none: str = "too few") -> str:
    """A share {"value", "interval"} in percent."""
    return number(ci, 100, 1, none=none)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its columns aligned for a terminal: the first to the left, the others to the right."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(head, *rows, strict=True)]
    line = "| " + " | ".join(f"{{!s:{'>' if k else '<'}{width}}}" for k, width in enumerate(widths)) + " |\n"
    rule = "|".join("-" * (width + 1) + (":" if k else "-") for k, width in enumerate(widths))
    return "".join([line.format(*head), f"|{rule}|\n", *(line.format(*row) for row in rows)])


# key, title, factor, decimals
MEASURES = (
    ("kid", "KID x 1000", 1000, 1),
    ("fid", "FID", 1, 1),
    ("precision", "precision", 1, 2),
    ("recall", "recall", 1, 2),
    ("density", "density", 1, 2),
    ("coverage", "coverage", 1, 2),
    ("diversity", "diversity", 1, 3),
)


def markdown(result: dict[str, Any]) -> str:
    """The tables of a quality.json: measures in rows; sets, or types, in columns."""
    counts, settings, provenance = (result[part] for part in ("counts", "settings", "provenance"))
    sides = {"samples": result, "training images": result["reference"]["train"], "real": result["reference"]["real"]}
    labels, agreed = result["labels"], result["agreement"]
    of_masks = [(title, labels[key]) for key, title in (("empty", "empty"), ("speck", "specks only"))]
    parts = [
        "# Quality of the samples\n",
        f"{counts['samples']} samples of {settings['samples']} against {counts['real_images']} real images "
        f"({counts['real_groups']} groups) of {settings['real']}. Features: {provenance['extractor']}, "
        f"weights {provenance['weights_sha256'][:12]}. In brackets: 95% intervals.\n",
        "".join(f"- {note}\n" for note in result["notes"]),
        "## Overall\n",
        _measures({title: side["overall"] for title, side in sides.items() if side}, MEASURES),
        "Real: distances from one half of the real images to the other; diversity of all of them.\n",
        "## Per type\n",
        _measures(result["per_type"], MEASURES[:1]),
        "## Labels\n",
        table(["masks, in %", *labels["empty"]], [[title, *map(percent, of.values())] for title, of in of_masks]),
        f"Trained types in no sample: {', '.join(labels['missing']) or 'none'}.\n",
        _labels(labels["per_type"], list(labels["empty"])),
        "## Memorisation\n",
        _memorization(result["memorization"]),
    ]
    if agreed:
        columns = {"samples": agreed} | ({"real": agreed["reference"]} if agreed["reference"] else {})
        rows = [["images", *(of["images"] for of in columns.values())]]
        rows += [["mean of an image", *(number(of["mean"]) for of in columns.values())]]
        for name in agreed["per_type"]:
            rows.append([f"{name}, all pixels", *(number(of["per_type"][name], none="-") for of in columns.values())])
        parts += ["## Agreement with a segmenter\n", table(["IoU", *columns], rows)]
    return "\n".join(parts)


def _measures(blocks: dict[str, dict[str, Any]], measures: Sequence[tuple[str, str, float, int]]) -> str:
    """Measures of blocks by their titles."""
    counts = ["{samples} / {real} in {real_groups} groups".format(**block["counts"]) for block in blocks.values()]
    rows = [["compared / with", *counts]]
    for key, *title, factor, digits in measures:
        rows.append([*title, *(number(block.get(key), factor, digits) for block in blocks.values())])
    return table(["measure", *blocks], rows)


def _labels(types: dict[str, dict[str, Any]], sides: Sequence[str]) -> str:
    """Shares of images, regions and areas by type."""
    rows, parts = [], (("share", "in % of", 100), ("regions", "regions,", 1), ("area", "median area in %,", 100))
    for part, title, factor in parts:
        for side in sides:
            rows.append([f"{title} {side}", *(number(own[part][side], factor, none="-") for own in types.values())])
    return table(["type", *types], rows)


def _memorization(memorization: dict[str, Any]) -> str:
    """Shares of near-copies and duplicates, and what the thresholds find among real images and planted copies."""
    limits, rows = memorization["thresholds"], []
    for key, title, by in (("copies", "a training image", "copy"), ("duplicates", "another sample", "duplicate")):
        alarms, value = limits[by]["false_alarms"], limits[by]["value"]
        rows.append([f"near-copies of {title}", percent(memorization[key]), percent(alarms), f"{value:.3f}"])
    found = ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in limits["copy"]["planted_found"].items())
    return (
        f"{table(['in %', 'samples', 'false alarms among real images', 'distance under'], rows)}\n"
        f"Thresholds: {limits['copy']['calibrated_on']}, {limits['copy']['images']} in {limits['copy']['groups']} "
        f"groups. Planted copies of training images found: {found}.\n"
    )
