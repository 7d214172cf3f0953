"""Checkpoints: released ones are read, ours round-trip; files that lie are refused in tests/cli/test_bad_input.py."""

import hashlib
import math
import random
import zipfile
from pathlib import Path

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
    (tmp_path / "checkpoint" / "latest").write_bytes(b"\xff" * 5000)
    assert latest_checkpoint(str(tmp_path)) == path
    (tmp_path / "checkpoint" / "latest").unlink()  # the released code writes none
    loaded = load_checkpoint(str(tmp_path), "--resume")
    assert (loaded.path, loaded.step, loaded.config) == (path, 20, CONFIG)
    assert all(torch.equal(loaded.model[name], tensor) for name, tensor in payload["model"].items())
    save_checkpoint(str(tmp_path), 10, payload, keep_last=1)  # of a run that started anew from an older one
    assert len(list((tmp_path / "checkpoint").iterdir())) == 5


@pytest.mark.parametrize(
    ("zipped", "prefix"), [(True, "module."), (False, "module."), (True, "_orig_mod."), (True, "module._orig_mod.")]
)  # not zipped: as older torch wrote files
def test_weights_saved_under_wrappers_have_their_own_names(tmp_path, payload, zipped, prefix):
    payload["model"] = {name: tensor.bfloat16() for name, tensor in payload["model"].items()}
    wrapped = {f"{prefix}{name}": tensor for name, tensor in payload["model"].items()}
    content = {"model": wrapped} | ({"ema": wrapped, "config": payload["config"]} if zipped else {})
    torch.save(content, tmp_path / "ddp.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(str(tmp_path / "ddp.pt"), "--resume")
    assert loaded.model.keys() == loaded.ema.keys() == payload["model"].keys()
    assert all(torch.equal(loaded.ema[name], tensor) for name, tensor in payload["model"].items())
    load_weights(create_model(CONFIG), loaded.model, "ddp.pt")


def set_bit(data, bit):
    data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("digest", [True, False])
def test_a_flipped_bit_is_refused_or_harmless(tmp_path, payload, digest):
    save_checkpoint(str(tmp_path), 1, payload)
    path = Path(save_checkpoint(str(tmp_path), 2, payload))
    if not digest:
        Path(f"{path}.sha256").unlink()
    data, loaded = bytearray(path.read_bytes()), load_checkpoint(str(path), "-")
    ends = range(8 * len(data) - 8 * 2000, 8 * len(data))  # where the zip's directory lies
    bits = [random.Random(0).sample(range(8 * len(data)), 100), random.Random(1).sample(ends, 100)]
    refused = 0
    for bit in sum(bits, []):
        set_bit(data, bit)
        path.write_bytes(data)
        set_bit(data, bit)
        try:
            other = load_checkpoint(str(path), "-")
            for one, same in ((other.model, loaded.model), (other.ema, loaded.ema)):
                assert one.keys() == same.keys() and all(torch.equal(one[key], same[key]) for key in same)
            assert (other.step, other.config) == (loaded.step, loaded.config)
        except InputError as error:
            assert str(error).startswith(f"- {path}: ")
            assert f"take the one before, {tmp_path}/checkpoint/diffusion_000001.pt" in str(error)
            refused += 1
    assert refused == 200 if digest else refused > 80


def test_a_record_that_stands_twice_is_refused(tmp_path, payload):
    """By its name zipfile finds the last one, torch the first."""
    torch.save(payload, path := tmp_path / "twice.pt")
    with zipfile.ZipFile(path, "a") as records, pytest.warns(UserWarning, match="Duplicate name"):
        records.writestr(records.namelist()[1], b"other")
    with pytest.raises(InputError, match="a record stands twice"):
        load_checkpoint(str(path), "-")


def test_a_digest_is_as_sha256sum_writes_it(tmp_path, payload):
    path = Path(save_checkpoint(str(tmp_path), 1, payload))
    expected = hashlib.sha256(path.read_bytes()).hexdigest() + "  diffusion_000001.pt\n"
    assert Path(f"{path}.sha256").read_text() == expected
    assert load_checkpoint(str(path), "-").sha256 == expected[:64]
    torch.save(payload, path)
    with pytest.raises(InputError, match=r"copy it again, .* or remove diffusion_000001\.pt\.sha256, if another file"):
        load_checkpoint(str(path), "-")


ONE = torch.ones(1)
ENTRY = {"step": ONE[0], "exp_avg": ONE, "exp_avg_sq": ONE}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format_version": 99}, "newer version"),
        ({"format_version": "old"}, "format 'old'"),
        *(({"step": step}, "step") for step in (-1, 10**400, 1.5, True, "5", ONE)),
        ({"model": []}, "has no weights under 'model'"),
        *(({"ema": state}, "content") for state in ([1], "text", {5: ONE}, {"a": "text"}, {"a": [1.0]}, {"a": None})),
        ({"ema": {"a": torch.ones(1, dtype=torch.int64)}}, "no tensor of numbers"),
        ({"ema": {"a": ONE.double() * 1e300}}, "ema 'a' is not finite"),
        ({"ema": {"a": torch.eye(2).to_sparse()}}, "no tensor of numbers"),
        ({"ema": {"a": ONE.expand(10**12)}}, "no whole tensor"),
        ({"model": {"a": ONE.to("meta")}}, "no whole tensor"),
        *(({"model": {"a": ONE * value}}, "model 'a' is not finite") for value in (math.nan, math.inf)),
        *(({"optimizer": state}, "content") for state in ("text", {}, {"state": [1]}, {"state": {0: "text"}})),
        ({"optimizer": {"state": {0: {**ENTRY, "step": "text"}}}}, "content"),
        *(({"log_window": window}, "content") for window in ("text", ONE * math.nan)),
        *(({"config": config}, "its configuration is not one") for config in ("text", [1], {"model": 5})),
    ],
)
def test_content_that_is_none_is_refused_in_one_line(tmp_path, payload, change, fault):
    torch.save(payload | change, path := tmp_path / "diffusion_000002.pt")
    with pytest.raises(InputError, match=rf"^- .*diffusion_000002\.pt: .*{fault}") as error:
        load_checkpoint(str(path), "-")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["../other.pt", "/etc/passwd", "", "\0"])
def test_a_pointer_leads_nowhere_else(tmp_path, payload, text):
    save_checkpoint(str(tmp_path / "other"), 1, payload)
    save_checkpoint(str(tmp_path), 1, payload)
    (tmp_path / "checkpoint" / "latest").write_text(text)
    with pytest.raises(InputError, match=r"checkpoint/latest: .* name a file in"):
        load_checkpoint(str(tmp_path), "-")


def test_weights_load_strictly(payload):
    del payload["model"]["out.2.bias"]
    with pytest.raises(InputError, match=r'a\.pt: another architecture .*Missing key.* "out\.2\.bias"'):
        load_weights(create_model(CONFIG), payload["model"], "a.pt")
