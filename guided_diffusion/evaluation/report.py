"""One self-contained HTML page of all that was measured of a set of samples, with a gallery to judge them by eye.

The page needs no network and opens from disk. What evaluate.py quality, lift and sweep and scripts/curate.py have
written is taken from the folders named, or from <samples>/quality, lift, sweep and curated where these are there.
What was not measured is said, with the command that does it; nothing is computed here. Marks made in the gallery
(keep, drop) are exported as the file that scripts/curate.py --list reads.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from datetime import datetime
from importlib.resources import files
from string import Template

import blobfile as bf

from ..errors import InputError
from ..file_io import ensure_writable, write_atomic
from ..pictures import palette
from . import report_html as h
from .report_data import COMMANDS, Contents, gather
from .report_lift import lift_section
from .report_sections import copies_section, fidelity_section, labels_section, sweep_section
from .report_summary import header, provenance_section

HELP = "write one HTML page of all results, with a gallery"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--samples", required=True, help="folder of generated samples")
    add("--train", help="training images, to show the nearest ones (those that quality was run with)")
    for name in COMMANDS:
        add(f"--{name}", help=f"--out folder of evaluate.py {name} (<samples>/{name}, if there)")
    add("--curated", help="folder that scripts/curate.py wrote (<samples>/curated, if there)")
    add("--out", help="file to write (<samples>/report.html)")


def main(args: argparse.Namespace) -> None:
    out = args.out or bf.join(args.samples, "report.html")
    if bf.isdir(out):
        raise InputError(f"--out {out}: is a folder; name a file, such as {bf.join(out, 'report.html')}")
    named = {name: getattr(args, name) for name in (*COMMANDS, "curated")}
    contents = gather(args.samples, train=args.train, **named)
    page = render(contents).encode()
    ensure_writable(bf.dirname(out) or ".", "--out")
    write_atomic(out, page)
    print(f"{out}: {len(contents.rows):,} samples, {len(page) / 1e6:.1f} MB; {pictures_note(contents)}")


def render(contents: Contents) -> str:
    """The page."""
    assets = files(__package__) / "report_assets"
    template, css, js = ((assets / name).read_text("utf-8") for name in ("template.html", "report.css", "report.js"))
    sections = {
        "lift": lift_section(contents),
        "fidelity": fidelity_section(contents),
        "labels": labels_section(contents),
        "copies": copies_section(contents),
        "sweep": sweep_section(contents),
        "provenance": provenance_section(contents),
    }
    script_hash = base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()
    return Template(template).substitute(
        title=h.escape(f"Evaluation of {contents.folder}"),
        css=css,
        js=js,
        script_hash=f"sha256-{script_hash}",
        header=header(contents, ["gallery", *(name for name, text in sections.items() if text)]),
        **sections,
        pictures_note=h.escape(pictures_note(contents)),
        footer=f"Written {datetime.now():%Y-%m-%d %H:%M} by evaluate.py report.",
        pictures=_picture_elements(contents),
        data=script_json(page_data(contents)),
    )


def page_data(contents: Contents) -> dict:
    """What report.js reads."""
    return {
        "id": contents.identity,
        "class_names": contents.class_names,
        "colours": [f"#{bytes(colour).hex()}" for colour in palette(len(contents.class_names))[1:]],
        "match_size": contents.size,
        "album": contents.album.layout(),
        "train": [{"name": p.name, "size": p.size, "shown": p.shown} for p in contents.train],
        "samples": contents.rows,
        "results": contents.results,
    }


def script_json(value: object) -> str:
    """JSON that is safe inside a <script> element: nothing in it can end that or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def pictures_note(contents: Contents) -> str:
    """How the pictures in the page relate to the files."""
    height, width = contents.size
    encoding = contents.album.encoding
    if encoding.exact:
        return f"Images are shown exactly as they are, {width} × {height} px."
    if encoding.scale == 1:
        return f"Images are shown at their full size of {width} × {height} px, compressed as JPEG."
    reduced = contents.album.size
    return (
        f"To keep the page small, images are reduced from {width} × {height} to {reduced[1]} × {reduced[0]} px and "
        "compressed as JPEG."
    )


def _picture_elements(contents: Contents) -> str:
    sheets = [("samples", k, image, mask) for k, (image, mask) in enumerate(contents.album.sheets)]
    sheets += [("train", k, picture.image, picture.mask) for k, picture in enumerate(contents.train)]
    return "\n".join(
        f'<script type="text/plain" id="{kind}-{of}-{k}">{uri}</script>'
        for kind, k, *uris in sheets
        for of, uri in zip(("image", "mask"), uris, strict=True)
    )
