"""Checkpoints: released ones are read, ours round-trip; files that lie are refused in tests/cli/test_bad_input.py."""

import pytest
import torch

from guided_diffusion import create_model, load_config
from guided_diffusion.errors import InputError
from guided_diffusion.training.checkpoint import latest_checkpoint, load_checkpoint, load_weights, save_checkpoint

PARAMS = {"model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "image_size": 8}
CONFIG = load_config({"model": {"target": "models.unet.unet_receptive.UNetModel", "params": PARAMS}}, num_defect=2)


@pytest.fixture
def payload():
    state = create_model(CONFIG).state_dict()
    return {"model": state, "ema": state, "config": CONFIG.to_dict()}


def test_round_trip_pointer_and_keep_last(tmp_path, payload):
    assert latest_checkpoint(str(tmp_path)) is None
    for step in (1, 2, 3, 20):
        path = save_checkpoint(str(tmp_path), step, payload, keep_last=2)
        assert path == latest_checkpoint(str(tmp_path)) and path.endswith(f"checkpoint/diffusion_0000{step:02}.pt")
    names = sorted(p.name for p in (tmp_path / "checkpoint").iterdir())
    kept = [f"diffusion_0000{step}.pt{end}" for step in ("03", "20") for end in ("", ".sha256")]
    assert names == [*kept, "latest"]
    (tmp_path / "checkpoint" / "latest").unlink()  # the released code writes none
    loaded = load_checkpoint(str(tmp_path), "--resume")
    assert (loaded.path, loaded.step, loaded.config) == (path, 20, CONFIG)
    assert all(torch.equal(loaded.model[name], tensor) for name, tensor in payload["model"].items())
    save_checkpoint(str(tmp_path), 10, payload, keep_last=1)  # of a run that started anew from an older one
    assert sorted(p.name[-6:] for p in (tmp_path / "checkpoint").iterdir()) == [
        "010.pt",
        "020.pt",
        "latest",
        "sha256",
        "sha256",
    ]


def test_a_newer_format_is_refused(tmp_path, payload):
    torch.save({**payload, "format_version": 99}, tmp_path / "diffusion_000000.pt")
    with pytest.raises(InputError, match="newer version"):
        load_checkpoint(str(tmp_path / "diffusion_000000.pt"), "--resume")


def test_weights_load_strictly(payload):
    del payload["model"]["out.2.bias"]
    with pytest.raises(InputError, match=r'a\.pt: another architecture .*Missing key.* "out\.2\.bias"'):
        load_weights(create_model(CONFIG), payload["model"], "a.pt")
