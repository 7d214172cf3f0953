"""Models that travel: the EMA weights of a pair in a folder with its model card, and on the Hugging Face hub.

large.safetensors and small.safetensors hold all that sampling needs; the rest is for people. Paths of the training are
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

from ..config import DataConfig
from ..data.files import list_folder
from ..data.prepared import find_samples
from ..errors import InputError
from ..file_io import read_bytes, write_atomic
from ..training.checkpoint import DIGEST, PACKED, Checkpoint, as_packed, digest, load_checkpoint
from .network import Network

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

generator = DefectGen.from_pretrained("this folder, or its name on the hub")
batch = generator.generate(4)  # step_inference: {hand_offs}
```

On a command line: `defect-gen generate --large_recep FOLDER --sample_dir samples`.

## Training

{data}

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
        raise InputError(f"`figures` {' '.join(figures)}: {error}; name files such as quality.md, lift.md") from None
    pairs = [(network, load_checkpoint(network.path, f"`{network.kind}`")) for network in networks]
    files, previews = {}, ""
    for network, checkpoint in pairs:
        kind, config = network.kind, network.config
        if path := _preview(checkpoint.path, kind):
            files[f"previews/{kind}.png"] = read_bytes(path)
            previews += f"![Samples during training, {kind}](previews/{kind}.png)\n\n"
        config = replace(
            config, data=replace(config.data, dir=None, val_dir=None), model=replace(config.model, ckpt=None)
        )
        files[f"{kind}.yml"] = yaml.safe_dump(config.to_dict(), sort_keys=False).encode()
        files[kind + PACKED] = as_packed(checkpoint, config)
        files[kind + PACKED + DIGEST] = digest(files[kind + PACKED], kind + PACKED)
    data, names = networks[0].config.data, networks[0].config.layout.class_names
    files["README.md"] = CARD.format(
        types=", ".join(names),
        labels=", ".join(f"{index} {name}" for index, name in enumerate(names, start=1)),
        size="{} x {}".format(*data.resolution),
        hand_offs=f"{hand_offs[0]} to {hand_offs[-1]}" if hand_offs else "none",
        data=_describe(data),
        table=_table(pairs),
        previews=previews,
        figures="\n".join(measured) or "None were measured.\n",
    ).encode()
    for name in sorted(files, key=lambda name: PACKED in name):  # weights last: they make it one that can be loaded
        write_atomic(bf.join(folder, name), files[name], "`folder`")


def _preview(checkpoint: str, kind: str) -> str | None:
    """The latest preview of a training, or the one that was packed."""
    if checkpoint.endswith(PACKED):
        path = bf.join(bf.dirname(checkpoint), "previews", f"{kind}.png")
        return path if bf.exists(path) else None
    images = bf.join(bf.dirname(bf.dirname(checkpoint)), "images")
    return next((bf.join(images, name) for name in reversed(list_folder(images)[0])), None)


def _describe(data: DataConfig) -> str:
    """What was trained on, as far as it can still be told."""
    told = "Images that are not at hand any more"
    with suppress(InputError):
        if data.dir and bf.isdir(data.dir):
            told = f"{len(find_samples(data.dir))} images with defects of `{bf.basename(data.dir.rstrip('/'))}`"
    told += f", the first {data.num_image_train} of each type" if data.num_image_train else ""
    return f"{told}; {'seen in windows' if data.fit == 'random_crop' else 'stretched'}, mirrored: {data.flip}."


def _table(pairs: Sequence[tuple[Network, Checkpoint]]) -> str:
    """Size and compute of the networks."""
    rows = [["network", "parameters", "steps", "images a step", "CPU minutes", "timesteps"], ["---"] * 6]
    for network, checkpoint in pairs:
        first, end = network.config.train.t_range
        size, minutes = sum(p.numel() for p in network.model.parameters()), checkpoint.cpu_minutes
        own = [
            f"{size:,}",
            f"{checkpoint.step:,}",
            network.config.data.bs_per_gpu,
            f"{minutes:.1f}" if minutes else "?",
        ]
        rows.append([network.kind, *own, f"{first} to {end - 1}"])
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def download(name: str) -> str:
    """The folder of a packed pair: `name` itself, or that of a copy of the repository `name` of the Hugging Face hub.
    Raises InputError."""
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
        hub.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message="A pair of Defect-Gen")
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
        raise InputError(
            f"{what} the hub cannot do it ({fault}); check name, connection and `hf auth login`"
        ) from error
