"""The sections of the report above its gallery, each made of one result; a result that lacks a part leaves that out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import report_html as h
from .report_data import Contents
from .report_html import dig
from .report_plots import Axis, Mark, Point, axis_row, interval_row, trade_off

Result = Mapping[str, Any]

# key, title, factor and digits to show it with
FIDELITY = (
    ("kid", "KID × 1000 (lower is better)", 1000, 1),
    ("fid", "FID (lower is better)", 1, 1),
    ("precision", "Precision", 1, 2),
    ("recall", "Recall", 1, 2),
    ("density", "Density", 1, 2),
    ("coverage", "Coverage", 1, 2),
    ("diversity", "Diversity: mean pairwise perceptual distance", 1, 3),
    ("cluster_diversity", "Diversity within clusters (of samples nearest to one training image)", 1, 3),
)
# key, title and whose threshold
COPIES = (
    ("copies", "Near-copies of training images", "copy"),
    ("copies_by_features", "The same by features alone", "feature_copy"),
    ("duplicates", "Near-duplicates of other samples", "duplicate"),
)
PAIRS_SHOWN = 12


def fidelity_section(contents: Contents) -> str:
    """Fidelity and diversity: whole images, inside the masks, by type."""
    quality = contents.results.get("quality")
    if quality is None:
        return ""
    return h.section(
        "fidelity",
        h.note(
            "Samples against held-out real images. The columns beside them are what to hold them against: the training "
            "images in their place, and one half of the real images in the place of samples. Intervals are at 95%."
        ),
        _fidelity_table(quality),
        "<h3>By type, whole images</h3>",
        _type_table(quality, "per_type"),
        "<h3>By type, inside the masks</h3>",
        _type_table(quality, "inside_masks", "per_type"),
        h.notes(quality.get("notes") or []),
    )


def _fidelity_table(quality: Result) -> str:
    """Measures in rows; samples and what to hold them against in columns, of whole images and inside the masks."""
    sources = {"Samples": (), "Training images": ("reference", "train"), "Real images": ("reference", "real")}
    places = {"Whole images": ("overall",), "Inside the masks (crops around defects)": ("inside_masks", "overall")}
    groups = {
        title: {source: values for source, first in sources.items() if (values := dig(quality, *first, *place))}
        for title, place in places.items()
    }
    columns = [values for group in groups.values() for values in group.values()]
    if not columns:
        return h.note("Not measured.")
    rows = [
        [h.escape(title), *(h.figure(values.get(key), digits, scale, "–") for values in columns)]
        for key, title, scale, digits in FIDELITY
        if any(values.get(key) for values in columns)
    ]
    rows.append(["Images / real ones they are held against", *map(_counts, columns)])
    spans = [(title, len(group)) for title, group in groups.items() if group]
    return h.table(["", *(source for group in groups.values() for source in group)], rows, spans=spans)


def _counts(values: Result) -> str:
    counts = values.get("counts") or {}
    return f"{counts.get('samples', '–')} / {counts.get('real', '–')}"


def _type_table(quality: Result, *place: str) -> str:
    types = dig(quality, *place) or {}
    if not types:
        return h.note("Not measured.")
    measures = [measure for measure in FIDELITY if any(values.get(measure[0]) for values in types.values())]
    rows = []
    for name, values in types.items():
        figures = [h.figure(values.get(key), digits, scale, "–") for key, _, scale, digits in measures]
        rows.append([h.escape(name), _counts(values), *figures])
        if values.get("too_few"):
            rows[-1][1] += f'<span class="interval">too few: {h.escape(values["too_few"])}</span>'
    heads = [title.partition(" (")[0].partition(":")[0] for _, title, _, _ in measures]
    return h.table(["Type", "Samples / real", *map(h.escape, heads)], rows)


def labels_section(contents: Contents) -> str:
    """What the masks hold, against those of real images, and whether a segmenter agrees with them."""
    quality = contents.results.get("quality")
    if quality is None:
        return ""
    labels = quality.get("labels") or {}
    types = labels.get("per_type") or {}
    agreement = quality.get("agreement") or {}
    on_real = agreement.get("reference") or {}
    rows = []
    for name, values in types.items():
        row = [h.escape(name)]
        for key, show in (("share", h.percent), ("regions", h.figure), ("area", lambda v: h.percent(v, 2))):
            row += [show(dig(values, key, "samples")), show(dig(values, key, "real"))]
        rows.append([*row, *(h.figure(dig(of, "per_type", name), none="–") for of in (agreement, on_real))])
    head = ["Type", "In % of samples", "of real", "Regions per sample", "per real image"]
    head += ["Median region, % of image: samples", "real", "Agreement (IoU): samples", "real"]
    parts = [h.table(head, rows)] if rows else [h.note("Not measured.")]
    plot = _area_plot(types)
    if plot:
        parts += ["<h3>Area of a region, by type</h3>", plot]
    if dig(agreement, "mean", "value") is not None:
        sentence = f"A segmenter trained on real images alone agrees with generated masks to {_iou(agreement)}"
        if dig(on_real, "mean", "value") is not None:
            sentence += f", with those of real images that it has not seen to {_iou(on_real)}"
        parts.append(f"<p>{sentence}. Low figures on both say that it is too weak to judge by.</p>")
    return h.section("labels", *parts)


def _iou(agreement: Result) -> str:
    mean = agreement["mean"]
    return f"a mean IoU of <strong>{h.number(mean['value'])}</strong> ({h.interval_text(mean['interval'])})"


def _area_plot(types: Result) -> str:
    """Median area of a region with its interval, samples above real images, on a logarithmic axis."""
    areas = {
        name: [(area[of], kind) for of, kind in (("samples", ""), ("real", "reference")) if dig(area, of, "value")]
        for name, values in types.items()
        if (area := values.get("area"))
    }
    shown = [value for marks in areas.values() for value, _ in marks]
    ends = [end for value in shown for end in (value["value"], *(value["interval"] or ())) if end > 0]
    if not ends:
        return ""
    axis = Axis.of(ends, log=True)
    rows = [
        [h.escape(name), interval_row([Mark(value["value"], value["interval"], kind) for value, kind in marks], axis)]
        for name, marks in areas.items()
    ]
    rows.append(["", axis_row(axis, lambda share: f"{100 * share:g}%")])
    return legend([("", "samples"), ("reference", "real images")]) + h.table(
        ["Type", "Median area of a region, as share of the image"], rows, plot=1
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """The meaning of the marks in a plot: [(kind of Mark, text)]."""
    axis = Axis(0, 1, ())
    items = "".join(
        f"<span>{interval_row([Mark(0.5, (0, 1), kind)], axis)} {h.escape(text)}</span>" for kind, text in entries
    )
    return f'<p class="legend">{items}</p>'


def copies_section(contents: Contents) -> str:
    """Shares of near-copies, what the thresholds are worth, reused patches, and the closest pairs."""
    memorization = dig(contents.results.get("quality"), "memorization") or {}
    rows = [
        [
            title,
            h.percent(memorization[key]),
            h.number(dig(memorization, "thresholds", by, "value"), 3),
            h.percent(dig(memorization, "thresholds", by, "false_alarms"), none="–"),
        ]
        for key, title, by in COPIES
        if memorization.get(key)
    ]
    head = ["", "% of samples", "Distance below", "False alarms, % of real images"]
    parts = [h.table(head, rows)] if rows else []
    found = dig(memorization, "thresholds", "copy", "planted_found") or {}
    if found:
        shares = ", ".join(f"{kind} {h.number(share, 0, 100)}%" for kind, share in found.items())
        parts.append(h.note(f"Of copies of training images that were planted, these were found by pixels: {shares}."))
    patches = memorization.get("reused_patches") or {}
    if dig(patches, "share", "value") is not None:
        share = patches["share"]
        parts.append(
            h.note(
                f"Reused patches, which are the method and no fault: {h.number(share['value'], 1, 100)}% "
                f"({h.interval_text(share['interval'], 1, 100)}) of patches of {patches.get('side')} px are as close "
                f"to a training image as the closest {h.number(patches.get('expected'), 0, 100)}% of real ones."
            )
        )
    pictures = {picture.name for picture in contents.train}
    near = [row for row in contents.rows if dig(row, "nearest_train", "name") in pictures]
    near = sorted(near, key=lambda row: row["nearest_train"]["distance"])[:PAIRS_SHOWN]
    if near:
        parts += [
            "<h3>Closest pairs</h3>",
            h.note("The samples closest to a training image, closest first; on the right what they are closest to."),
            f'<div class="pairs">{"".join(map(_pair, near))}</div>',
        ]
    return h.section("copies", *parts) if parts else ""


def _pair(row: Mapping[str, Any]) -> str:
    near = row["nearest_train"]
    copy = " · <strong>near-copy</strong>" if near.get("copy") else ""
    name = h.escape(row["name"])
    return (
        f'<button type="button" data-sample="{name}"><span class="two"></span>'
        f'<span class="text">{name} | {h.escape(near["name"])}<br>distance {h.number(near["distance"], 3)}{copy}</span>'
        "</button>"
    )


def sweep_section(contents: Contents) -> str:
    """The recommended setting, the trade-off and the table."""
    sweep = contents.results.get("sweep")
    if sweep is None:
        return ""
    measures = {measure["key"]: measure for measure in sweep.get("measures") or []}
    points, recommended = sweep.get("points") or [], dig(sweep, "recommendation", "name")
    parts = [f"<p><strong>{h.escape(dig(sweep, 'recommendation', 'sentence') or 'No recommendation.')}</strong></p>"]
    pair = [measures[key] for key in ("kid", "diversity") if key in measures]
    if len(pair) == 2 and len(points) > 1:
        parts.append(_trade_off(points, pair, recommended))
    rows = [
        [
            h.escape(point["label"]),
            *(h.figure(point["values"].get(key), m["digits"], m["scale"], "–") for key, m in measures.items()),
        ]
        for point in points
    ]
    better = {"lower": "\u00a0↓", "higher": "\u00a0↑"}
    head = [sweep.get("axis", ""), *(m["title"] + better.get(m.get("better"), "") for m in measures.values())]
    parts.append(h.table([h.escape(text) for text in head], rows, strong=[p["name"] == recommended for p in points]))
    parts.append(h.note("↓ lower is better, ↑ higher is better; the recommended one is set off in grey."))
    rule = dig(sweep, "recommendation", "rule")
    parts.append(h.notes([*([f"Rule: {rule}"] if rule else []), *sweep.get("notes", [])]))
    return h.section("sweep", *parts)


def _trade_off(points: Sequence[Result], pair: Sequence[Result], recommended: str | None) -> str:
    shown = []
    for point in points:
        x, y = (point["values"].get(measure["key"]) or {} for measure in pair)
        if x.get("value") is None or y.get("value") is None:
            continue
        ends = [
            [bound * measure["scale"] for bound in value["interval"]] if value.get("interval") else None
            for value, measure in ((x, pair[0]), (y, pair[1]))
        ]
        values = [value["value"] * measure["scale"] for value, measure in ((x, pair[0]), (y, pair[1]))]
        chosen = point["name"] == recommended
        label = point["label"] + (" (recommended)" if chosen else "")
        shown.append(Point(*values, *ends, label, chosen))
    if not shown:
        return ""
    x_title, y_title = f"{pair[0]['title']} → (lower is better)", f"↑ {pair[1]['title']}"
    return trade_off(shown, x_title, y_title, tuple(lambda v, m=m: f"{v:g}" for m in pair))
