"""A training that was killed at any moment and run again equals one that never stopped, bit for bit."""

import signal

import pytest
from conftest import tiny_config
from runs import QUICK, assert_equal, assert_same_training, before_replacing, interrupt, load_timeless, tree

from guided_diffusion.file_io import lock_folder

# Saves at steps 2, 4 and 6 and logs at 3 and 6, so that the means of a log line reach across a save. All that is random
# is on: order, flips, dropout, t, noise, what is told and known; and the learning rate changes from step to step.
CHANGES = {
    "data.resolution": 16,
    "diffusion.num_timestep": 4,  # so that a preview is cheap
    "model.class_cond": True,
    "optimizer.target": "Muon",
    "optimizer.cosine_decay": True,
    "optimizer.grad_clip": 1.0,
    "train.iterations": 6,
    "train.save_ckpt_interval": 2,
    "train.eval_interval": 3,
    "train.log_image_interval": 4,
    "train.max_images": 1,
    "train.keep_last": 1,
    "train.class_drop": 0.3,
    "train.known_share": 0.5,
}
POINTER_4 = "args[1].endswith('/latest') and os.path.exists(args[1][:-6] + 'diffusion_000004.pt')"
MOMENTS = {
    "between steps": interrupt("train_util.TrainLoop.train_step", "args[0].step == 3"),
    "weights updated, EMA not": interrupt("train_util.TrainLoop._update_ema", "args[0].step == 3"),
    "while the log is written": before_replacing("/progress.csv"),
    "before the rename": before_replacing("/diffusion_000004.pt"),
    "after the first rename, no pointer yet": before_replacing("/diffusion_000002.pt", before=False),
    "after the rename, before the pointer": before_replacing("/diffusion_000004.pt", before=False),
    "after the pointer": interrupt("os.replace", POINTER_4, before=False),
    "after the old one is dropped": interrupt("blobfile.remove", "args[0].endswith('.pt')", before=False),
}

EARLY = ("after the first rename, no pointer yet",)  # then the checkpoint may be passed over
NOT_ANEW = interrupt("train_util.TrainLoop.train_step", "args[0].step < 2")  # from step 0 it would come out the same


@pytest.fixture(scope="module")
def training(train):
    """training(work_dir, *flags, prelude="", status=0) -> what train.py printed, with one configuration."""

    def run(work_dir, *flags, prelude="", status=0):
        return train(tiny_config("large", **CHANGES), work_dir, *flags, prelude=QUICK + prelude, status=status)

    return run


@pytest.fixture(scope="module")
def uninterrupted(training, tmp_path_factory):
    work = tmp_path_factory.mktemp("uninterrupted") / "work"
    training(work)
    return work


@pytest.mark.parametrize(
    "moments", [*((moment,) for moment in MOMENTS), ("between steps", "before the rename", "after the pointer")]
)
def test_killed_and_resumed_equals_uninterrupted(moments, training, uninterrupted, tmp_path):
    for moment in moments:
        training(tmp_path, prelude=MOMENTS[moment], status=-signal.SIGKILL)
    training(tmp_path, prelude="" if moments[0] in EARLY else NOT_ANEW)
    assert_same_training(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("number", "target", "condition", "step"),
    [
        (signal.SIGTERM, "train_util.TrainLoop._update_ema", "args[0].step == 3", 3),
        (signal.SIGHUP, "train_util.TrainLoop._update_ema", "args[0].step == 3", 3),
        (signal.SIGTERM, "os.replace", "args[1].endswith('/diffusion_000004.pt')", 4),  # while it is saved
        (signal.SIGTERM, "signal.signal", "args[0] == signal.SIGTERM and callable(args[1])", 0),  # before the first
    ],
)
def test_a_signal_ends_the_step_and_saves(number, target, condition, step, training, uninterrupted, tmp_path):
    prelude = interrupt(target, condition, before=step > 0, action=f"os.kill(os.getpid(), {int(number)})")
    printed = training(tmp_path, prelude=prelude, status=128 + number)
    if step:
        assert f"stopped after step {step}, saved" in printed and "same command goes on" in printed
        assert (tmp_path / "checkpoint" / "latest").read_text() == f"diffusion_{step:06}.pt"
    else:
        assert "stopped before a step was made, nothing saved" in printed and tree(tmp_path) == {}
    resumed = training(tmp_path, prelude=NOT_ANEW if step else "")
    assert not step or f"step {step}" in resumed
    assert_same_training(tmp_path, uninterrupted)


def test_under_nohup_a_training_outlives_its_terminal(training, uninterrupted, tmp_path):
    kill = interrupt("train_util.TrainLoop.train_step", action="os.kill(os.getpid(), signal.SIGHUP)")
    training(tmp_path, prelude="import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + kill)
    assert_same_training(tmp_path, uninterrupted)


def test_a_second_training_in_the_folder_is_refused(training, tmp_path):
    with lock_folder(str(tmp_path), "-"):
        before = tree(tmp_path)
        training(tmp_path, status=2)
        assert tree(tmp_path) == before
    training(tmp_path, "--set", "train.iterations=1")
    assert not (tmp_path / ".lock").exists()


def test_a_chosen_checkpoint_resumes_elsewhere(training, uninterrupted, tmp_path):
    training(tmp_path / "work", "--set", "train.keep_last=0")
    chosen = tmp_path / "work" / "checkpoint" / "diffusion_000002.pt"
    training(tmp_path / "other", "--resume", chosen, prelude=NOT_ANEW)
    works = (tmp_path / "other", uninterrupted)
    ours, theirs = (load_timeless(work / "checkpoint" / "diffusion_000006.pt") for work in works)
    assert_equal(ours, theirs)
    assert ours["model"]["label_emb.weight"].any(dim=1).sum() >= 3  # what is told was learned
