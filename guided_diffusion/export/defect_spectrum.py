"""The layout of Defect Spectrum's synthetic parts, which this project trains on too."""

from __future__ import annotations

import json

from .contents import colour_mask, image, index_mask
from .records import Export, Record
from .writing import Files, IndexFiles


def files(export: Export, record: Record) -> Files:
    name = f"{record.name}.png"
    return {f"images/{name}": image, f"masks/{name}": colour_mask, f"masks_converted_dir/{name}": index_mask}


def index_files(export: Export) -> IndexFiles:
    content = {
        "label_map": export.label_map,
        "images": [
            {"image": f"images/{record.name}.png", "source": record.source, "types": record.types}
            for record in export.records
        ],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return {"dataset.json": text.encode}
