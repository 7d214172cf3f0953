"""docs/first_hour.ipynb runs from top to bottom, tiny, and shows pictures."""

import pytest
from command_line import ROOT, plain_environment

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed (requirements-dev.txt)")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (requirements-dev.txt)")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (requirements-dev.txt)")


def test_the_first_hour(tmp_path):
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
