"""The first look at all samples of a data set, which finds what is wrong before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ..data.index_masks import DrawingRule
from ..errors import InputError
from ..parallel import parallel_map
from .layouts import Sample, TypeMasks
from .layouts.mask_values import MAX_PLAUSIBLE_INDEX
from .survey import Facts, facts_of


def survey(
    samples: Sequence[Sample], label_map: Mapping[str, int] | None, rule: DrawingRule, *, workers: int
) -> tuple[list[Facts], dict[str, int]]:
    """Read every sample once: their facts, and the label map, made up where the data set does not name its types.

    Raises InputError where anything is wrong, so that it shows before anything is written.
    """
    num_defect = len(label_map) if label_map else MAX_PLAUSIBLE_INDEX
    look = partial(facts_of, num_defect=num_defect, rule=rule)
    facts = list(parallel_map(look, samples, workers=workers, description="checking"))
    problems = [fact.problem for fact in facts if fact.problem]
    if problems:
        more = f" ({len(problems) - 1} more: scripts/check_data.py lists them)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    check_not_all_empty(samples, facts, rule.mask_threshold)
    return facts, dict(label_map) if label_map else label_map_of_values(samples, facts)


def label_map_of_values(samples: Sequence[Sample], facts: Sequence[Facts]) -> dict[str, int]:
    """Names for the indices that occur, where nobody gives any. Raises InputError where they are not 1..N."""
    first: dict[int, Sample] = {}
    for sample, fact in zip(samples, facts, strict=True):
        for index in fact.types or ():
            first.setdefault(index, sample)
    for index in sorted(first):
        if index > 1 and index - 1 not in first:
            raise InputError(
                f"{first[index].mask.path}: holds value {index}, but no mask holds {index - 1}: a stray value, or a "
                "type that does not occur? Correct it, or name all types with --label_map"
            )
    return {f"defect_{index}": index for index in sorted(first)}


def check_not_all_empty(samples: Sequence[Sample], facts: Sequence[Facts], threshold: int) -> None:
    """Raise InputError where all masks of a type folder, or of the whole set, are empty."""
    by_folder: dict[str | None, list[tuple[Sample, Facts]]] = {}
    for sample, fact in zip(samples, facts, strict=True):
        if sample.mask is not None:
            by_folder.setdefault(sample.folder, []).append((sample, fact))
    for folder, found in by_folder.items():
        if not any(fact.types for _, fact in found):
            sample = found[0][0]
            what = f"all masks of {folder}" if folder else "all masks here"
            if not isinstance(sample.mask, TypeMasks):
                raise InputError(f"{sample.mask.path}: is empty, like {what}; check them")
            raise InputError(
                f"{sample.mask.path}: like {what}, is nowhere above --mask_threshold {threshold}; 0/1 masks need "
                "--mask_threshold 0"
            )
