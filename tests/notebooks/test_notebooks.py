"""The notebooks run from top to bottom on a quickstart's directory, and are committed clean."""

import math
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from tests.synthetic_run import write_run

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.source


def test_reward_distributions_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", overoptimise=True)
    monkeypatch.setenv("RLHF_RUN", str(run))
    notebook = nbformat.read(NOTEBOOKS / "reward_distributions.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute()

    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [o.data["image/svg+xml"] for o in shown if "image/svg+xml" in o.get("data", {})]
    calls = sum(cell.source.count("plots.") for cell in notebook.cells)
    assert len(drawn) == calls == 9
    assert not [o for o in shown if o.output_type == "stream" and o.name == "stderr"]
    assert ">without KL penalty<" in drawn[-1]
    assert f">{_caught(run):.1%}<" in _table_with(shown, "share of responses below 0.15")


def _caught(run: Path) -> float:
    """Share of the rejected responses with σ(safety score) < 0.15 where only the chosen is safe."""
    scores = pd.read_parquet(run / "reward" / "scores.parquet")
    unsafe = scores[(scores["safety_label"] == "chosen_safe_only") & (scores["side"] == "rejected")]
    # σ(x) < 0.15  ⇔  x < log(0.15 / 0.85)
    return float((unsafe["safety_score"] < math.log(0.15 / 0.85)).mean())


def _table_with(shown: list[nbformat.NotebookNode], caption: str) -> str:
    tables = [o.data["text/html"] for o in shown if "text/html" in o.get("data", {})]
    (found,) = (re.sub(r"\s*\n\s*", "", text) for text in tables if caption in text)
    return found
