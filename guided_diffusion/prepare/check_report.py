"""The check of a data set in figures: a summary for JSON, and the same as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .check import ERROR, Finding
from .data_check_facts import Record, View

UNEVEN = 2  # a type with so many times the images of another


def summarize(
    records: Sequence[Record], names: Mapping[int, str], view: View, findings: Sequence[Finding], about: dict[str, Any]
) -> dict[str, Any]:
    """Everything the report says, as JSON holds it: sizes [height, width], shares of the image, areas in pixels.

    about: what is known without pixels, put first.
    """
    readable = [record for record in records if not record.facts.problem]
    samples = [record for record in readable if not record.good]
    return {
        **about,
        "images": len(samples),
        "good": sum(record.good for record in readable),
        "unreadable": len(records) - len(readable),
        "parts": dict(Counter(record.part for record in samples if record.part)),
        "label_map": {name: index for index, name in names.items()},
        "training": {"resolution": list(view.resolution), "fit": view.fit, "crop_from": list(view.crop_from)},
        "modes": dict(Counter(record.mode for record in samples).most_common()),
        "sizes": _sizes([record.facts.size for record in samples], view) if samples else None,
        "types": {name: _type(samples, index) for index, name in names.items()},
        "findings": [{**vars(finding), "files": list(finding.files)} for finding in findings],
        "suggestions": _suggestions(samples, names, view) if samples else {},
        "status": exit_status(findings),
    }


def exit_status(findings: Sequence[Finding]) -> int:
    """1 where training would go wrong, else 0."""
    return int(any(finding.severity == ERROR for finding in findings))


def spread(values: Sequence[float], weights: Sequence[int] | None = None) -> dict[str, float]:
    """Least, 5%, median, 95% and largest of some numbers, each counted as often as its weight says."""
    ordered = np.repeat(np.asarray(values, float), 1 if weights is None else weights)
    points = np.percentile(ordered, (0, 5, 50, 95, 100))
    return dict(zip(("min", "p5", "median", "p95", "max"), points.tolist(), strict=True))


def _sizes(sizes: Sequence[tuple[int, int]], view: View) -> dict[str, Any]:
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    trained = [view.size_of(size) for size in sizes]
    stretch = [
        (width / height) / (to[1] / to[0]) for (height, width), to in zip(sizes, trained, strict=True)
    ]  # above 1: squeezed in width
    return {
        "smallest": list(ordered[0]),
        "median": [int(np.median([size[axis] for size in sizes])) for axis in (0, 1)],
        "largest": list(ordered[-1]),
        "different": len(set(sizes)),
        "aspects": spread([width / height for height, width in sizes]),
        "distortion": spread([max(ratio, 1 / ratio) for ratio in stretch]),
    }


def _type(samples: Sequence[Record], index: int) -> dict[str, Any]:
    """Figures of one type; those of areas are over the images that show it."""
    own = [(record, record.types[index]) for record in samples if index in record.types]
    if not own:
        return {"index": index, "images": 0, "regions": 0}
    regions: Counter[int] = Counter()
    kept: Counter[int] = Counter()
    for _, found in own:
        regions.update(found.regions)
        kept.update(found.kept)
    return {
        "index": index,
        "images": len(own),
        "regions": regions.total(),
        "pixels": spread([found.pixels for _, found in own]),
        "share": spread([found.pixels / record.area for record, found in own]),
        "region_pixels": spread(list(regions), list(regions.values())),
        "trained": {
            "pixels": spread([found.trained for _, found in own]),
            "region_pixels": spread(list(kept), list(kept.values())),
            "vanished_images": sum(found.trained == 0 for _, found in own),
            "vanished_regions": kept[0],
        },
    }


def _suggestions(samples: Sequence[Record], names: Mapping[int, str], view: View) -> dict[str, Any]:
    num = len(names)
    found: dict[str, Any] = {"num_defect": num, "in_channels": {"with_background": 4 + num, "without": 3 + num}}
    if view.candidates and view.fit == "resize":
        lost = [
            sum(types.candidates[place] == 0 for record in samples for types in record.types.values())
            for place in range(len(view.candidates))
        ]
        best = lost.index(min(lost))
        found["resolution"] = {"size": list(view.candidates[best]), "vanished": lost[best]}
    folders = Counter(record.folder for record in samples if record.folder)
    images = folders or Counter(names[index] for record in samples for index in record.types)
    if len(images) > 1 and max(images.values()) > UNEVEN * min(images.values()):
        found["num_image_train"] = {"images": min(images.values()), "most": max(images.values())}
    return found


def as_text(summary: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The report: what is there, by type, what to set, and last what is wrong."""
    lines = [finding.line for finding in findings]
    if any(len(finding.files) > 1 for finding in findings):
        lines.append("(--json FILE lists all files)")
    parts = [_head(summary), _table(_type_rows(summary)), _advice(summary), "\n".join(lines)]
    return "\n\n".join(part for part in parts if part)


def _head(summary: Mapping[str, Any]) -> str:
    rows = [("data set", f"{summary['root']} ({summary['format']})")]
    unreadable = f", {summary['unreadable']:,} unreadable" if summary["unreadable"] else ""
    rows.append(("images", f"{summary['images']:,} with a mask, {summary['good']:,} defect-free{unreadable}"))
    if summary.get("first"):
        rows.append(("", f"the first {summary['first']} of each type, as data.num_image_train says"))
    if summary["parts"]:
        rows.append(("parts", _counts(summary["parts"])))
    rows.append(("label map", ", ".join(f"{name} {index}" for name, index in summary["label_map"].items())))
    sizes = summary["sizes"]
    if sizes:
        shown = ", ".join(f"{key} {_size(sizes[key])}" for key in ("smallest", "median", "largest"))
        rows.append(("height x width", shown if sizes["different"] > 1 else f"all {_size(sizes['median'])}"))
        rows.append(("width / height", _range(sizes["aspects"])))
        rows.append(("file modes", _counts(summary["modes"])))
    training = summary["training"]
    rows.append(("training sees", _training(training)))
    if sizes and sizes["distortion"]["max"] > 1.005:
        rows.append(("", f"distorted by a factor of {_range(sizes['distortion'])}"))
    return "\n".join(f"{key:15} {text}" for key, text in rows)


def _training(training: Mapping[str, Any]) -> str:
    size = _size(training["resolution"])
    if training["fit"] == "resize":
        return f"{size}, images stretched to it (fit: resize)"
    origin = f"images stretched to {_size(training['crop_from'])}" if training["crop_from"] else "images of their size"
    return f"windows of {size} from {origin} (fit: random_crop)"


def _type_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Header lines, then a line per type."""
    rows = [
        ["", "", "", "area, % of image", "", "", "area, pixels", "", "", "seen in training", "", "", "vanish", ""],
        ["type", "images", "regions", *("5%", "median", "95%") * 2]
        + ["median", "smallest region", "median region", "images", "regions"],
    ]
    for name, found in summary["types"].items():
        row = [name, f"{found['images']:,}", f"{found['regions']:,}"]
        if found["images"]:
            row += [f"{100 * found['share'][key]:.3g}" for key in ("p5", "median", "p95")]
            row += [f"{found['pixels'][key]:,.0f}" for key in ("p5", "median", "p95")]
            trained = found["trained"]
            row += [f"{trained['pixels']['median']:,.0f}"]
            row += [f"{trained['region_pixels'][key]:,.0f}" for key in ("min", "median")]
            row += [f"{trained['vanished_images']:,}", f"{trained['vanished_regions']:,}"]
        rows.append(row + [""] * (len(rows[1]) - len(row)))
    return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned, the first to the left; cells of the first row stand over the columns that follow them."""
    groups, *body = rows
    widths = [max(len(row[column]) for row in body) for column in range(len(body[0]))]
    starts = [sum(widths[:column]) + 2 * column for column in range(len(widths))]
    top = ""
    for start, text in zip(starts, groups, strict=True):
        top = top.ljust(start) + text if text else top
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(columns))
        for columns in (list(zip(row, widths, strict=True)) for row in body)
    ]
    return "\n".join(line.rstrip() for line in [top, *lines])


def _advice(summary: Mapping[str, Any]) -> str:
    found = summary["suggestions"]
    if not found:
        return ""
    channels = found["in_channels"]
    lines = [
        f"num_defect: {found['num_defect']}",
        f"in_channels: {channels['with_background']} (3 + background + types; {channels['without']} with background: "
        "false), or leave it out",
    ]
    if "resolution" in found:
        size, lost = found["resolution"]["size"], found["resolution"]["vanished"]
        why = "no type vanishes from any image" if not lost else f"the fewest vanish, {lost} types of single images"
        lines.append(f"resolution: [{size[0]}, {size[1]}] (the median image's proportions; the least at which {why})")
    if "num_image_train" in found:
        images = found["num_image_train"]
        lines.append(
            f"num_image_train: {images['images']} (types have {images['images']} to {images['most']} images; this "
            "takes as many of each)"
        )
    return "to set in the YAML\n" + "\n".join(f"  {line}" for line in lines)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _range(values: Mapping[str, float]) -> str:
    low, middle, high = (f"{values[key]:.2f}" for key in ("min", "median", "max"))
    return f"{low} to {high}, median {middle}" if low != high else f"all {low}"
