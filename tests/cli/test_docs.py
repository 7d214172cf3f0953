"""The pages in docs/ stay true: keys, flags, variables, defaults, snippets, paths and quoted lines are the code's."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import ROOT

from guided_diffusion import load_config
from guided_diffusion.config import SECTIONS
from guided_diffusion.config_file import parse_override
from guided_diffusion.generation.sample_io import SampleFolder
from guided_diffusion.prepare.layouts import check_label_map

PAGES = sorted(ROOT.glob("docs/*.md")) + [page for page in [ROOT / "README.md"] if page.exists()]
CONFIGS = sorted(ROOT.glob("configs/*.yml"))
REFERENCE = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("configuration", "evaluation"))
SOURCES = sorted([*ROOT.glob("guided_diffusion/**/*.py"), *ROOT.glob("scripts/*.py")])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def section(heading: str) -> str:
    """The text of the reference pages below a heading, down to the next."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", REFERENCE, re.S | re.M)
    assert found, f"no heading {heading!r}"
    return found[1]


def table(text: str) -> dict[str, list[str]]:
    """Rows of the tables in `text` whose first cell holds code, by that code: the other cells."""
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`")}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def check_default(cell: str, default: Any) -> None:
    """A "Default" cell against the default itself."""
    words = {"none": None, "off": False}
    shown = words[cell] if cell in words else yaml.safe_load(cell.strip("`"))
    assert shown == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_is_there_with_its_default(name: str) -> None:
    rows = table(section(name))
    rows.pop("target", None)  # of the file, not of the dataclass: see test_targets
    fields = {field.name: field.default for field in dataclasses.fields(SECTIONS[name]) if field.name != "patch"}
    assert set(rows) == set(fields)
    for key, default in fields.items():
        if rows[key][1] == "derived":
            assert default in (None, 0, ())
        else:
            check_default(rows[key][1], default)


def test_targets_and_choices_are_named() -> None:
    for name, text in (("diffusion", "schedule"), ("data", "flip"), ("train", "loss_weight"), ("model", "target")):
        for choice in re.findall(r"`([a-z_.A-Z]+)`", table(section(name))[text][-1]):
            if choice.startswith("models."):
                load_config({"model": {"target": choice}}, num_defect=1)
            else:
                load_config(ROOT / "configs/large_recep.yml", 1, {f"{name}.{text}": choice})


class Captured(Exception):
    """Carries the parser of a script out of its main()."""


@pytest.mark.parametrize("script", ["train_large.sh", "train_small.sh", "inference.sh", "scripts/launch.sh"])
def test_every_variable_is_there_with_its_default(script: str) -> None:
    text = section("The shell scripts")
    part = {"t": "`train_large.sh` and", "i": "`inference.sh`:", "s": "All three:"}[script[0]]
    own = table(re.search(rf"^{part}.*?\n\n((?:\|.*\n)+)", text, re.M)[1])
    rows = table(text) | own
    variables = dict(re.findall(r'^\s*: "\$\{(\w+):=(.*?)\}"', (ROOT / script).read_text(), re.M))
    assert set(own) - {"PYTHON"} == set(variables) - ({"GPUS"} if "launch" not in script else set())
    for name, default in variables.items():
        if default.startswith("$threads"):
            assert rows[name][0] == "derived"
        else:
            shown = default.replace("$ROOT/", "")
            assert f"`{shown}`" in rows[name][0] if shown else rows[name][0] in ("none", "not passed")


@every_page
def test_yaml_snippets_load(page: Path) -> None:
    for text in blocks(page, "yaml"):
        snippet = yaml.safe_load(text)
        if "target" in snippet.get("model", {}):
            load_config(snippet)
            continue
        # a fragment, to be put into a file
        keys = {section: {**values, **values.get("params", {})} for section, values in snippet.items()}
        overrides = {f"{s}.{key}": value for s, values in keys.items() for key, value in values.items()}
        overrides = {key: value for key, value in overrides.items() if not key.endswith(".params")}
        num_defect = None if "data.label_map" in overrides else 3
        load_config(ROOT / "configs/large_recep.yml", num_defect, overrides)


@every_page
def test_json_snippets_hold_label_maps(page: Path) -> None:
    for text in blocks(page, "json"):
        check_label_map(json.loads(text)["label_map"], page.name)


def overrides_in(text: str) -> dict[str, Any]:
    """Every `--set section.key=value` in a text, but those that only show the form."""
    found = re.findall(r'--set\s+(?:"([^"]+)"|([^\s`"]+))', text)
    examples = [quoted or plain for quoted, plain in found]
    examples = [example for example in examples if re.match(r"(?!section\.)[a-z]+\.\w+=(?!\.\.\.)", example)]
    return dict(map(parse_override, examples))


@every_page
def test_set_examples_load(page: Path) -> None:
    def loads(config: Path, key: str, value: Any) -> bool:
        try:
            load_config(config, None if key == "data.label_map" else 3, {key: value})
        except ValueError:
            return False
        return True

    for key, value in overrides_in(page.read_text()).items():
        assert any(loads(ROOT / f"configs/{size}_recep.yml", key, value) for size in ("large", "small")), key


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_set_examples_in_a_configuration_load_with_it(config: Path) -> None:
    text = config.read_text()
    overrides = overrides_in(re.sub(r"^# *", "", text, flags=re.M))
    load_config(config, None if "label_map:" in text else 3, overrides)


@every_page
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(
        r"(?<![\w./$-])((?:guided_diffusion|scripts|configs|docs|tests)/[\w./-]*\.\w+|\w+\.sh)\b", text
    ):
        assert (ROOT / path).exists() or (ROOT / "scripts" / path).exists(), path
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


def lines_of_the_program() -> list[re.Pattern]:
    """A pattern for every text in the sources that says enough to be told from others."""
    patterns = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            values = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [v.value if isinstance(v, ast.Constant) and isinstance(v.value, str) else None for v in values]
            if sum(len(text or "") for text in texts) >= 12:
                patterns.append("".join(".+" if text is None else re.escape(text) for text in texts))
    for text in re.findall(r'fail "(.*)"', (ROOT / "scripts/launch.sh").read_text()):
        patterns.append(re.sub(r"\\\$\w+", ".+", re.escape(text)))
    return [re.compile(r"(\S+: )?" + pattern) for pattern in patterns]


@every_page
def test_quoted_lines_are_the_programs_own(page: Path) -> None:
    patterns = lines_of_the_program()
    for text in blocks(page, ""):
        for line in re.findall(r"^(?:error|warning|complete): .*$", text, re.M):
            line = line.removeprefix("error: ")
            assert any(pattern.fullmatch(line) for pattern in patterns), line


def test_the_manifests_fields_are_there(tmp_path: Path) -> None:
    folder = SampleFolder(str(tmp_path), ["pit"], {"seed": 0})
    folder.add([0], np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4), np.uint8))
    fields = set(json.loads((tmp_path / "manifest.jsonl").read_text()))
    text = section("The sample folder")
    assert fields == set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", text.split("Field")[-1], re.M))))
    for path in tmp_path.rglob("*"):
        name = path.relative_to(tmp_path).parts[0]
        assert name in text
