"""Names: which can hardly be those of types, how they are changed, and what systems leave among them."""

import json
import os
import shutil

import numpy as np
import pytest
from drawn_formats import photograph, refusal, save

from guided_diffusion.cli.check import main as check_data
from guided_diffusion.cli.prepare import main
from guided_diffusion.data.prepared import find_good, find_samples, read_label_map
from guided_diffusion.errors import InputError
from guided_diffusion.prepare.layouts import Options, read_layout

SIZE = (20, 30)
MASK = np.zeros(SIZE, np.uint8)
MASK[5:9, 6:20] = 255


def type_folders(root, **types):
    """So many pairs in each type's folder, all of the same names."""
    for name, count in types.items():
        for k in range(count):
            save(root / name / f"{k}.jpg", photograph((len(name), k), SIZE))
            save(root / name / f"{k}.png", MASK)


def flat(root, *stems):
    for k, stem in enumerate(stems):
        save(root / f"{stem}.jpg", photograph(k, SIZE))
        save(root / f"{stem}.png", MASK)


def labelme(root, *labels):
    for k, label in enumerate(labels):
        save(root / f"{k}.jpg", photograph(k, SIZE))
        shape = {"label": label, "points": [[3, 3], [9, 3], [9, 9]]}
        save(root / f"{k}.json", {"shapes": [shape], "imagePath": f"{k}.jpg", "imageHeight": 20, "imageWidth": 30})


def folders(*names, count=2):
    return lambda root: type_folders(root, **dict.fromkeys(names, count))


def mvtec(*names):
    def draw(root):
        for name in names:
            save(root / f"test/{name}/0.png", photograph(len(name), SIZE))
            save(root / f"ground_truth/{name}/0_mask.png", MASK)

    return draw


DOUBTED = {  # what is drawn, and words of the line
    "one folder": (folders("dataset"), "holds one folder, which would be the only type; did you mean"),
    "parts": (folders("trainval", "Test_2", "val_a"), "'test_2', 'trainval', 'val_a' would|parts of a data|'*=defect'"),
    "parts in other words": (folders("traincrop", "valcrop", "my_train"), "'my_train', 'traincrop', 'valcrop' would"),
    "folds": (folders("fold1", "fold2"), "'fold1', 'fold2' would be types, but differ by numbers only"),
    "parts in few letters": (folders("tr", "va", "te"), "'te', 'tr', 'va' would be types, but are called like parts"),
    "one part": (folders("crack", "test_mark", "dev_1"), "set: 'dev_1' would be types, but are called like parts"),
    "good": (folders("crack", "OK"), "'ok' would be a type, but is called like what has no defect"),
    "objects": (folders("bottle", "pcb1"), "'bottle', 'pcb1'|objects of MVTec AD or VisA"),
    "numbered": (folders("piece01", "piece02"), "'piece01', 'piece02' would be types, but differ by numbers only"),
    "ids": (folders("0001", "0002"), "'0001', '0002' would be types, but differ by numbers"),
    "items": (folders("s0001", "s0002"), "'s0001', 's0002' would be types, but differ by numbers"),
    "dates": (lambda root: flat(root, *(f"2026-0{k % 2}-1{k}" for k in range(6))), "'00', '01' would|by numbers only"),
    "a folder for each": (folders("left", "right", "upper", count=1), "'left', 'right', 'upper' would be 3 types of 3"),
    "a name for each": (lambda root: flat(root, "ab12", "cd-4-f", "ab13", "xx"), "3 types of 4 images|py --type_regex"),
    "cameras": (
        lambda root: flat(root, *(f"{of}_{k}" for of in ("IMG", "DSC") for k in "123")),
        "'DSC', 'IMG' would|camera",
    ),
    "case": (lambda root: labelme(root, "crack", "Crack"), "'Crack', 'crack' differ by case|--rename Crack=crack m"),
    "signs": (folders("glue_strip", "glue-strip"), "'glue-strip', 'glue_strip' differ by"),
    "background": (lambda root: labelme(root, "crack", "Background"), "'Background' would be a type, but is called"),
}
PLAIN = {
    "classes": folders("class1", "class2", "class10"),
    "padded": folders("class01", "class02", "class10"),
    "codes": folders("D00", "D10", "D20"),
    "numbered defects": folders("scratch_1", "scratch_2", "scratch_3"),
    "numbers": folders("1", "2", "10"),
    "one is like a part": folders("fold", "te", "crack"),
    "labels": lambda root: labelme(root, *"abcd", "good", "train", "bottle", "kos1", "kos2"),
    "one shot": mvtec("rust1", "rust2", "rust3"),
}


@pytest.mark.parametrize("case", [*DOUBTED, *PLAIN])
def test_names_that_are_hardly_types_are_asked_about(tmp_path, capsys, case):
    source, out = tmp_path / "set", tmp_path / "out"
    draw, words = DOUBTED.get(case) or (PLAIN[case], "")
    draw(source)
    doubts = read_layout(str(source)).doubts
    assert bool(doubts) == (case in DOUBTED) and all(word in doubts[0] for word in words.split("|") if words)
    if doubts:
        assert "--types_as_found" in refusal(main, [str(source), str(out)]) and not out.exists()
        assert check_data([str(source), "--resolution", "32"]) == 0
        assert f"warning: {doubts[0]}" in capsys.readouterr().out
        types = ",".join(label_map := read_layout(str(source)).label_map)
        assert not read_layout(str(source), Options(label_map)).doubts  # who names them means them
        main([str(source), str(out), "--types_as_found"])
        assert read_label_map(str(out)) == {name: k for k, name in enumerate(types.split(","), 1)}


def test_rename_makes_types_one_and_keeps_parts_and_files_apart(tmp_path):
    type_folders(tmp_path / "parts", trainval=3, dev=2)
    main([str(tmp_path / "parts"), str(tmp_path / "out"), "--rename", "*=dent"])
    found = {part: [s.name for s in find_samples(str(tmp_path / "out" / part))] for part in ("dev", "trainval")}
    trainval = ["dent/2", "dent/trainval_0", "dent/trainval_1"]
    assert found == {"dev": ["dent/dev_0", "dent/dev_1"], "trainval": trainval}
    assert json.loads((tmp_path / "out/dev/dataset.json").read_text())["source"]["rename"] == {"*": "dent"}
    labelme(tmp_path / "case", "crack", "CRACK", "hole")
    data = read_layout(str(tmp_path / "case"), Options(rename={"CRACK": "crack"}))
    assert data.label_map == {"crack": 1, "hole": 2} and not data.doubts
    flat(tmp_path / "flat", "001", "a1b2", "c3d4")
    assert read_layout(str(tmp_path / "flat"), Options(rename={"*": "dent"})).label_map == {"dent": 1}
    for wrong, words in (("dent=crack", "unknown type 'dent'"), ("crack", "OLD=NEW"), ("crack=", "OLD=NEW")):
        with pytest.raises(InputError, match=words):
            main([str(tmp_path / "case"), str(tmp_path / "o"), "--rename", wrong])
    for name in ("a/b", "../evil", "..", "Good", "train"):  # which would be folders in the prepared set
        with pytest.raises(InputError, match="cannot be a type's folder"):
            main([str(tmp_path / "parts"), str(tmp_path / "o"), "--rename", f"*={name}", "--types_as_found"])
    type_folders(tmp_path / "nfd", **{"Stu\u0308ck": 1, "hole": 1})
    data = read_layout(str(tmp_path / "nfd"), Options(rename={"st\u00fcck": "part"}))
    assert data.label_map == {"hole": 1, "part": 2}


def test_spaces_and_accents_make_no_types_and_control_characters_none_at_all(tmp_path):
    labelme(tmp_path / "a", "Ri\u00df  quer", " Ri\u00df quer", "St\u00fcck", "Stu\u0308ck")
    data = read_layout(str(tmp_path / "a"))
    assert list(data.label_map) == ["Ri\u00df quer", "St\u00fcck"] and not data.doubts and "spaces" in data.notes[0]
    for home in ("mvtec/test", "index/images"):  # one side of a copy has accents apart
        save(tmp_path / home / "Stu\u0308ck/0.png", photograph(0, SIZE))
    save(tmp_path / "mvtec/ground_truth/St\u00fcck/0_mask.png", MASK)
    save(tmp_path / "index/masks/St\u00fcck/0.png", MASK)
    for name in ("mvtec", "index"):
        data = read_layout(str(tmp_path / name))
        assert list(data.label_map) == ["St\u00fcck"] and len(data.samples) == 1 and not data.problems
    labelme(tmp_path / "b", "cra\u200bck", "hole", "x" * 300)
    problem, other = read_layout(str(tmp_path / "b")).problems
    assert "b/0.json: 'cra\\u200bck' is no name of a type" in problem and "2.json" in other


def test_black_masks_in_a_folder_called_ok_are_of_defect_free_images(tmp_path):
    mvtec("dent", "OK")(tmp_path)
    save(tmp_path / "ground_truth/OK/0_mask.png", 0 * MASK)
    data = read_layout(str(tmp_path))
    assert data.label_map == {"dent": 1} and [one.name for one in data.good] == ["good/OK_0"] and not data.doubts


@pytest.mark.parametrize("name", [b"d\xe9faut", b"\xb5.png", b"\xc0\xaf"])
def test_names_that_are_not_utf8_are_one_line(tmp_path, name):
    type_folders(tmp_path / "set", crack=1, hole=1)
    os.makedirs(os.fsencode(tmp_path / "set/crack") + b"/" + name)
    for call, *arguments in ((main, "set", "out"), (check_data, "set")):
        line = refusal(call, [str(tmp_path / one) for one in arguments])
        assert line.isprintable() and ascii(name)[2:-1] in line
    source = os.fsdecode(os.fsencode(tmp_path / "x") + name)
    type_folders(tmp_path / "y", crack=1)
    for given in ([source, str(tmp_path / "out")], [str(tmp_path / "y"), source]):
        with pytest.raises(InputError, match="no name in UTF-8"):
            main(given)
    assert not (tmp_path / "out").exists() and not os.path.exists(source)


def test_photographs_without_a_mask_are_left_out_and_listed(tmp_path, capsys):
    root, out = tmp_path / "set", tmp_path / "out"
    mvtec("crack")(root)
    save(root / "test/crack/1.png", photograph(1, SIZE))
    save(root / "test/ok/0.png", photograph(2, SIZE))  # no masks: the name says that there is no defect
    with pytest.raises(InputError, match="test/crack/1.png: has no mask or label, or is not read .1 in all."):
        main([str(root), str(out), "--strict"])
    (root / "test/crack/1.png").rename(tmp_path / "1.png")
    save(root / "test/crack/more/2.png", photograph(3, SIZE))
    with pytest.raises(InputError, match="test/crack/more/2.png: has no mask"):
        main([str(root), str(out), "--strict"])
    shutil.rmtree(root / "test/crack/more")
    (tmp_path / "1.png").rename(root / "test/crack/1.png")
    assert not out.exists()
    main([str(root), str(out), "--keep_good"])
    told = f"left out: 1 photographs without a mask or label (--strict refuses them):\n  {root}/test/crack/1.png\n"
    assert told in capsys.readouterr().out
    assert [s.name for s in find_samples(str(out))] == ["crack/0"] and len(find_good(str(out))) == 1
    assert check_data([str(root), "--resolution", "20", "30"]) == 0
    assert f"warning: {root}/test/crack/1.png: has no mask" in capsys.readouterr().out
    (out / "converted_ground_truth/crack/0.png").unlink()  # but what training would refuse is an error
    assert check_data([str(out)]) == 1
    (root / "ground_truth/crack/0_mask.png").unlink()
    with pytest.raises(InputError, match="test/crack/0.png: has no mask or label, as none here has"):
        main([str(root), str(tmp_path / "none")])
