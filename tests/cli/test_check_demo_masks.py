"""The colour check: full agreement for the drawn data, none for masks of other images."""

import numpy as np
import pytest


@pytest.fixture
def scripts(monkeypatch, repo):
    monkeypatch.syspath_prepend(str(repo / "scripts"))
    import check_demo_masks
    import draw_demo_data

    return check_demo_masks, draw_demo_data


def test_drawn_masks_agree_and_shuffled_ones_do_not(scripts):
    check, demo = scripts
    pairs = [demo.draw(i, 64, seed=0) for i in range(12)]
    shuffled = [(image, pairs[(i + 5) % 12][1]) for i, (image, _) in enumerate(pairs)]
    good, bad = check.mask_agreement(pairs), check.mask_agreement(shuffled)
    assert set(good) == {"scratch", "stain", "pit"}
    assert min(min(row[1:]) for row in good.values()) > 0.9
    assert max(max(row[1:]) for row in bad.values()) < 0.25


def test_a_missing_type_counts_as_no_agreement(scripts):
    check, demo = scripts
    image, mask = demo.draw(0, 64, seed=0)
    rows = check.mask_agreement([(image, np.zeros_like(mask))])
    assert all(row[1:] == (0.0, 0.0) for row in rows.values())
