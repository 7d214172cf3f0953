"""guided_diffusion.train: the command line's training, from Python."""

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from runs import assert_same_training

from guided_diffusion import InputError, load_config, train
from guided_diffusion.training.train_util import TrainLoop


def test_it_is_the_training_of_the_command_line_and_goes_on(trained_pair, demo_data, tmp_path, capsys, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as tests run the command line
    try:
        assert train(tiny_config("large"), demo_data, tmp_path / "a", iterations=4, device="cpu") == str(tmp_path / "a")
        assert_same_training(tmp_path / "a", trained_pair.large)
        config = load_config(tiny_config("small"), num_defect=3)  # it names the types defect_1, ...
        labels = {"data.label_map": {"scratch": 1, "stain": 2, "pit": 3}, "model.class_cond": True}
        with monkeypatch.context() as patch:  # as after Ctrl-C
            patch.setattr(TrainLoop, "run", lambda loop: loop.train_step() or loop.save() or 130)
            with pytest.raises(KeyboardInterrupt):
                train(config, str(demo_data), str(tmp_path / "b"), device="cpu", **labels)
        train(config, str(demo_data), str(tmp_path / "b"), device="cpu", lr=0.002, **labels)
        assert "going on from" in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
    config = load_config(str(tmp_path / "b" / "config.yml"))
    assert config.optimizer.lr == 0.002
    masks = [np.asarray(Image.open(path)) for path in (demo_data / "converted_ground_truth").rglob("*.png")]
    shown = [tuple(name for name, k in config.data.label_map.items() if (mask == k).any()) for mask in masks]
    assert sorted(config.data.types_seen) == sorted(shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iteration": 5}, r"^unknown key 'iteration' \(did you mean 'iterations'\?\)"),
        ({"target": "x"}, r"^unknown key 'target' \(known: diffusion.target, model.target, optimizer.target\)"),
        ({"iterations": "five"}, "^train.iterations: expected a whole number, got 'five'"),
        ({"data": None}, "^data: missing; name the training set"),
        ({"device": "tpu"}, "^device tpu: unknown device"),
        ({"init": "work/large"}, "^init work/large: lies in work_dir, whose training would go on"),
        ({"resume": "nothing.pt"}, r"^resume nothing\.pt: no such checkpoint file"),
    ],
)
def test_errors_name_parameters(arguments, message, demo_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"config": tiny_config("large", **{"data.label_map": {"pit": 1}}), "data": demo_data, "work_dir": "work"}
    with pytest.raises(InputError, match=message):
        train(**{**given, "label_map": {"scratch": 1, "stain": 2, "pit": 3}, "device": "cpu", **arguments})
    assert not list(tmp_path.iterdir())
