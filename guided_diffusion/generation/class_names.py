"""Which types the masks of a folder hold, and that several folders agree on them."""

from __future__ import annotations

from ..errors import InputError
from ..prepare.layouts import read_label_map
from .sample_io import recorded_settings


def class_names_of(folder: str) -> tuple[str, ...] | None:
    """The types of a data set or sample folder, by their index; None where neither manifest nor dataset.json tells."""
    names = recorded_settings(folder).get("class_names")
    if names:
        return tuple(names)
    label_map = read_label_map(folder)
    return label_map and tuple(sorted(label_map, key=label_map.get))


def common_class_names(folders: dict[str, str]) -> tuple[str, ...]:
    """The types that all these folders agree on, `folders` being {flag: folder}.

    Folders that do not tell are passed over. Raises InputError where two differ or none tells.
    """
    known = {flag: names for flag, folder in folders.items() if (names := class_names_of(folder))}
    if not known:
        flag, folder = next(iter(folders.items()))
        raise InputError(
            f"{flag} {folder}: no manifest.jsonl or dataset.json says which types its masks hold; add "
            'dataset.json with {"label_map": {"<type>": 1, ...}}'
        )
    first = next(iter(known))
    for flag, names in known.items():
        if names != known[first]:
            raise InputError(
                f"{flag} {folders[flag]}: its types are {', '.join(names)}, but those of {first} {folders[first]} are "
                f"{', '.join(known[first])}; use sets with the same label map"
            )
    return known[first]
