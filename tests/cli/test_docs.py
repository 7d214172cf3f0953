"""The pages in docs/ stay true: snippets load, flags exist, links and paths lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import ROOT, plain_environment

from guided_diffusion import load_config
from guided_diffusion.config_file import parse_override
from guided_diffusion.data.records import check_label_map

PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"]
CONFIGS = sorted(ROOT.glob("configs/*.yml"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def snippets(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(yaml|json)\n(.*?)^```", page.read_text(), re.S | re.M)


def set_examples(page: Path) -> dict[str, object]:
    text = re.sub(r"^# *", "", page.read_text(), flags=re.M) if page.suffix == ".yml" else page.read_text()
    examples = ["".join(found) for found in re.findall(r'--set\s+(?:"([^"]+)"|([^\s`"]+))', text)]
    return dict(parse_override(text) for text in examples if re.match(r"[a-z]+\.\w+=\w*[^.]", text))


def test_there_is_something_to_try() -> None:
    assert sum(len(snippets(page)) for page in PAGES) >= 3
    assert sum(len(set_examples(page)) for page in [*PAGES, *CONFIGS]) >= 40


@every_page
def test_snippets_load(page: Path) -> None:
    for language, text in snippets(page):
        snippet = yaml.safe_load(text)
        if language == "json":
            check_label_map(snippet["label_map"], page.name)
        elif "target" in snippet.get("model", {}):
            load_config(snippet)
        else:  # a fragment, to be put into a file
            overrides = {f"{section}.{key}": value for section, keys in snippet.items() for key, value in keys.items()}
            load_config(ROOT / "configs/large_recep.yml", 3, overrides)


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=lambda page: page.name)
def test_set_examples_load(page: Path) -> None:
    base = page if page.suffix == ".yml" else ROOT / "configs/large_recep.yml"
    load_config(base, None if "label_map:" in base.read_text() else 3, set_examples(page))


@every_page
def test_flags_are_those_of_the_commands(page: Path, run_script) -> None:
    text = page.read_text().replace("\\\n", " ")
    commands = re.findall(r"python scripts/(\w+\.py)((?: (?:quality|lift|compare|report)\b)?)([^\n`|]*)", text)
    for script, subcommand, rest in commands:
        flags = set(re.findall(r"(?<=\s)--\w+", rest.split("#")[0]))
        if flags:
            shown = run_script(script, *subcommand.split(), "--help").stdout
            assert flags <= set(re.findall(r"--\w+", shown)), f"{script}{subcommand}"


@every_page
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    named = r"(?<![\w./$-])((?:guided_diffusion|scripts|configs|docs|tests)/[\w./-]*\.\w+|\w+\.sh)\b"
    for path in re.findall(named, text):
        assert (ROOT / path).exists() or (ROOT / "scripts" / path).exists(), path
    assert not re.findall(r"!\[\s*\]|<img", text), "a picture without a text for those who cannot see it"
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


def test_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed (requirements-dev.txt)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "mkdocs.yml", "-d", tmp_path]
    quiet = plain_environment() | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    told = [line for line in done.stderr.splitlines() if not line.startswith("INFO ")]
    assert (done.returncode, told) == (0, [])
    pages = [*tmp_path.glob("*/index.html"), tmp_path / "index.html"]
    assert len(pages) == len([*ROOT.glob("docs/*.md")])
    for page in pages:  # all that a browser loads is of the site
        assert not re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="?https?:', page.read_text()), page


def test_the_first_hour(tmp_path: Path) -> None:
    """docs/first_hour.ipynb runs from top to bottom, tiny, and shows pictures."""
    nbformat, nbclient, _ = (
        pytest.importorskip(name, reason=f"{name} is not installed (requirements-dev.txt)")
        for name in ("nbformat", "nbclient", "ipykernel")
    )
    notebook = nbformat.read(ROOT / "docs" / "first_hour.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)  # none are kept
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "docs")}})
    client.execute(env=plain_environment() | {"FIRST_HOUR_TEST": str(tmp_path)})
    shown = [output.data for cell in cells for output in cell.outputs if output.output_type == "execute_result"]
    assert sum("image/png" in data for data in shown) == 5
    text = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    for told in ("label map: scratch 1, stain 2, pit 3", "# Quality of the samples", "# What the samples add"):
        assert told in text
    assert "### Deep" in (tmp_path / "pair" / "README.md").read_text()
    assert len(list((tmp_path / "samples" / "images").iterdir())) == 36
