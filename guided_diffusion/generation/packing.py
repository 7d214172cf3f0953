"""Models that travel: the EMA weights of a pair in a folder with its model card, and on the Hugging Face hub.

large.safetensors and small.safetensors hold all that sampling needs, the rest is for people. Paths of the training are
left out.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from tempfile import TemporaryDirectory
from types import ModuleType

import blobfile as bf
import yaml

from ..data.files import list_folder
from ..data.prepared import find_samples
from ..errors import InputError, reason
from ..file_io import read_bytes, write_atomic
from ..training.checkpoint import DIGEST, FOLDER, PACKED, as_packed, digest, load_checkpoint
from .network import Network

PARTS = [f"*{PACKED}*", "*.yml", "README.md", "previews/*.png"]
CARD = """\
---
library_name: defect-gen
pipeline_tag: unconditional-image-generation
tags: [diffusion, defect-generation, semantic-segmentation, synthetic-data]
---

# Defect-Gen: {types}

Images of {size} pixels (height x width) with defects, and their index masks: 0 background, {labels}.

```python
from guided_diffusion import DefectGen

batch = DefectGen.from_pretrained("this folder, or its name on the hub").generate(4)  # step_inference: {hand_offs}
```

On a command line: `defect-gen generate --large_recep FOLDER --sample_dir samples`.

## Training

{data}.

| network | parameters | steps | images a step | CPU minutes | timesteps |
| --- | ---: | ---: | ---: | ---: | ---: |
{table}
Weights are exponential moving averages, in float32. CPU minutes: of all cores, of the first process.

{previews}## Figures

{figures}"""


def pack(folder: str, networks: Sequence[Network], hand_offs: range, figures: Sequence[str] = ()) -> None:
    """Write networks, read anew from their checkpoints, into a new folder. hand_offs: see possible_hand_offs. figures:
    Markdown files for the model card, such as quality.md and lift.md of evaluate.py. Raises InputError."""
    if any(list_folder(folder, ("",))):
        raise InputError(f"`folder` {folder}: holds files already; name a new folder")
    try:
        measured = [re.sub("^#", "##", read_bytes(path).decode(), flags=re.M) for path in figures]
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise InputError(f"`figures` {' '.join(figures)}: {reason(error)}; name text files, as quality.md") from None
    files, table, previews = {}, "", ""
    for network in networks:
        checkpoint, kind, config = load_checkpoint(network.path, f"`{network.kind}`"), network.kind, network.config
        data, model = replace(config.data, dir=None, val_dir=None), replace(config.model, ckpt=None)
        config = replace(config, data=data, model=model)
        files[f"{kind}.yml"] = yaml.safe_dump(config.to_dict(), sort_keys=False).encode()
        files[kind + PACKED] = as_packed(checkpoint, config)
        files[kind + PACKED + DIGEST] = digest(files[kind + PACKED], kind + PACKED)
        home, (first, end) = bf.dirname(checkpoint.path), config.train.t_range
        images = bf.join(bf.dirname(home), "images")
        shown = list_folder(images)[0][-1:] if bf.basename(home) == FOLDER else ()  # else not a work folder's
        for name in shown:  # the latest preview
            files[f"previews/{kind}.png"] = read_bytes(bf.join(images, name))
            previews += f"![Samples during training, {kind}](previews/{kind}.png)\n\n"
        row = f"{kind} | {sum(p.numel() for p in network.model.parameters()):,} | {checkpoint.step:,}"
        table += f"| {row} | {data.bs_per_gpu} | {checkpoint.cpu_minutes:.1f} | {first} to {end - 1} |\n"
    names, data = config.layout.class_names, networks[0].config.data
    told = f"First {data.num_image_train} images of each type" if data.num_image_train else "All images"
    with suppress(InputError):
        if data.dir and bf.isdir(data.dir):
            told += f" among {len(find_samples(data.dir))} with defects of `{bf.basename(data.dir.rstrip('/'))}`"
    files["README.md"] = CARD.format(
        types=", ".join(names),
        labels=", ".join(f"{index} {name}" for index, name in enumerate(names, start=1)),
        size="{} x {}".format(*data.resolution),
        hand_offs=f"{hand_offs[0]} to {hand_offs[-1]}" if hand_offs else "none",
        data=f"{told}; {'stretched' if data.fit == 'resize' else 'seen in windows'}; mirrored: {data.flip}",
        table=table,
        previews=previews,
        figures="\n".join(measured) or "None were measured.\n",
    ).encode()
    for name in sorted(files, key=lambda name: (name.endswith(PACKED), name)):  # last what makes it one that loads
        write_atomic(bf.join(folder, name), files[name], "`folder`", "free space, and name a new folder")


def download(name: str) -> str:
    """The folder of a packed pair: `name`, or a copy of the hub's repository of that name. Raises InputError."""
    if bf.isdir(name):
        return name
    with _hub(f"`name` {name}: is no folder here, and") as hub:
        return hub.snapshot_download(name, allow_patterns=[f"*{PACKED}*"])


def upload(repo: str, networks: Sequence[Network], hand_offs: range, private: bool) -> str:
    """Put a packed pair, that which the networks are from or one packed now, into the repository `repo` of the Hugging
    Face hub, which is made if need be. Returns its address. Raises InputError."""
    folders = {bf.dirname(network.path) if network.path.endswith(PACKED) else "" for network in networks}
    with TemporaryDirectory() as made, _hub(f"`repo` {repo}:") as hub:
        if len(folders) > 1 or not (folder := folders.pop()):
            pack(folder := made, networks, hand_offs)
        address = hub.create_repo(repo, private=private, exist_ok=True)
        told = {"commit_message": "A pair of Defect-Gen", "allow_patterns": PARTS}  # whatever else lies there
        hub.upload_folder(repo_id=address.repo_id, folder_path=folder, **told)
    return str(address)


@contextmanager
def _hub(what: str) -> Iterator[ModuleType]:
    """huggingface_hub, whose errors become an InputError that begins with `what`."""
    try:
        import huggingface_hub

        yield huggingface_hub
    except ImportError:
        raise InputError(f"{what} the hub needs huggingface_hub; pip install huggingface_hub") from None
    except InputError:
        raise
    except Exception as error:  # what it and its transports raise has no common type
        fault = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{what} the hub cannot serve ({fault}); check name, connection, `hf auth login`") from error
