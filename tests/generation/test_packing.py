"""A pair that is packed, on disk and in a stub of the hub: it samples as the work_dirs do."""

import hashlib
import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from conftest import save_untrained
from drawn_formats import save
from runs import tree

from guided_diffusion import DefectGen, InputError
from guided_diffusion.cli import pack as cli

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed (requirements-dev.txt)")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="it is not installed (requirements-dev.txt)")
ON_CPU = {"device": "cpu", "precision": "fp32"}
FILES = {f"{kind}{end}" for kind in ("large", "small") for end in (".yml", ".safetensors", ".safetensors.sha256")}


@pytest.fixture(scope="module")
def packed(trained_pair, tmp_path_factory):
    """The trained pair, packed by the command line; with previews, and a figure for its card."""
    folder = tmp_path_factory.mktemp("packed")
    for kind, work_dir in trained_pair._asdict().items():
        shutil.copytree(work_dir, folder / kind)
        for name in ("000002.png", "000010.png"):
            save(folder / kind / "images" / name, f"{kind} {name}".encode())
    (folder / "quality.md").write_text("# Quality of the samples\n\n## Overall\n")
    flags = ["--large_recep", folder / "large", "--small_recep", folder / "small", "--figures", folder / "quality.md"]
    cli.main([*map(str, flags), str(folder / "pair")])
    return folder / "pair"


def test_a_packed_pair_is_small_and_explains_itself(packed, trained_pair):
    assert set(tree(packed)) == FILES | {"README.md", "previews", "previews/large.png", "previews/small.png"}
    assert (packed / "previews" / "large.png").read_text() == "large 000010.png"
    pickles = [path.stat().st_size for work_dir in trained_pair for path in work_dir.glob("checkpoint/*4.pt")]
    weights = [path.stat().st_size for path in packed.glob("*.safetensors")]
    assert len(pickles) == len(weights) == 2 and sum(weights) <= sum(pickles) / 2
    for name, digest in (path.read_text().split()[::-1] for path in packed.glob("*.sha256")):
        assert hashlib.sha256((packed / name).read_bytes()).hexdigest() == digest
    card = (packed / "README.md").read_text()
    told = "0 background, 1 scratch, 2 stain, 3 pit.", "All images among 12 with defects of `data`; stretched; mirrored"
    for text in (*told, "| large | ", " | 4 | 4 | ", "previews/small.png", "## Quality of the samples", "### Overall"):
        assert text in card
    assert str(packed.parent) not in card and not any("demo" in path.read_text() for path in packed.glob("*.yml"))


def test_it_samples_as_the_work_dirs_without_pickle(packed, trained_pair, generator, run_script, tmp_path, monkeypatch):
    given = {"pair": ("--large_recep", packed), "dirs": ("--large_recep", trained_pair.large)}
    given["dirs"] += ("--small_recep", trained_pair.small)
    for name, flags in given.items():
        how = ("--num_samples", 2, "--num_steps", 4, "--device", "cpu", "--precision", "fp32")
        assert run_script("inference.py", *flags, "--sample_dir", tmp_path / name, *how).returncode == 0
    assert tree(tmp_path / "pair") == tree(tmp_path / "dirs")  # the manifest too

    expected = generator.generate(2, num_steps=4).images
    small = packed / "small.safetensors"
    mixed = [DefectGen.load(trained_pair.large, small, **ON_CPU), DefectGen.load(None, packed / "small.safetensors")]
    assert (mixed[0].generate(2, num_steps=4).images == expected).all() and mixed[1].networks["large"] is None
    monkeypatch.setattr(torch, "load", None)
    for pair in ((packed, packed), (None, packed), (packed,)):
        assert (DefectGen.load(*pair, **ON_CPU).generate(2, num_steps=4).images == expected).all()
    with pytest.raises(InputError, match=r"^weights model: .*large\.safetensors is packed, which keeps ema only"):
        DefectGen.load(packed, weights="model")


def test_what_sampling_needs_travels(tmp_path):
    """Hand-offs by t_range, separate losses, types, the layers that are told of augmentations; but no paths."""
    common = {"train.separate_channel_loss": True, "model.augment": 0.1}
    common |= {"data.dir": "/secret/a", "data.val_dir": "/secret/b"}
    large = save_untrained(tmp_path / "large", "large", **common, **{"train.t_range": [350, 1000]})
    small = save_untrained(tmp_path / "small", "small", **common, **{"train.t_range": [0, 450]})
    dirs = DefectGen.load(large, small, **ON_CPU)
    dirs.pack(str(tmp_path / "pair"))
    pair = DefectGen.from_pretrained(str(tmp_path / "pair"), **ON_CPU)
    assert pair.hand_offs == dirs.hand_offs == range(350, 451)
    for ours, theirs in zip(pair.networks.values(), dirs.networks.values(), strict=True):
        assert (ours.config.model, ours.config.train) == (theirs.config.model, theirs.config.train)
    assert not any(b"/secret" in path.read_bytes() for path in (tmp_path / "pair").iterdir())
    assert "| 350 to 999 |" in (tmp_path / "pair" / "README.md").read_text()
    one, other = (each.generate(2, num_steps=4, defects="hole", guidance_scale=2.0) for each in (pair, dirs))
    assert (one.images == other.images).all() and (one.masks == other.masks).all() and one.about == other.about
    with pytest.raises(InputError, match="^folder .*pair: holds files already; name a new folder"):
        dirs.pack(str(tmp_path / "pair"))
    with pytest.raises(InputError, match="^figures .*none.md: .* name text files, as quality.md"):
        dirs.pack(str(tmp_path / "new"), [str(tmp_path / "none.md")])
    assert not (tmp_path / "new").exists()


def test_previews_are_those_of_a_work_folder_only(trained_pair, tmp_path):
    save(tmp_path / "images" / "customer.png", b"")
    for kind, work_dir in trained_pair._asdict().items():
        save(tmp_path / "models" / f"{kind}.pt", next(work_dir.glob("checkpoint/*4.pt")).read_bytes())
    pair = DefectGen.load(*(tmp_path / "models" / f"{kind}.pt" for kind in ("large", "small")), **ON_CPU)
    pair.pack(tmp_path / "pair")
    assert not (tmp_path / "pair" / "previews").exists()


def test_the_hub_gives_back_what_it_was_given(packed, generator, tmp_path, monkeypatch):
    """By a stub of its API: repositories are folders."""

    def create_repo(repo, *, private, exist_ok):
        assert private and exist_ok
        return type("Url", (str,), {"repo_id": f"me/{repo}"})(f"https://hub/me/{repo}")

    def upload_folder(*, repo_id, folder_path, commit_message, allow_patterns):
        for path in Path(folder_path).rglob("*"):
            if path.is_file() and any(fnmatch(str(path.relative_to(folder_path)), one) for one in allow_patterns):
                save(tmp_path / "hub" / repo_id / path.relative_to(folder_path), path.read_bytes())

    def snapshot_download(repo_id, *, allow_patterns):
        if not (tmp_path / "hub" / repo_id).exists():
            raise huggingface_hub.errors.RepositoryNotFoundError("404 Client Error\nid", response=MagicMock())
        assert all("safetensors" in pattern for pattern in allow_patterns)
        return str(tmp_path / "hub" / repo_id)

    for stub in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(huggingface_hub, stub.__name__, stub)
    (packed / "README.md").write_text(card := (packed / "README.md").read_text() + "Edited.\n")
    save(packed / "samples" / "customer.png", b"")
    assert generator.push_to_hub("screws") == "https://hub/me/screws"
    DefectGen.from_pretrained(str(packed)).push_to_hub("edited")
    assert (tmp_path / "hub" / "me" / "edited" / "README.md").read_text() == card
    assert FILES < set(tree(tmp_path / "hub" / "me" / "screws"))
    assert not [*(tmp_path / "hub").rglob("customer.png")]
    again = DefectGen.from_pretrained("me/screws", **ON_CPU)
    assert (again.generate(2, num_steps=4).images == generator.generate(2, num_steps=4).images).all()
    with pytest.raises(InputError, match="^name me/none: is no folder here, and the hub .* .404 Client Error.;"):
        DefectGen.from_pretrained("me/none")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="^repo screws: the hub needs huggingface_hub; pip install huggingface_hub$"):
        generator.push_to_hub("screws")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match="packed networks need safetensors; pip install safetensors$"):
        DefectGen.load(packed)


TENSOR = {"a": torch.ones(1)}
ABOUT = {"step": 1, "cpu_minutes": 0, "sha256": "0" * 64, "config": {}, "format_version": 1}


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "not a checkpoint"),
        (safetensors.save(TENSOR), "not a checkpoint"),
        (safetensors.save(TENSOR, {"defect_gen": json.dumps(ABOUT)}), "its configuration is not one"),
        (safetensors.save(TENSOR, {"defect_gen": json.dumps(ABOUT | {"format_version": 9})}), "newer version"),
        (safetensors.save(TENSOR, {"defect_gen": json.dumps(ABOUT)})[:-1], "damaged, truncated"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(data, fault, tmp_path):
    (tmp_path / "large.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=rf"^large .*large\.safetensors: .*{fault}") as error:
        DefectGen.load(str(tmp_path))
    assert "\n" not in str(error.value)
