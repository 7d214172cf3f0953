"""--init: a network starts as the old one for what both know, learns what is new, and generates."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import random_weights, tiny_config
from runs import QUICK, tree

from guided_diffusion import create_model, load_config
from guided_diffusion.errors import InputError
from guided_diffusion.file_io import write_json
from guided_diffusion.training.checkpoint import Checkpoint, load_checkpoint
from guided_diffusion.training.warm_start import FIRST, LABELS, LAST, LAST_BIAS, RARE, warm_start

OLD, NEW = ("crack", "hole", "rust"), ("dent", "rust", "crack")
T = torch.tensor([0, 400, 999])


def make_config(size, types, **changes):
    label_map = {name: k for k, name in enumerate(types, start=1)}
    return load_config(tiny_config(size, **{"data.label_map": label_map, "data.resolution": 16, **changes}))


def trained(config, released=False):
    """A checkpoint of weights that predict something; the averaged ones are others."""
    states = [random_weights(create_model(config), seed).state_dict() for seed in (0, 1)]
    for state in states:  # binary fractions, which sum exactly in any order
        state.update({key: (state[key] * 256).round() / 256 for key in (FIRST, FIRST.replace("weight", "bias"))})
    return Checkpoint("old.pt", "sha", *states, {"state": {}}, 4, None if released else config, torch.ones(13))


def start(checkpoint, config):
    return warm_start(checkpoint, config, "new.yml", "--init")


def network(config, state):
    model = create_model(config).eval()
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize("separate", [False, True], ids=["one_loss", "separate_losses"])
@pytest.mark.parametrize("backgrounds", [(True, True), (False, False), (True, False), (False, True)])
def test_rgb_and_kept_types_are_predicted_as_before(size, separate, backgrounds):
    """Bit for bit, where types are permuted, dropped and added; kernels older than AVX2 sum in another order."""
    old, new = (
        make_config(size, types, **{"train.separate_channel_loss": separate, "data.background": background})
        for types, background in zip((OLD, NEW), backgrounds, strict=True)
    )
    checkpoint = trained(old)
    started, line = start(checkpoint, new)
    assert (started.optimizer, started.log_window, started.step) == (None, None, 0)
    assert line.endswith(" parameters fit; new types: dent; left out: hole")
    ours, theirs = (["r", "g", "b", *["none"] * c.layout.background, *c.layout.class_names] for c in (new, old))
    x = ((torch.randn(3, len(ours), 16, 16) * 4).round() / 4).to(memory_format=torch.channels_last)
    seen = torch.stack([x[:, ours.index(key)] if key in ours else x[:, 0] * 0 for key in theirs], dim=1)
    for before, after in ((checkpoint.model, started.model), (checkpoint.ema, started.ema)):
        with torch.no_grad():
            expected, output = network(old, before)(seen, T), network(new, after)(x, T)
        for key in ours[:3] if separate and backgrounds == (True, False) else ours:  # else what logit is 0 changes
            value = output[:, ours.index(key)]
            if key in theirs:
                was = expected[:, theirs.index(key)]
                assert torch.equal(value, was) or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")
                assert (value - was).norm() <= 1e-6 * was.norm()
            elif not separate or key == "none":
                assert (value == 0).all()
        if separate:
            was, p = (config.layout.log_softmax(out).double() for config, out in ((old, expected), (new, output)))
            assert ((p[:, 1] - p[:, 0]).exp() / RARE - 1).abs().max() < 1e-4
            assert torch.allclose(p[:, [2, 3]] - p[:, :1], was[:, [3, 1]] - was[:, :1], atol=1e-5)


@pytest.mark.parametrize("told", [False, True], ids=["plain", "told"])
def test_what_a_network_is_told(told):
    """Rows of types by name; zeros, which change nothing, where the old network was not told types or augmentations."""
    switches = {"model.class_cond": told, "model.augment": 0.1 * told}
    checkpoint = trained(make_config("large", OLD, **switches))
    state = start(checkpoint, make_config("large", NEW, **{"model.class_cond": True, "model.augment": 0.1}))[0].ema
    rows = checkpoint.ema[LABELS] if told else torch.zeros(4, 128)
    assert torch.equal(state[LABELS][[0, 2, 3]], rows[[0, 3, 1]]) and not state[LABELS][1].any()
    assert state["augment_emb.weight"].any() == told
    without = make_config("large", NEW)
    network(without, start(checkpoint, without)[0].ema)


def test_a_released_checkpoint_knows_the_first_types():
    config = make_config("small", NEW)
    for types in (NEW[:2], (*NEW, "hole")):
        released, named = (start(trained(make_config("small", types), each), config)[0] for each in (True, False))
        assert all(torch.equal(released.model[key], value) for key, value in named.model.items())


def test_what_has_another_shape_is_made_anew():
    checkpoint = trained(make_config("large", OLD))
    started, line = start(checkpoint, make_config("large", OLD, **{"model.num_res_blocks": 2}))
    old, new = checkpoint.model, started.model
    fits = [key for key in new if key in old and new[key].shape == old[key].shape]
    assert all(torch.equal(new[key], old[key]) for key in fits) and len(fits) < len(new)
    taken, total = (sum(new[key].numel() for key in keys) for keys in (fits, new))
    assert line == f"starting from old.pt, step 0; {taken:,} of {total:,} parameters fit"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.model_channels": 64}, r"parameters fit new.yml \(model.model_channels: 32 against 64\)"),
        ({"diffusion.schedule": "linear"}, "diffusion.schedule: cosine against linear"),
        ({"diffusion.parameterization": "eps"}, "diffusion.parameterization: x0 against eps"),
        ({"train.separate_channel_loss": True}, "train.separate_channel_loss: False against True"),
    ],
)
def test_what_cannot_be_a_start_is_refused(changes, message):
    with pytest.raises(InputError, match=r"^--init old\.pt.*" + message):
        start(trained(make_config("large", OLD)), make_config("large", NEW, **changes))


def test_a_file_of_other_weights_is_no_start(tmp_path):
    torch.save({"model": {"foo": torch.zeros(3)}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"0 of [\d,]+ parameters fit"):
        start(load_checkpoint(str(tmp_path / "a.pt"), "-"), make_config("large", NEW))


def test_a_pair_learns_other_types_and_generates(train, trained_pair, demo_data, run_script, tmp_path):
    """Scratches, stains and pits become pits, dents and scratches."""
    data, types = Path(shutil.copytree(demo_data, tmp_path / "data")), ("pit", "dent", "scratch")
    write_json(str(data / "dataset.json"), {"label_map": {name: k for k, name in enumerate(types, start=1)}})
    for old in trained_pair:
        work, files, line = tmp_path / old.name, tree(old), f"starting from {old}/checkpoint/diffusion_000004.pt"
        command = (train, tiny_config(old.name), work, "--data_dir", data, "--init")
        printed = partial(*command)(old, prelude=QUICK)
        assert line in printed and "new types: dent; left out: stain" in printed and tree(old) == files
        checkpoint = load_checkpoint(str(work), "-")
        assert (checkpoint.step, checkpoint.config.model.ckpt) == (4, str(old))
        begun, _ = start(load_checkpoint(str(old), "-"), checkpoint.config)
        for name, at in {FIRST: (slice(None), 5), LAST: 5, LAST_BIAS: 5}.items():  # all that is new is learned
            for after, before in ((checkpoint.model, begun.model), (checkpoint.ema, begun.ema)):
                assert (after[name] - before[name]).abs()[at].mean() > 1e-5, name
        assert "complete: trained to step 4" in partial(*command)(tmp_path / "gone")
    pair = ("--large_recep", tmp_path / "large", "--small_recep", tmp_path / "small", "--sample_dir", tmp_path / "out")
    result = run_script("inference.py", *pair, "--num_samples", 2, "--num_steps", 4)
    assert result.returncode == 0, result.stderr
    for row in map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()):
        assert tuple(row["settings"]["class_names"]) == types
