"""Types that networks are told: the embedding, drawing by type, dropping, parts given in training, guidance."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from told import MAP, NAMES, make_config, random_weights, save_untrained

from guided_diffusion import DefectGen, InputError, create_model, load_config
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.diffusion.conditioning import parse_defects
from guided_diffusion.diffusion.gaussian_diffusion import create_diffusion
from guided_diffusion.diffusion.samplers import make_predict_x0
from guided_diffusion.diffusion.training_conditions import draw_conditions, draw_known
from guided_diffusion.generation import api
from guided_diffusion.joint_tensor import JointLayout, untold
from guided_diffusion.keyed_random import numpy_generator
from guided_diffusion.prepare.check import training_warnings
from guided_diffusion.training.checkpoint import Checkpoint, load_checkpoint
from guided_diffusion.training.extend import LABELS, extend_types, with_class_cond
from guided_diffusion.training.train_util import TrainLoop

CPU = torch.device("cpu")
SIZES = pytest.mark.parametrize("size", ["large", "small"])


def told(*rows):
    """types of samples that show the given types."""
    types = torch.zeros(len(rows), 1 + len(NAMES))
    for row, own in zip(types, rows, strict=True):
        row[list(own)] = 1
    return types


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


@SIZES
def test_a_fresh_embedding_changes_nothing_and_nothing_else_is_renamed(size):
    plain, told_of = (
        random_weights(create_model(make_config(size, **{"model.class_cond": on}))) for on in (False, True)
    )
    assert [*told_of.state_dict()] == [
        name for name in told_of.state_dict() if name in plain.state_dict() or name == LABELS
    ]
    assert set(told_of.state_dict()) - set(plain.state_dict()) == {LABELS}
    told_of.load_state_dict({**plain.state_dict(), LABELS: torch.zeros(4, 128)})
    x, t = torch.randn(4, 7, 16, 16), torch.tensor([0, 5, 400, 999])
    for types in (None, told([1], [2], [], [1, 3]), untold(told([1], [2], [], [3]))):
        assert torch.equal(told_of(x, t, types), plain(x, t))


@SIZES
def test_what_is_told_matters_and_types_add_up(size):
    model = random_weights(create_model(make_config(size)))
    x, t = torch.randn(1, 7, 16, 16).expand(5, -1, -1, -1), torch.full((5,), 300)
    types = told([1], [2], [], [1, 2], [1])
    types[4] = untold(types)[4]
    out = model(x, t, types)
    for i in range(5):
        for j in range(i):
            assert (out[i] - out[j]).abs().max() > 1e-3  # untold and "no defect" differ too
    assert torch.allclose(model(x, t)[0], out[4], atol=1e-5)  # told nothing
    with torch.no_grad():
        model.label_emb.weight[3] = model.label_emb.weight[1] + model.label_emb.weight[2]
    assert torch.allclose(model(x[:1], t[:1], told([3]))[0], out[3], atol=1e-4)


@pytest.mark.parametrize("background", [True, False])
def test_types_in_masks(background):
    masks = torch.from_numpy(np.random.default_rng(0).choice([0, 0, 0, 0, 0, 2, 3], (9, 3, 3)).astype(np.uint8))
    types = JointLayout(NAMES, background).types_in(masks)
    for row, mask in zip(types, masks, strict=True):
        assert row.tolist() == [0] + [float(k in mask) for k in (1, 2, 3)]
    assert untold(types).tolist() == [[1, 0, 0, 0]] * 9


def test_an_unconditional_checkpoint_can_go_on_with_types():
    plain, config = make_config(**{"model.class_cond": False}), make_config()
    state = random_weights(create_model(plain)).state_dict()
    old = Checkpoint("old.pt", "sha", state, state, None, 4, plain, None)
    grown = with_class_cond(old, config)
    model = create_model(config)
    model.load_state_dict(grown.model)
    assert not model.label_emb.weight.any() and with_class_cond(grown, config) is grown
    assert with_class_cond(old, plain) is old


def test_extended_types_keep_what_the_others_are_told():
    config = make_config()
    state = random_weights(create_model(config)).state_dict()
    checkpoint = Checkpoint("old.pt", "sha", state, state, None, 4, config, None)
    wider = make_config(**{"data.label_map": {**MAP, "burn": 4}})
    grown = extend_types(checkpoint, wider, "new.yml").model[LABELS]
    assert torch.equal(grown[:4], state[LABELS]) and not grown[4].any() and len(grown) == 5


# --- what training draws ---------------------------------------------------------------------------------------------


def test_rates():
    assert make_config(**{"model.class_cond": False}).rates is None
    assert make_config().rates == (0, 1, 1, 1)
    assert make_config(**{"data.include_good": True}).rates == (1, 1, 1, 1)
    rates = {"data.type_rates": {"hole": 2.5, "good": 3}, "data.include_good": True}
    assert make_config(**rates, **{"model.class_cond": False}).rates == (3, 1, 2.5, 1)
    for changes, words in (
        ({"data.type_rates": {"hoel": 1}}, "did you mean 'hole'"),
        ({"data.type_rates": {"hole": -1}}, "0 or more"),
        ({"data.type_rates": {"crack": 0, "hole": 0, "dent": 0, "good": 1}}, "all are 0"),
        ({"data.type_rates": {"hole": "often"}}, "type_rates.hole: expected a number"),
        ({"train.class_drop": 1.5}, "train.class_drop"),
        ({"train.known_share": -0.1}, "train.known_share"),
    ):
        with pytest.raises(InputError, match=words):
            make_config(**changes)


def test_types_are_drawn_at_their_rates_and_crops_show_them():
    data, rng = some_set(), numpy_generator("test")
    indices, kinds = data.draw_by_type((1, 1, 1, 1), 4000, rng)
    counts = np.bincount(kinds)
    assert len(counts) == 4 and np.abs(counts / 1000 - 1).max() < 0.1  # 3.6 standard deviations
    for kind, own in ((0, range(12, 16)), (1, range(7)), (2, range(7, 11)), (3, [11])):
        assert set(indices[kinds == kind]) == set(own)
    _, kinds = data.draw_by_type((0, 3, 0, 1), 4000, rng)
    assert set(kinds) == {1, 3} and abs((kinds == 1).mean() - 0.75) < 0.03
    with pytest.raises(InputError, match="0 for all"):
        DefectDataset(data.images, [torch.zeros_like(mask) for mask in data.masks], data.names, (16, 16)).draw_by_type(
            (0, 1, 1, 1), 4, rng
        )


def test_crops_are_placed_around_the_type_that_was_drawn():
    data = some_set(count=1, good=0, size=64)
    data.masks[0][50:54, 50:54] = 3
    data.masks[0][2:6, 2:6] = 1
    for kind in (1, 3):
        masks = data.batch(np.zeros(40, int), numpy_generator("test", kind), kinds=[kind] * 40)[1]
        assert (masks == kind).any(dim=(1, 2)).all() and not (masks == 4 - kind).any()


def test_good_images_join_the_training(tmp_path):
    for folder, names in (("test/hole", "ab"), ("test/good", "cde"), ("converted_ground_truth/hole", "ab")):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            mask = folder.startswith("converted")
            array = np.full((16, 16), 1, np.uint8) if mask else np.full((16, 16, 3), 50, np.uint8)
            Image.fromarray(array).save(tmp_path / folder / f"{name}{'_mask' if mask else ''}.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"label_map": {"hole": 1}}))
    data = DefectDataset.load(str(tmp_path), 1, (16, 16), include_good=True, num_image_train=1)
    assert [name[-1] for name in data.names] == ["a", "c", "d", "e"] and not data.masks[1].any()
    assert data.num_good == 3 and not any("good/" in line for line in training_warnings(data, ("hole",)))
    for path in (tmp_path / "test/good").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no defect-free images"):
        DefectDataset.load(str(tmp_path), 1, (16, 16), include_good=True)


@pytest.mark.parametrize("background", [True, False])
def test_what_training_gives(background):
    layout = JointLayout(NAMES, background)
    masks = torch.zeros(3000, 20, 20, dtype=torch.uint8)
    masks[:, 9, 9] = 2
    x_start = layout.encode(torch.zeros(3000, 3, 20, 20, dtype=torch.uint8), masks)
    known = draw_known(x_start, layout, 0.6, torch.Generator().manual_seed(0))
    assert (known[:, 3:] == known[:, 3:4, :1, :1]).all()  # masks whole, or not at all
    masks_given, image_given = known[:, 3, 0, 0], known[:, 0].all(dim=(1, 2))
    part_given = masks_given & known[:, 0].any(dim=(1, 2))
    shares = [(masks_given & ~part_given).float().mean(), image_given.float().mean(), part_given.float().mean()]
    assert all(abs(share - 0.2) < 0.03 for share in shares) and not (image_given & masks_given).any()
    hole = (~known[part_given, 0]).sum(dim=(1, 2))
    side = round(hole[0].item() ** 0.5)  # one margin for a batch
    assert (hole == side**2).all() and side % 2 == 1 and not known[part_given, :3, 9, 9].any()


@pytest.mark.parametrize("separate", [False, True])
def test_of_what_is_given_nothing_is_asked(separate):
    config = make_config(**{"train.separate_channel_loss": separate, "train.mask_loss_weight": 0.5})
    diffusion, layout = create_diffusion(config), config.layout
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (4, 8, 8), generator=generator).to(torch.uint8)
    x_start = layout.encode(torch.randint(0, 256, (4, 3, 8, 8), generator=generator).to(torch.uint8), masks)
    noise, t = torch.randn(x_start.shape, generator=generator), torch.tensor([3, 300, 600, 900])
    output = torch.randn(x_start.shape, generator=generator)
    known = torch.zeros_like(x_start, dtype=torch.bool)
    known[0, 3:], known[1, :3], known[2, 3:], known[2, :3, :4] = True, True, True, True
    seen = []

    def model(x_t, t):
        seen.append(x_t)
        return output

    losses = diffusion.training_losses(model, x_start, t, noise, separate, known)
    x_t = diffusion.q_sample(x_start, t, noise)
    assert torch.equal(seen[0], torch.where(known, x_start, x_t))
    for row in range(4):
        squared = (output[row] - x_start[row]).square() * ~known[row]
        expected = squared.mean()
        if separate:
            entropy = -(x_start[row, 3:] * output[row, 3:].log_softmax(0)).sum(0)
            expected = squared[:3].mean() + 0.5 * (0 if known[row, 3, 0, 0] else entropy.mean())
        assert abs(losses["per_sample"][row] - expected) < 1e-5
    nothing = torch.zeros_like(known)
    free = diffusion.training_losses(model, x_start, t, noise, separate)
    assert torch.equal(diffusion.training_losses(model, x_start, t, noise, separate, nothing)["loss"], free["loss"])


def training(tmp_path, **changes):
    conditions = {
        "train.class_drop": 0.3,
        "train.known_share": 0.5,
        "data.include_good": True,
        "data.fit": "random_crop",
    }
    config = make_config(**{**conditions, "data.bs_per_gpu": 6, **changes})
    return TrainLoop(config, str(tmp_path), some_set(), None, CPU)


def test_a_resumed_conditional_training_goes_on_bit_for_bit(tmp_path):
    whole = training(tmp_path / "whole")
    for _ in range(4):
        whole.train_step()
    first = training(tmp_path / "parts")
    for _ in range(2):
        first.train_step()
    first.save()
    second = training(tmp_path / "parts")
    second.load(load_checkpoint(str(tmp_path / "parts" / "checkpoint" / "diffusion_000002.pt"), "--resume"))
    for _ in range(2):
        second.train_step()
    for a, b in zip(whole.ema.parameters(), second.ema.parameters(), strict=True):
        assert torch.equal(a, b)
    learned = whole.model.label_emb.weight.any(dim=1)
    assert learned[0] and learned.sum() >= 3  # not every type was drawn


def test_micro_batches_are_told_their_own_rows(tmp_path):
    loops = [training(tmp_path, **{"train.micro_batch": size, "model.dropout": 0.0}) for size in (0, 2)]
    for loop in loops:
        for _ in range(2):
            loop.train_step()
    for a, b in zip(*(loop.model.parameters() for loop in loops), strict=True):
        assert (a - b).abs().max() < 2e-4


def test_so_many_are_told_nothing(tmp_path):
    loop = training(tmp_path, **{"data.bs_per_gpu": 1})
    masks = torch.full((2000, 4, 4), 2, dtype=torch.uint8)
    x_start = loop.config.layout.encode(torch.zeros(2000, 3, 4, 4), masks)
    types, known = draw_conditions(loop.config, x_start, masks, (0, 0, 0))
    photograph = known[:, :3].flatten(1).all(dim=1)
    assert abs(types[~photograph, 0].mean() - 0.3) < 0.04 and abs(types[photograph, 0].mean() - 0.5) < 0.09
    assert (types.sum(dim=1) == 1).all() and not types[:, [1, 3]].any()
    assert abs(known.any(dim=(1, 2, 3)).float().mean() - 0.5) < 0.05


# --- generating ------------------------------------------------------------------------------------------------------


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


def test_defects_in_words():
    assert parse_defects("crack", NAMES) == ({1},)
    assert parse_defects(["hole, crack", "none"], NAMES) == ({1, 2}, frozenset())
    assert parse_defects("balanced", NAMES) == ({1}, {2}, {3})
    for defects, words in (("holle", "did you mean 'hole'"), (["crack", ""], "unknown type"), ([], "names no type")):
        with pytest.raises(InputError, match=words):
            parse_defects(defects, NAMES)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Work folders of a large network that can be told types and of two small ones, with and without."""
    folder = tmp_path_factory.mktemp("told")
    save_untrained(folder / "large", "large", **{"train.known_share": 0.3})
    save_untrained(folder / "small", "small")
    save_untrained(folder / "plain", "small", **{"model.class_cond": False})
    return folder


def load(pair, small="small"):
    return DefectGen.load(str(pair / "large"), str(pair / small), device="cpu", precision="fp32")


def watched(generator, monkeypatch):
    """What each network is told at each call: {"large": [types, ...], "small": [...]}."""
    seen = {"large": [], "small": []}
    for name in seen:
        forward = getattr(generator, name).forward

        def noting(x, t, types=None, name=name, forward=forward):
            seen[name].append(types)
            return forward(x, t) if types is None else forward(x, t, types)

        monkeypatch.setitem(getattr(generator, name).__dict__, "forward", noting)
    return seen


@pytest.mark.parametrize("small", ["small", "plain"])
def test_both_networks_are_told_if_they_can_be(pair, small, monkeypatch):
    generator = load(pair, small)
    seen = watched(generator, monkeypatch)
    generator.generate(5, num_steps=4, defects="balanced", batch_size=5)
    assert all(torch.equal(types, told([1], [2], [3], [1], [2])) for types in seen["large"]) and seen["large"]
    for types in seen["small"]:
        assert types is None if small == "plain" else torch.equal(types, told([1], [2], [3], [1], [2]))
    for types in seen.values():
        types.clear()
    generator.generate([4, 1], num_steps=4, defects=["crack,dent", "none"], batch_size=2, guidance_scale=2.0)
    for types in seen["large"]:
        assert torch.equal(types, torch.cat([told([1, 3], []), untold(told([1], []))]))
    assert all(types is None or len(types) == 4 for types in seen["small"])
    for types in seen.values():
        types.clear()
    masks = np.zeros((2, 16, 16), np.uint8)
    masks[0, 2:5, 2:5], masks[0, 9:, 9:] = 2, 3
    generator.generate(2, num_steps=4, masks=masks)
    generator.generate(2, num_steps=4)
    assert torch.equal(seen["large"][0], told([2, 3], [])) and torch.equal(seen["large"][-1], untold(told([], [])))


def test_what_is_given_reaches_a_network_without_noise_if_it_was_trained_so(pair, monkeypatch):
    generator = load(pair)
    inputs = {}
    for name in ("large", "small"):
        network = getattr(generator, name)

        def noting(x, t, types, name=name, forward=network.forward):
            inputs.setdefault(name, x.clone())
            return forward(x, t, types)

        monkeypatch.setitem(network.__dict__, "forward", noting)
    masks = np.zeros((1, 16, 16), np.uint8)
    masks[0, 4:9, 4:9] = 2
    images = np.full((1, 16, 16, 3), 80, np.uint8)
    batch = generator.generate(1, num_steps=4, masks=masks, backgrounds=images, margin=1)
    one_hot = generator.layout.encode(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks))
    assert torch.equal(inputs["large"][:, 3:], one_hot[:, 3:]) and torch.equal(
        inputs["large"][0, :3, 0], one_hot[0, :3, 0]
    )
    assert (inputs["large"][0, :3, 5, 5] - one_hot[0, :3, 5, 5]).abs().min() > 1e-3  # what is drawn is noise
    assert (inputs["small"][:, 3:] - one_hot[:, 3:]).abs().max() > 0.1  # this one was not
    assert np.array_equal(batch.masks, masks) and (batch.images[0, 0] == 80).all()


def test_bad_wishes_of_the_interface(pair, monkeypatch):
    generator = load(pair)
    masks = np.zeros((1, 16, 16), np.uint8)
    for arguments, words in (
        ({"defects": "holes"}, "did you mean 'hole'"),
        ({"defects": "hole", "masks": masks}, "the masks tell the types already"),
        ({"guidance_scale": 2.0}, "nothing to guide to"),
        ({"guidance_scale": float("nan"), "defects": "hole"}, "must be a number"),
    ):
        with pytest.raises(InputError, match=words):
            generator.generate(1, num_steps=4, **arguments)
    plain = DefectGen.load(None, str(pair / "plain"), device="cpu", precision="fp32")
    for arguments in ({"defects": "hole"}, {"guidance_scale": 2.0, "masks": masks}):
        with pytest.raises(InputError, match="without model.class_cond"):
            plain.generate(1, 1000, num_steps=4, **arguments)


def test_on_the_command_line(pair, run_script, tmp_path):
    def run(*flags, status=0, out="out", small="small"):
        networks = ("--large_recep", pair / "large", "--small_recep", pair / small, "--sample_dir", tmp_path / out)
        result = run_script("inference.py", *networks, "--num_steps", 4, "--precision", "fp32", *flags)
        assert result.returncode == status and "Traceback" not in result.stderr, result.stdout + result.stderr
        assert status == 0 or (result.stderr.count("\n") == 1 and not (tmp_path / "refused").exists())
        return result.stderr

    run("--defects", "balanced", "none", "--num_samples", 5, "--guidance_scale", 1.5, small="plain")
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").open()]
    assert [row["condition"]["types"] for row in rows] == [["crack"], ["hole"], ["dent"], [], ["crack"]]
    assert rows[0]["settings"]["defects"] == ["balanced", "none"] and rows[0]["settings"]["guidance_scale"] == 1.5
    python = load(pair, "plain").generate(2, num_steps=4, defects=["balanced", "none"], guidance_scale=1.5)
    first = np.array(Image.open(tmp_path / "out" / rows[0]["image"]))
    assert np.abs(first.astype(int) - python.images[0]).max() <= 1
    continued = run("--defects", "hole", "--num_samples", 6, status=2)
    assert "defects" in continued or "guidance_scale" in continued

    refused = {"status": 2, "out": "refused"}
    assert "did you mean 'crack'" in run("--defects", "carck", **refused)
    assert "nothing to guide to" in run("--guidance_scale", 2, **refused)
    assert "the masks tell the types already" in run("--defects", "hole", "--masks", tmp_path / "out", **refused)
    plain_only = ("--step_inference", 1000, "--large_recep", pair / "large")
    assert "without model.class_cond" in run("--guidance_scale", 2, *plain_only, small="plain", **refused)
    assert "was trained without train.known_share" in run("--annotate", tmp_path / "out" / "images", **refused)


def test_the_bank_draws_the_types_that_are_asked_for(pair, run_script, demo_data, tmp_path):
    from guided_diffusion.generation.conditions import find_conditions

    generator = SimpleNamespace(
        layout=JointLayout(("scratch", "stain", "pit")),
        config=load_config(
            tiny_config("large", **{"data.dir": str(demo_data), "data.label_map": {"scratch": 1, "stain": 2, "pit": 3}})
        ),
    )
    asked = dict(masks="bank", bank_data=None, types_per_image=1, background=None, margin=4, seed=0, num_samples=6)
    args = SimpleNamespace(**asked, defects=["pit", "scratch,stain"])
    conditions = find_conditions(args, generator, {"image_size": [32, 32]})
    assert [set(np.unique(mask)) - {0} for mask in conditions.masks] == [{3}, {1, 2}] * 3
    assert conditions.settings()["conditions"]["types_per_image"] == [[3], [1, 2]]
    args.types_per_image = 2
    with pytest.raises(InputError, match="give one of the two"):
        find_conditions(args, generator, {"image_size": [32, 32]})


def test_guided_samples_are_timed_and_compiled_as_they_run(pair, monkeypatch):
    generator, rows = load(pair, "plain"), []
    settings = generator.check_settings(400, 4, guidance_scale=2.0)  # with masks, which tell the types
    assert generator.expected_seconds(4, 2, settings) > 0
    monkeypatch.setattr(api, "try_compile", lambda model, run, device: rows.append(run(lambda *inputs: len(inputs[0]))))
    generator.compile(3, settings)
    assert rows == [6, 3]
