"""Checkpoints: released ones are read, ours round-trip, files that lie are refused."""

import pickle

import pytest
import torch

from guided_diffusion import create_model, load_config
from guided_diffusion.errors import InputError
from guided_diffusion.training.checkpoint import latest_checkpoint, load_checkpoint, load_weights, save_checkpoint

CONFIG = load_config(
    {
        "model": {
            "target": "models.unet.unet_receptive.UNetModel",
            "params": {"model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "image_size": 8},
        }
    },
    num_defect=2,
)


def payload():
    model = create_model(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters())
    return {"model": model.state_dict(), "ema": model.state_dict(), "optimizer": optimizer.state_dict()}


def test_round_trip_and_pointer(tmp_path):
    saved = {**payload(), "config": CONFIG.to_dict()}
    path = save_checkpoint(str(tmp_path), 12, saved)
    assert path == latest_checkpoint(str(tmp_path)) and path.endswith("checkpoint/diffusion_000012.pt")
    loaded = load_checkpoint(path, "--resume")
    assert loaded.step == 12 and loaded.config == CONFIG
    assert all(torch.equal(loaded.model[name], tensor) for name, tensor in saved["model"].items())


def test_keep_last_drops_the_oldest_and_the_latest_is_found_without_pointer(tmp_path):
    for step in (1, 2, 3, 20):
        save_checkpoint(str(tmp_path), step, payload(), keep_last=2)
    names = sorted(p.name for p in (tmp_path / "checkpoint").iterdir())
    assert names == ["diffusion_000003.pt", "diffusion_000020.pt", "latest"]
    (tmp_path / "checkpoint" / "latest").unlink()  # the released code writes none
    assert latest_checkpoint(str(tmp_path)).endswith("diffusion_000020.pt")
    assert latest_checkpoint(str(tmp_path / "nowhere")) is None


def test_a_released_step_is_read_from_the_optimizer(tmp_path):
    model = create_model(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        model(torch.randn(1, 6, 8, 8), torch.zeros(1)).square().mean().backward()
        optimizer.step()
    released = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": model.state_dict()}
    torch.save(released, tmp_path / "diffusion_000000.pt")
    loaded = load_checkpoint(str(tmp_path / "diffusion_000000.pt"), "--resume")
    assert loaded.step == 3 and loaded.config is None


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_not_run(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    if how == "torch":
        torch.save({"model": {}, "x": Bomb()}, "bomb.pt")
    else:
        (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"model": Bomb()}))
    with pytest.raises(InputError, match=r"--large_recep bomb\.pt: holds pickled objects other than weights"):
        load_checkpoint("bomb.pt", "--large_recep")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -5])
def test_truncated_files_are_refused(tmp_path, keep):
    path = save_checkpoint(str(tmp_path), 1, payload())
    data = open(path, "rb").read()
    open(path, "wb").write(data[:keep])
    with pytest.raises(InputError, match="truncated or not a checkpoint"):
        load_checkpoint(path, "--resume")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(str(tmp_path / "x.pt"), "--resume")
    torch.save({"state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="not a Defect-Gen checkpoint"):
        load_checkpoint(str(tmp_path / "x.pt"), "--resume")
    torch.save({**payload(), "format_version": 99}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="newer version"):
        load_checkpoint(str(tmp_path / "x.pt"), "--resume")


def test_weights_load_strictly():
    model = create_model(CONFIG)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    load_weights(model, state, "a.pt")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    first = next(iter(state))
    for broken, message in (
        ({k: v for k, v in state.items() if k != first}, f"{first} is in the configuration but not in the a.pt"),
        ({**state, "extra": torch.zeros(1)}, "extra is in the a.pt but not in the configuration"),
        ({**state, first: torch.zeros(3)}, rf"{first} is \[3\] there"),
    ):
        with pytest.raises(InputError, match=message):
            load_weights(model, broken, "a.pt")
