"""One self-contained HTML page of all measurements of a sample folder, with a gallery.

The page needs no network and opens from disk. It shows what evaluate.py quality, lift and compare and curate.py have
written to the folders named, or to <samples>/quality, lift, compare and curated; nothing is computed here. Marks made
in the gallery (keep, drop) are exported as the file that curate.py --list reads.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any

import blobfile as bf
import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from ..data.image_files import present_types
from ..errors import InputError, reason
from ..file_io import ensure_writable, read_bytes, read_json, write_atomic
from ..generation.sample_io import common_class_names
from ..pictures import palette
from .image_sets import read_samples
from .quality import judge
from .tables import number

COMMANDS = {"lift": "lift.png", "quality": "closest_pairs.png", "compare": "compare.png"}  # and their pictures
UNKNOWN = ("clipped", "nearest_train", "nearest_sample", "agreement", "kept", "reason")  # what a mask does not tell
# What results raise that are not as the commands write them.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, jinja2.TemplateError)
# Of all images: PNG up to the first, reduced above the second, so that 5,000 samples always stay under 40 MB.
EXACT_PIXELS, MAX_PIXELS = 2 << 20, 10 << 20
MANY = 0.1  # share of samples to be dropped, from which on curating comes first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--samples", required=True, help="folder of generated samples")
    for name in COMMANDS:
        add(f"--{name}", help=f"--out folder of evaluate.py {name} (<samples>/{name}, if there)")
    add("--curated", help="folder that curate.py wrote (<samples>/curated, if there)")
    add("--out", help="file to write (<samples>/report.html)")


def main(args: argparse.Namespace) -> None:
    """Raises InputError where there are no samples, or a file is broken or tells of other samples."""
    samples, out = args.samples, args.out or bf.join(args.samples, "report.html")
    if bf.isdir(out) or not out.lower().endswith((".html", ".htm")):
        raise InputError(f"--out {out}: is no name of a page; name a file such as {bf.join(samples, 'report.html')}")
    results, sections, plots, notes, rows = {}, {}, {}, [], {}
    for name, picture in COMMANDS.items():
        folder = getattr(args, name) or bf.join(samples, name)
        if not getattr(args, name) and not bf.exists(bf.join(folder, f"{name}.json")):
            continue
        try:
            results[name] = read_json(bf.join(folder, f"{name}.json"))
            if not isinstance(results[name], dict) or results[name].get("command", name) != name:
                raise ValueError(f"{name}.json is of another command")
            sections[name] = to_html(read_bytes(bf.join(folder, f"{name}.md")).decode())
        except (OSError, ValueError) as error:
            wanted = f"{name}.json and {name}.md of evaluate.py {name}"
            text = f"holds no {wanted} ({reason(error)}); name its --out folder"
            raise InputError(f"--{name} {folder}: {text}") from error
        if bf.exists(path := bf.join(folder, picture)):
            plots[name] = _uri("png", read_bytes(path))
    class_names = common_class_names({"--samples": samples})
    found = read_samples(samples, class_names)
    for name, mask in zip(found.names, found.masks, strict=True):
        types = {type_: {"pixels": n, "share": n / mask.size} for type_, n in present_types(mask, class_names).items()}
        rows[name] = {"name": name, "types": types, "empty": not types, **dict.fromkeys(UNKNOWN)}
    if len(rows) < len(found):
        raise InputError(f"--samples {samples}: two samples have the same name; rename one")
    if "quality" in results:
        _add_scores(rows, bf.join(args.quality or bf.join(samples, "quality"), "samples.jsonl"))
    else:
        command = f"python scripts/evaluate.py quality --real HELD_OUT --train TRAIN --samples {shlex.quote(samples)}"
        notes.append(f"Fidelity, copies and agreement were not measured: {command}")
    curated = args.curated or bf.join(samples, "curated")
    if args.curated or bf.exists(bf.join(curated, "kept.jsonl")):
        _add_states(rows, curated)
    if missing := [name for name in class_names if not any(name in row["types"] for row in rows.values())]:
        notes.append(f"No sample holds {', '.join(missing)}.")
    kind, scale = choose_encoding(found.images)
    pairs = zip(found.images, found.masks, strict=True)
    pictures = [(data_uri(image, kind, scale), data_uri(mask, "png", scale)) for image, mask in pairs]
    how = "shown exactly" if kind == "png" else "saved as JPEG" + f", reduced to {scale:.0%}" * (scale < 1)
    size = f"Images of {found.images.shape[2]} × {found.images.shape[1]} px are {how}."
    about = {"folder": samples, "sections": sections, "plots": plots, "notes": notes, "pictures_note": size}
    try:
        about |= dict(zip(("next_step", "said"), conclude(results, list(rows.values())), strict=True))
        page = render(rows=list(rows.values()), pictures=pictures, class_names=class_names, **about, **results).encode()
    except MALFORMED as error:
        flags = " ".join(f"--{name}" for name in results)
        raise InputError(f"{flags}: results are not as evaluate.py writes them ({error!r}); run it again") from error
    ensure_writable(bf.dirname(out) or ".", "--out")
    write_atomic(out, page)
    print(f"{out}: {len(rows):,} samples, {len(page) / 1e6:.1f} MB; {size}")


def _read_lines(path: str, flag: str, remedy: str) -> dict[str, dict[str, Any]]:
    """The rows of a file of JSON lines by their "name", nan read as None: browsers know no such number."""
    try:
        rows = [json.loads(line, parse_constant=lambda _: None) for line in read_bytes(path).splitlines()]
        json.dumps(rows, ensure_ascii=False).encode()  # half characters, which no page can hold
        if not all(isinstance(of, dict) for row in rows for of in row.get("types", {}).values()):
            raise TypeError("types")
        return {row["name"] + "": row for row in rows}
    except (OSError, *MALFORMED) as error:
        raise InputError(f"{flag} {path}: is no file with a sample in each line ({reason(error)}); {remedy}") from error


def _add_scores(rows: dict[str, dict[str, Any]], path: str) -> None:
    """Add the rows of samples.jsonl, which have to be of exactly these samples."""
    remedy = "run evaluate.py quality on these samples"
    scores = _read_lines(path, "--quality", remedy)
    for name in sorted({*rows, *scores}):
        sides = [side.get(name, {}).get("types") for side in (rows, scores)]
        shown, scored = ({key: of.get("pixels") for key, of in (side or {}).items()} for side in sides)
        if None in sides or shown != scored:
            raise InputError(f"--quality {path}: tells of other samples than --samples (see {name}); {remedy}")
        rows[name] |= scores[name]


def _add_states(rows: dict[str, dict[str, Any]], folder: str) -> None:
    """Add "kept" and "reason" from kept.jsonl and dropped.jsonl, which curation.py describes."""
    for kept, file in ((True, "kept.jsonl"), (False, "dropped.jsonl")):
        listed = _read_lines(bf.join(folder, file), "--curated", "name the folder that curate.py wrote")
        for name, row in listed.items():
            if name not in rows:
                raise InputError(f"--curated {folder}: tells of {name}, which is not in --samples")
            rows[name] |= {"kept": kept, "reason": row.get("reason")}


def conclude(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """What to do next, which is the headline, and what was found. Raises one of MALFORMED."""
    verdicts = [of["verdict"] for lift in [results.get("lift")] if lift for of in (lift, *lift["others"])]
    quality = judge(results["quality"]) if "quality" in results else {"looks": None, "sentence": None}
    low, high = verdicts[0]["difference"]["interval"] if verdicts else (0, 0)
    bad = [row for row in rows if row.get("speck") or (row["nearest_train"] or {}).get("copy")]
    curated = any(row["kept"] is not None for row in rows)
    steps = (
        (low > 0, "Use these samples: they make a segmenter better."),
        (quality["looks"] in ("partly", "blurry", "wrong"), "Train longer, then generate and measure again."),
        (len(bad) > MANY * len(rows) and not curated, "Curate these samples: many are near-copies or mere specks."),
        (high < 0, "Leave these samples out: they make a segmenter worse. Label more real images."),
        (verdicts, "Label more real images, or generate more samples: a gain is not shown yet."),
        (quality["looks"], "Measure next whether these samples make a segmenter better."),
        (True, "Measure next whether these samples look like real images."),
    )
    said = [of["sentence"] for of in verdicts]
    return next(step for applies, step in steps if applies), [quality["sentence"], *said] if quality["looks"] else said


def choose_encoding(images: np.ndarray) -> tuple[str, float]:
    """The kind, "png" or "jpeg", and scale of lengths at which the page shows images uint8 [N, H, W, 3]."""
    pixels = math.prod(images.shape[:3])
    return "png" if pixels <= EXACT_PIXELS else "jpeg", min(1.0, math.sqrt(MAX_PIXELS / pixels))


def data_uri(array: np.ndarray, kind: str, scale: float) -> str:
    """An image uint8 [H, W, 3], or an index mask [H, W] in the types' colours on transparent ground."""
    picture, method, how = Image.fromarray(array), Image.Resampling.BOX, {}
    if array.ndim == 2:
        picture.putpalette(palette(max(int(array.max()), 1)).tobytes())
        method, how = Image.Resampling.NEAREST, {"transparency": 0}
    elif kind == "jpeg":
        how = {"quality": 90, "subsampling": 0}
    buffer = io.BytesIO()
    picture.resize([max(1, round(side * scale)) for side in picture.size], method).save(buffer, kind, **how)
    return _uri(kind, buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def to_html(markdown: str) -> Markup:
    """The headings, lists, tables and paragraphs that the commands write, all else escaped; "#" becomes h2."""

    def line(tag: str, text: str) -> Markup:
        # An interval goes below its value.
        shown = re.sub(r" (\[.*?\])", r" <small>\1</small>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text))))
        return Markup(f"<{tag}>{shown}</{tag.split()[0]}>")

    parts = []
    for is_table, lines in groupby(markdown.splitlines(), lambda text: text.startswith("|")):
        if is_table:
            head, _, *rows = ([cell.strip() for cell in text[2:-2].split(" | ")] for text in lines)
            parts += ['<div class="scroll"><table><tr>', *(line('th scope="col"', cell) for cell in head), "</tr>"]
            for first, *cells in rows:
                parts += ["<tr>", line('th scope="row"', first), *(line("td", cell) for cell in cells), "</tr>"]
            parts.append("</table></div>")
        else:
            for text in filter(None, lines):
                mark, _, rest = text.partition(" ")
                tag = {"#": "h2", "##": "h3", "-": 'p class="note"'}.get(mark)
                parts.append(line(tag, rest) if tag else line("p", text))
    return Markup("\n".join(parts))


def render(
    rows: Sequence[Mapping[str, Any]], pictures: Sequence[tuple[str, str]], class_names: Sequence[str], **about: Any
) -> str:
    """The page; rows as in samples.jsonl with "kept" and "reason", pictures as data URIs of images and masks.

    about: all else that report.html names. Raises one of MALFORMED."""
    assets = files(__package__) / "report_assets"
    template, css, js = ((assets / f"report.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    how = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.ChainableUndefined}
    environment = jinja2.Environment(**how)
    environment.filters |= {"number": lambda value, *how: number(value or None, *how), "quote": shlex.quote}
    shown = hashlib.sha256("".join([*(row["name"] for row in rows), *map("".join, pictures)]).encode()).hexdigest()
    return environment.from_string(template).render(
        **about,
        class_names=class_names,
        rows=rows,
        pictures=pictures,
        colours=[f"#{bytes(colour).hex()}" for colour in palette(len(class_names))[1:]],
        data={"id": shown[:16], "samples": rows},
        css=Markup(css),
        js=Markup(js),
        script_hash=base64.b64encode(hashlib.sha256(js.encode()).digest()).decode(),
    )
