import pickle

from guided_diffusion.errors import InputError, unknown_name


def test_library_errors_name_parameters_and_command_lines_flags():
    error = InputError("`seed` -1: with `large` from a/large b.pt; must be 0 or more")
    assert str(error) == "seed -1: with large from a/large b.pt; must be 0 or more"
    expected = "--seed -1: with --large_recep from a/large b.pt; must be 0 or more"
    assert error.with_flags({"large": "--large_recep"}) == expected
    assert pickle.loads(pickle.dumps(error)).with_flags({"large": "--large_recep"}) == expected


def test_unknown_names_come_with_the_nearest_known_one():
    assert unknown_name("`sampler`", "dimm", ["ddim", "cold"]) == "unknown `sampler` 'dimm' (did you mean 'ddim'?)"
    assert unknown_name("type", "x", ["b", "a"]) == "unknown type 'x' (known: a, b)"
