"""One self-contained HTML page of all that was measured of a set of samples, with a gallery to judge them by eye.

The page needs no network and opens from disk. It shows what evaluate.py quality, lift and compare and curate.py have
written to the folders named, or to <samples>/quality, lift, compare and curated; nothing is computed here. Marks made
in the gallery (keep, drop) are exported as the file that curate.py --list reads.
"""

from __future__ import annotations

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
from ..errors import InputError
from ..file_io import ensure_writable, read_bytes, write_atomic
from ..generation.sample_io import class_names_of, common_class_names
from ..pictures import palette
from . import asked, compare, lift_report, tables
from .image_sets import read_samples

HELP = "write one HTML page of all results, with a gallery"


def quality_markdown(result: dict[str, Any]) -> str:
    return tables.markdown(result) + (f"\n{asked.markdown(result['asked'])}" if result.get("asked") else "")


COMMANDS = {  # the Markdown of what <command>.json holds, and the picture beside it
    "lift": (lift_report.markdown, "lift.png"),
    "quality": (quality_markdown, "closest_pairs.png"),
    "compare": (compare.markdown, "compare.png"),
}
UNKNOWN = ("clipped", "nearest_train", "nearest_sample", "agreement", "kept", "reason")  # what a mask does not tell
# Characters of base64; with them and the rest, 5,000 samples of 64 px stay under 40 MB.
EXACT_SIZE, MAX_SIZE = 8 << 20, 26 << 20  # all images as PNG up to the first, as JPEG up to the second
MAX_SIDE = 1024  # pixels; larger images are reduced in any case


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--samples", required=True, help="folder of generated samples")
    for name in COMMANDS:
        add(f"--{name}", help=f"--out folder of evaluate.py {name} (<samples>/{name}, if there)")
    add("--curated", help="folder that curate.py wrote (<samples>/curated, if there)")
    add("--out", help="file to write (<samples>/report.html)")


def main(args: argparse.Namespace) -> None:
    out = args.out or bf.join(args.samples, "report.html")
    if bf.isdir(out):
        raise InputError(f"--out {out}: is a folder; name a file, such as {bf.join(out, 'report.html')}")
    contents = gather(args.samples, {name: getattr(args, name) for name in (*COMMANDS, "curated")})
    page = render(**contents).encode()
    ensure_writable(bf.dirname(out) or ".", "--out")
    write_atomic(out, page)
    print(f"{out}: {len(contents['rows']):,} samples, {len(page) / 1e6:.1f} MB; {contents['pictures_note']}")


def gather(samples: str, named: Mapping[str, str | None]) -> dict[str, Any]:
    """Read everything that `render` takes.

    named: the folders of COMMANDS and of "curated"; None: looked for in `samples`. Raises InputError where there are no
    samples, or a file is broken or tells of other samples.
    """
    folders = {}
    for name, folder in named.items():
        default = bf.join(samples, name)
        there = bf.exists(bf.join(default, "kept.jsonl" if name == "curated" else f"{name}.json"))
        folders[name] = folder or (default if there else None)
    results = {name: _read_result(name, folders[name]) for name in COMMANDS if folders[name]}
    known = results.get("quality", {}).get("class_names")
    class_names = class_names_of(samples) or (tuple(known) if known else common_class_names({"--samples": samples}))
    found = read_samples(samples, class_names)
    rows = {}
    for name, mask in zip(found.names, found.masks, strict=True):
        types = {type_: {"pixels": n, "share": n / mask.size} for type_, n in present_types(mask, class_names).items()}
        rows[name] = {"name": name, "types": types, "empty": not types, **dict.fromkeys(UNKNOWN)}
    if len(rows) < len(found):
        raise InputError(f"--samples {samples}: two samples have the same name; rename one")
    if folders["quality"]:
        _add_scores(rows, bf.join(folders["quality"], "samples.jsonl"))
    if folders["curated"]:
        _add_states(rows, folders["curated"])
    notes = []
    if "quality" not in results:
        command = f"python scripts/evaluate.py quality --real HELD_OUT --train TRAIN --samples {shlex.quote(samples)}"
        notes.append(f"Fidelity, copies and agreement were not measured: {command}")
    if missing := [name for name in class_names if not any(name in row["types"] for row in rows.values())]:
        notes.append(f"No sample holds {', '.join(missing)}.")
    kind, scale = choose_encoding(found.images)
    pairs = zip(found.images, found.masks, strict=True)
    how = "shown exactly" if kind == "png" else "saved as JPEG" + f", reduced to {scale:.0%}" * (scale < 1)
    return {
        "folder": samples,
        "class_names": class_names,
        "results": results,
        "plots": {
            name: "data:image/png;base64," + base64.b64encode(read_bytes(path)).decode()
            for name in results
            if bf.exists(path := bf.join(folders[name], COMMANDS[name][1]))
        },
        "rows": list(rows.values()),
        "pictures": [(data_uri(image, kind, scale), data_uri(mask, "png", scale)) for image, mask in pairs],
        "pictures_note": f"Images of {found.images.shape[2]} × {found.images.shape[1]} px are {how}.",
        "notes": notes,
    }


def _read_result(name: str, folder: str) -> dict[str, Any]:
    path = bf.join(folder, f"{name}.json")
    if not bf.exists(path):
        raise InputError(f"--{name} {folder}: holds no {name}.json; name the --out folder of evaluate.py {name}")
    try:
        content = json.loads(read_bytes(path))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("command", name) != name:
        raise InputError(f"--{name} {path}: was not written by evaluate.py {name}; name its --out folder")
    return content


def _read_lines(path: str, flag: str, remedy: str) -> dict[str, dict[str, Any]]:
    """The rows of a file of JSON lines by their "name", nan read as None: browsers know no such number."""
    if not bf.exists(path):
        raise InputError(f"{flag} {path}: does not exist; {remedy}")
    rows = {}
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), start=1):
        try:
            row = json.loads(line, parse_constant=lambda _: None)
            rows[row["name"]] = row
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{flag} {path}: line {number} does not describe a sample; {remedy}") from error
    return rows


def _add_scores(rows: dict[str, dict[str, Any]], path: str) -> None:
    """Add the rows of samples.jsonl, which have to be of exactly these samples."""
    remedy = "run evaluate.py quality on these samples"
    scores = _read_lines(path, "--quality", remedy)
    if strangers := sorted(set(scores) ^ set(rows)):
        raise InputError(f"--quality {path}: tells of other samples than --samples ({strangers[0]}); {remedy}")
    for name, row in rows.items():
        try:
            areas, scored = ({key: of["pixels"] for key, of in side["types"].items()} for side in (row, scores[name]))
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"--quality {path}: the row of {name} is incomplete; {remedy}") from error
        if areas != scored:
            raise InputError(f"--quality {path}: tells of {scored} pixels, but {name} has {areas}; {remedy}")
        row |= scores[name]


def _add_states(rows: dict[str, dict[str, Any]], folder: str) -> None:
    """Add "kept" and "reason" from kept.jsonl and dropped.jsonl, which curation.py describes."""
    for kept, file in ((True, "kept.jsonl"), (False, "dropped.jsonl")):
        listed = _read_lines(bf.join(folder, file), "--curated", "name the folder that curate.py wrote")
        for name, row in listed.items():
            if name not in rows:
                raise InputError(f"--curated {folder}: tells of {name}, which is not in --samples")
            rows[name] |= {"kept": kept, "reason": row.get("reason")}


def choose_encoding(images: np.ndarray, exact_size: int = EXACT_SIZE, max_size: int = MAX_SIZE) -> tuple[str, float]:
    """The best kind ("png" or "jpeg") and scale of lengths at which images uint8 [N, H, W, 3] keep the limits.

    Judged by some of them.
    """
    trial = images[:: math.ceil(len(images) / 32)]
    largest = min(1.0, MAX_SIDE / max(images.shape[1:3]))
    kinds = [("png", 1.0)] * (largest == 1) + [("jpeg", largest * 0.9**k) for k in range(30)]
    for kind, scale in kinds:
        size = sum(len(data_uri(image, kind, scale)) for image in trial) * len(images) / len(trial)
        if size <= (exact_size if kind == "png" else max_size):
            break
    return kind, scale


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
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def to_html(markdown: str) -> Markup:
    """The headings, lists, tables and paragraphs that the commands write, all else escaped; "#" becomes h2."""

    def line(tag: str, text: str) -> Markup:
        # An interval goes below its value.
        shown = re.sub(r" (\[.*?\])", r" <small>\1</small>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text)))
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
    folder: str,
    class_names: Sequence[str],
    results: Mapping[str, dict[str, Any]],
    plots: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[tuple[str, str]],
    pictures_note: str,
    notes: Sequence[str] = (),
) -> str:
    """The page; rows as in samples.jsonl with "kept" and "reason", pictures as data URIs of images and masks.

    Raises InputError where results are not of the kind that the commands write.
    """
    assets = files(__package__) / "report_assets"
    template, css, js = ((assets / f"report.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    environment.filters |= {"number": lambda value, *how: tables.number(value or None, *how), "quote": shlex.quote}
    shown = hashlib.sha256("".join([*(row["name"] for row in rows), *map("".join, pictures)]).encode()).hexdigest()
    try:
        return environment.from_string(template).render(
            folder=folder,
            class_names=class_names,
            sections={name: to_html(COMMANDS[name][0](result)) for name, result in results.items()},
            plots=plots,
            rows=rows,
            pictures=pictures,
            pictures_note=pictures_note,
            notes=notes,
            colours=[f"#{bytes(colour).hex()}" for colour in palette(len(class_names))[1:]],
            data={"id": shown[:16], "samples": rows},
            css=Markup(css),
            js=Markup(js),
            script_hash=base64.b64encode(hashlib.sha256(js.encode()).digest()).decode(),
            **results,
        )
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, jinja2.TemplateError) as error:
        found = " ".join(f"--{name}" for name in results)
        raise InputError(f"{found}: results are not as evaluate.py writes them ({error!r}); run it again") from error
