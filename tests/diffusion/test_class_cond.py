"""Types that networks are told: the embedding, drawing by type, dropping, parts given in training, guidance."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_config, random_weights, told

from guided_diffusion import InputError, create_model
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.image_files import View
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.diffusion.samplers import make_predict_x0
from guided_diffusion.joint_tensor import untold
from guided_diffusion.keyed_random import numpy_generator
from guided_diffusion.training.warm_start import LABELS
from scripts.draw_demo_data import write_released


def some_set(count=12, good=4, size=24):
    """A data set in memory: one type each, of which the first is common and the last rare; then defect-free ones."""
    rng = np.random.default_rng(0)
    kinds = [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3][:count]
    images = [torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8)) for _ in range(count + good)]
    masks = [torch.zeros(size, size, dtype=torch.uint8) for _ in range(count + good)]
    for mask, kind in zip(masks, kinds, strict=False):
        mask[2:6, 2:6] = kind
    return DefectDataset(images, masks, [str(k) for k in range(count + good)], View((16, 16), True, crop_defect=1.0))


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


def test_rates():
    good, rates = {"data.include_good": True}, {"data.type_rates": {"hole": 2.5, "good": 3}}
    assert make_config(**{"model.class_cond": False}).rates is None and make_config().rates == (0, 1, 1, 1)
    assert make_config(**good, **{"data.label_map": {"good": 1, "hole": 2, "pit": 3}}).rates == (1, 1, 1, 1)
    assert make_config(**good).rates == (1, 1, 1, 1) and make_config(**good, **rates).rates == (3, 1, 2.5, 1)
    for given, words in (
        ({"hoel": 1}, "did you mean 'hole'"),
        ({"hole": -1}, "from 0 to 1e6"),
        ({"crack": 0, "hole": 0, "dent": 0, "good": 1}, "all are 0"),
        ({"hole": "often"}, "type_rates.hole"),
    ):
        with pytest.raises(InputError, match=words):
            make_config(**{"data.type_rates": given})


def test_types_are_drawn_at_their_rates():
    data, rng = some_set(), numpy_generator("test")
    indices, kinds = data.draw_by_type((1, 1, 1, 1), 4000, rng)
    assert np.abs(np.bincount(kinds) / 1000 - 1).max() < 0.1  # 3.6 standard deviations
    for kind, own in enumerate((range(12, 16), range(7), range(7, 11), [11])):
        assert set(indices[kinds == kind]) == set(own)
    _, kinds = data.draw_by_type((0, 3, 0, 1), 4000, rng)
    assert set(kinds) == {1, 3} and abs((kinds == 1).mean() - 0.75) < 0.03
    empty = DefectDataset(data.images, [torch.zeros_like(mask) for mask in data.masks], data.names, View((16, 16)))
    with pytest.raises(InputError, match="0 for all"):
        empty.draw_by_type((0, 1, 1, 1), 4, rng)


def test_types_that_are_seen_together():
    data, names = some_set(), ("crack", "hole", "dent")
    data.num_good, data.masks[0][20:, 20:] = 4, 3  # too far from the other for one window
    both = Counter({("crack", "dent"): 1, ("crack",): 6, ("hole",): 4, ("dent",): 1})
    assert Counter(replace(data, view=View((24, 24))).types_seen(names)) == both
    seen = Counter(data.types_seen(names))
    hole, crack, dent = (seen[(name,)] for name in ("hole", "crack", "dent"))
    assert hole == 20 and crack + dent == 40 and 30 <= crack <= 35
    data.view = View((16, 16), True)
    assert () in data.types_seen(names)


def test_crops_are_placed_around_the_type_that_was_drawn():
    data = some_set(count=1, good=0, size=64)
    data.masks[0][50:54, 50:54] = 3
    data.masks[0][2:6, 2:6] = 1
    for kind in (1, 3):
        masks = data.batch(np.zeros(40, int), numpy_generator("test", kind), kinds=[kind] * 40)[1]
        assert (masks == kind).any(dim=(1, 2)).all() and not (masks == 4 - kind).any()


def test_good_images_join_the_training_and_are_not_counted_as_left_out(tmp_path):
    image, names = np.ones((16, 16), np.uint8), ["hole/a", "hole/b", "good/c", "good/d", "good/e"]
    write_released(str(tmp_path), names, [(image, image)] * 2 + [(image, None)] * 3, {"hole": 1}, {})
    data = DefectDataset.load(str(tmp_path), 1, View((16, 16)), include_good=True, num_image_train=1)
    assert [name[-1] for name in data.names] == ["a", "c", "d", "e"] and not data.masks[1].any()
    assert data.num_good == 3 and data.left_out == 1
    assert DefectDataset.load(str(tmp_path), 1, View((16, 16)), include_good=True).left_out == 0
    for path in (tmp_path / "test/good").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no defect-free images"):
        DefectDataset.load(str(tmp_path), 1, View((16, 16)), include_good=True)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_guidance(background, separate, scale):
    config = make_config(**{"data.background": background, "train.separate_channel_loss": separate})
    layout, diffusion = config.layout, GaussianDiffusion(config)
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
