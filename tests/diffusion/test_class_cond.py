"""Types that networks are told: the embedding, drawing by type, dropping, parts given in training, guidance."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from told import MAP, NAMES, make_config, random_weights, told

from guided_diffusion import InputError, create_model
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.diffusion.gaussian_diffusion import create_diffusion
from guided_diffusion.diffusion.samplers import make_predict_x0
from guided_diffusion.joint_tensor import JointLayout, untold
from guided_diffusion.keyed_random import numpy_generator
from guided_diffusion.training.checkpoint import Checkpoint, load_checkpoint
from guided_diffusion.training.extend import LABELS, extend_types, with_class_cond
from guided_diffusion.training.train_util import TrainLoop

GT = "converted_ground_truth"


def some_set(count=12, good=4, size=24):
    """A data set in memory: one type each, of which the first is common and the last rare; then defect-free ones."""
    rng = np.random.default_rng(0)
    kinds = [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3][:count]
    images = [torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8)) for _ in range(count + good)]
    masks = [torch.zeros(size, size, dtype=torch.uint8) for _ in range(count + good)]
    for mask, kind in zip(masks, kinds, strict=False):
        mask[2:6, 2:6] = kind
    return DefectDataset(images, masks, [str(k) for k in range(count + good)], (16, 16), "random_crop", 1.0)


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["large", "small"])
def test_the_embedding(size):
    """A fresh one changes nothing; what is told matters; types add up."""
    plain, model = (random_weights(create_model(make_config(size, **{"model.class_cond": on}))) for on in (False, True))
    assert set(model.state_dict()) - set(plain.state_dict()) == {LABELS}
    x, t = torch.randn(1, 7, 16, 16).expand(5, -1, -1, -1), torch.full((5,), 300)
    types = told([1], [2], [], [1, 2], [1])
    types[4] = untold(types)[4]
    out = model(x, t, types)
    assert all((out[i] - out[j]).abs().max() > 1e-3 for i in range(5) for j in range(i))
    assert torch.allclose(model(x, t)[0], out[4], atol=1e-5)  # told nothing; "no defect" is another thing
    with torch.no_grad():
        model.label_emb.weight[3] = model.label_emb.weight[1] + model.label_emb.weight[2]
    assert torch.allclose(model(x[:1], t[:1], told([3]))[0], out[3], atol=1e-4)
    model.load_state_dict({**plain.state_dict(), LABELS: torch.zeros(4, 128)})
    for each in (None, types):
        assert torch.equal(model(x, t, each), plain(x, t))


@pytest.mark.parametrize("background", [True, False])
def test_types_in_masks(background):
    masks = torch.from_numpy(np.random.default_rng(0).choice([0, 0, 0, 0, 0, 2, 3], (9, 3, 3)).astype(np.uint8))
    types = JointLayout(NAMES, background).types_in(masks)
    for row, mask in zip(types, masks, strict=True):
        assert row.tolist() == [0] + [float(k in mask) for k in (1, 2, 3)]
    assert untold(types).tolist() == [[1, 0, 0, 0]] * 9


def test_checkpoints_go_on_with_types_and_with_more_of_them():
    plain, config = make_config(**{"model.class_cond": False}), make_config()
    states = [random_weights(create_model(each)).state_dict() for each in (plain, config)]
    old, conditional = (
        Checkpoint("old.pt", "sha", state, state, None, 4, each, None)
        for state, each in zip(states, (plain, config), strict=True)
    )
    grown = with_class_cond(old, config)
    model = create_model(config)
    model.load_state_dict(grown.model)
    assert not model.label_emb.weight.any() and with_class_cond(grown, config) is grown
    assert with_class_cond(old, plain) is old
    wider = make_config(**{"data.label_map": {**MAP, "burn": 4}})
    labels = extend_types(conditional, wider, "new.yml").model[LABELS]
    assert torch.equal(labels[:4], states[1][LABELS]) and not labels[4].any() and len(labels) == 5


# --- what training draws ---------------------------------------------------------------------------------------------


def test_rates():
    assert make_config(**{"model.class_cond": False}).rates is None
    assert make_config().rates == (0, 1, 1, 1)
    assert make_config(**{"data.include_good": True}).rates == (1, 1, 1, 1)
    rates = {"data.type_rates": {"hole": 2.5, "good": 3}, "data.include_good": True}
    assert make_config(**rates, **{"model.class_cond": False}).rates == (3, 1, 2.5, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.type_rates": {"hoel": 1}}, "did you mean 'hole'"),
        ({"data.type_rates": {"hole": -1}}, "0 or more"),
        ({"data.type_rates": {"crack": 0, "hole": 0, "dent": 0, "good": 1}}, "all are 0"),
        ({"data.type_rates": {"hole": "often"}}, "type_rates.hole"),
        ({"train.class_drop": 1.5}, "train.class_drop"),
        ({"train.known_share": -0.1}, "train.known_share"),
    ],
)
def test_rates_that_cannot_be(changes, words):
    with pytest.raises(InputError, match=words):
        make_config(**changes)


def test_types_are_drawn_at_their_rates():
    data, rng = some_set(), numpy_generator("test")
    indices, kinds = data.draw_by_type((1, 1, 1, 1), 4000, rng)
    assert np.abs(np.bincount(kinds) / 1000 - 1).max() < 0.1  # 3.6 standard deviations
    for kind, own in enumerate((range(12, 16), range(7), range(7, 11), [11])):
        assert set(indices[kinds == kind]) == set(own)
    _, kinds = data.draw_by_type((0, 3, 0, 1), 4000, rng)
    assert set(kinds) == {1, 3} and abs((kinds == 1).mean() - 0.75) < 0.03
    empty = DefectDataset(data.images, [torch.zeros_like(mask) for mask in data.masks], data.names, (16, 16))
    with pytest.raises(InputError, match="0 for all"):
        empty.draw_by_type((0, 1, 1, 1), 4, rng)


def test_crops_are_placed_around_the_type_that_was_drawn():
    data = some_set(count=1, good=0, size=64)
    data.masks[0][50:54, 50:54] = 3
    data.masks[0][2:6, 2:6] = 1
    for kind in (1, 3):
        masks = data.batch(np.zeros(40, int), numpy_generator("test", kind), kinds=[kind] * 40)[1]
        assert (masks == kind).any(dim=(1, 2)).all() and not (masks == 4 - kind).any()


def test_good_images_join_the_training(tmp_path):
    for folder, names, grey in (("test/hole", "ab", False), ("test/good", "cde", False), (f"{GT}/hole", "ab", True)):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            array = np.ones((16, 16) if grey else (16, 16, 3), np.uint8)
            Image.fromarray(array).save(tmp_path / folder / f"{name}{'_mask' * grey}.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"label_map": {"hole": 1}}))
    data = DefectDataset.load(str(tmp_path), 1, (16, 16), include_good=True, num_image_train=1)
    assert [name[-1] for name in data.names] == ["a", "c", "d", "e"] and not data.masks[1].any()
    assert data.num_good == 3
    for path in (tmp_path / "test/good").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no defect-free images"):
        DefectDataset.load(str(tmp_path), 1, (16, 16), include_good=True)


def training(folder, resume=None, **changes):
    given = {"train.class_drop": 0.3, "train.known_share": 0.5, "data.include_good": True, "data.fit": "random_crop"}
    config = make_config(**{**given, "data.bs_per_gpu": 6, **changes})
    return TrainLoop(config, str(folder), some_set(), None, torch.device("cpu"), resume)


def steps(loop, count):
    for _ in range(count):
        loop.train_step()
    return loop


def test_a_resumed_conditional_training_goes_on_bit_for_bit(tmp_path):
    whole = steps(training(tmp_path / "whole"), 4)
    steps(training(tmp_path / "parts"), 2).save()
    saved = load_checkpoint(str(tmp_path / "parts" / "checkpoint" / "diffusion_000002.pt"), "--resume")
    second = steps(training(tmp_path / "parts", saved), 2)
    assert all(map(torch.equal, whole.ema.parameters(), second.ema.parameters()))
    learned = whole.model.label_emb.weight.any(dim=1)
    assert learned[0] and learned.sum() >= 3  # not every type was drawn


def test_micro_batches_are_told_their_own_rows(tmp_path):
    loops = (steps(training(tmp_path, **{"train.micro_batch": n, "model.dropout": 0.0}), 2) for n in (0, 2))
    for a, b in zip(*(loop.model.parameters() for loop in loops), strict=True):
        assert (a - b).abs().max() < 2e-4


# --- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance(background, separate, scale):
    config = make_config(**{"data.background": background, "train.separate_channel_loss": separate})
    layout, diffusion = config.layout, create_diffusion(config)
    outputs = torch.randn(2, 3, layout.num_channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
    types = told([1], [2, 3], [])

    def model(x, t, types):
        assert len(x) == len(t) == len(types)
        return torch.stack([outputs[int(row[0]), i % 3] for i, row in enumerate(types)])

    got = make_predict_x0(model, config, diffusion, types, scale)(torch.zeros(3, layout.num_channels, 8, 8), 500)
    guided = outputs[1] + scale * (outputs[0] - outputs[1])
    assert torch.allclose(got[:, :3], guided[:, :3], atol=1e-5)
    if not separate:
        assert torch.allclose(got, guided, atol=1e-5)
        return
    p_told, p_free = (layout.log_softmax(part).double() for part in outputs)
    log_p = p_free + scale * (p_told - p_free)
    expected = (log_p - log_p.logsumexp(dim=1, keepdim=True)).exp()
    assert torch.allclose(got[:, 3:].double(), expected if background else expected[:, 1:], atol=1e-5)


def test_guidance_of_a_network_that_predicts_eps_is_of_its_x_start():
    config = make_config(**{"diffusion.parameterization": "eps"})
    diffusion, x, types = create_diffusion(config), torch.randn(1, 7, 8, 8), told([1])

    def model(x, t, types):
        return types[:, :1, None, None] * x + 0.1

    got = make_predict_x0(model, config, diffusion, types, 2.0)(x, 400)
    free, one = (diffusion.x_start_from_eps(x, 400, eps) for eps in (x + 0.1, torch.full_like(x, 0.1)))
    assert torch.allclose(got, free + 2 * (one - free), atol=1e-4)
