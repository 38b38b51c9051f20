"""report.html: its figures, its safety, and that it needs nothing but itself."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data.errors import DataError
from policy.evaluation.findings import read_findings
from policy.evaluation.report import render_report, write_report
from policy.evaluation.report_parts import figure
from rlhf import plots
from rlhf.cli.main import main
from tests.synthetic_run import HOSTILE, write_run

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A parsed page: every start tag, and the text inside each element by tag."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, int]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            texts = self.texts.setdefault(tag, [])
            texts.append("")
            self._open.append((tag, len(texts) - 1))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        for tag, index in self._open:
            self.texts[tag][index] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self) -> dict[str, list[str]]:
        """First cell of every table row → the other cells."""
        cells: list[list[str]] = []
        heads, data = iter(self.texts["th"]), iter(self.texts["td"])
        for tag, _ in self.tags:
            if tag == "tr":
                cells.append([])
            elif tag in ("th", "td"):
                cells[-1].append(next(heads if tag == "th" else data))
        return {row[0]: row[1:] for row in cells}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run", overoptimise=True)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A run of one's own to spoil."""
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture
def without_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without Vega, which takes two seconds to bundle."""
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda snippet: "")


def test_headline_tells_figures_and_expectations(run: Path, page: Page) -> None:
    samples = pd.read_parquet(run / "evaluation" / "samples.parquet")
    means = {}
    for policy in ("sft", "ppo"):
        own = samples[samples["policy"] == policy]
        means[policy] = own[own["kind"] != "unsafe"]["gold_helpfulness"].mean()
    lead = page.texts["p"][0]
    # 4 kinds of 12 prompts, one of them unsafe
    assert "36 held-out harmless prompts" in lead and "12 unsafe prompts" in lead
    assert f"from {means['sft']:.2f} to {means['ppo']:.2f}" in lead
    # 24 / (24 + 8); Wilson's interval, n = 32, z = 1.96: center (0.75 + 0.060023) / 1.120046
    # = 0.723205, half 1.96 √(0.1875 / 32 + 0.000938) / 1.120046 = 0.144223
    assert "won 24, tied 16 and lost 8 prompts" in lead and "75.0% [57.9%, 86.7%]" in lead
    assert "1 of 2 expectations are met:" in page.texts["p"]
    assert "Met. Violations fell to less than half." in page.texts["li"]
    assert "Not met. Recall in turn 6 is <40 %." in page.texts["li"]
    assert [item["class"] for item in page.all("li") if "class" in item] == ["met", "missed"]


def test_tables_hold_the_summary(run: Path, page: Page) -> None:
    summary = json.loads((run / "summary.json").read_text())
    rows = page.rows()
    policies = summary["policies"].values()
    assert rows["win / tie / loss against SFT"] == ["-", *["24 / 16 / 8"] * 3]
    # 12 / (12 + 12), Wilson: half 1.96 √(0.25 / 24 + 0.001667) / 1.160061 = 0.185701
    assert rows["win rate against the one before"] == ["-", *["50.0% [31.4%, 68.6%]"] * 3]
    assert rows["KL to SFT, nats per response"] == [f"{p['kl']:.2f}" for p in policies]
    assert rows["prompts"] == ["48"] * 4
    refused = [p["unnecessary_refusal_rate"]["by_kind"]["lookalike_verb"] for p in policies]
    shown = [float(cell.split("%")[0]) / 100 for cell in rows["… look-alikes: verb"]]
    assert shown == pytest.approx(refused, abs=0.0005)
    assert rows["with Ghost Attention"] == ["85.0%", "80.0%", "70.0%", "60.0%"]
    assert rows["pretrain"] == ["120.0", "21,500"]
    assert rows["tokenizer"] == ["2.0", "-"]
    assert rows["peak memory"] == ["3.20 GB"]
    assert rows["torch"] == ["2.13.0"]
    cell = summary["reward_accuracy"]["helpfulness"]["safety"]["better"]  # the later table stays
    assert rows["helpfulness model"][1] == (
        f"{100 * cell['accuracy']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
    )


def test_energy_is_told_with_what_it_rests_on(page: Page, run: Path) -> None:
    # 2 + 120 + 90.5 s on 2 cores: 0.118056 h × 5 W = 0.59 Wh; × 1.1 × 0.385 = 0.25 g
    assert page.rows()["all stages"] == ["-", "0.59", "0.25"]
    (told,) = [text for text in page.texts["p"] if "CO2eq" in text]
    assert "5 W per CPU core throughout, a power-usage effectiveness of 1.1 and 0.385 kg" in told
    summary = json.loads((run / "summary.json").read_text())
    del summary["energy"]  # as in runs that are older than the estimate
    assert '<h2 id="energy">' not in render_report(replace(read_findings(run), summary=summary))


def test_nothing_is_loaded_from_anywhere(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert "src" not in attributes and "srcset" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    (style,) = page.texts["style"]
    assert "url(" not in style and "@import" not in style
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy is not None and policy.startswith("default-src 'none';")  # also connect, font …
    assert "http" not in policy and "*" not in policy
    assert len(html.encode()) < 3_000_000


def test_text_is_escaped(page: Page) -> None:
    # the first prompt has the hostile answer under each of the three policies shown
    assert sum(text.startswith(HOSTILE) for text in page.texts["dd"]) == 3
    figures = len(page.all("figure"))
    assert len(page.all("script")) == figures + 2  # one spec each, Vega and the last few lines
    assert page.texts["title"] == ["RLHF quickstart, seed 0"]


def test_no_name_in_a_chart_ends_its_script() -> None:
    name = "</script><b>bold</b> <!-- "
    row = {"policy": name, "measure": "m", "value": 0.5, "low": 0.4, "high": 0.6}
    page = Page(figure(plots.policies_compared(pd.DataFrame([row]))))
    assert "b" not in page.texts
    (spec,) = page.texts["script"]
    (rows,) = json.loads(spec)["datasets"].values()
    assert rows == [row]
    assert page.texts["figcaption"][0].startswith(f"M: {name} 0.50")


def test_every_chart_has_words_and_a_specification(page: Page) -> None:
    specs = [
        json.loads(text)
        for text, attributes in zip(page.texts["script"], page.all("script"), strict=True)
        if attributes.get("type") == "application/json"
    ]
    # policies 2, PPO 4, reward models 8, best of N 1, recall 1, stages 1
    assert len(specs) == len(page.all("figure")) == len(page.texts["figcaption"]) == 17
    assert all(text.endswith(".") for text in page.texts["figcaption"])
    for spec in specs:
        assert spec["datasets"] and "title" not in spec
        assert spec["config"]["aria"] is False  # the caption speaks for the drawing


def test_structure_serves_keyboards_and_screen_readers(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) == len(page.all("section"))
    assert [f"#{name}" for name in ids] == [link["href"] for link in page.all("a")]
    assert len(page.all("table")) == len(page.all("caption")) == 7
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))


OPTIONAL = {
    "evaluation/samples.parquet": "Example dialogues",
    "rejection_sampling/best_of_n.json": "Selection among samples",
}


@pytest.mark.usefixtures("without_bundle")
@pytest.mark.parametrize(("name", "title"), OPTIONAL.items())
def test_a_missing_file_leaves_its_section_out(copy: Path, name: str, title: str) -> None:
    (copy / name).unlink()
    assert title not in Page(render_report(read_findings(copy))).texts["h2"]


@pytest.mark.usefixtures("without_bundle")
def test_summary_alone_is_enough(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    del summary["ghost_attention"]
    summary["policies"]["ppo"] |= {"win": 0, "loss": 0, "win_rate": None}
    summary["policies"]["ppo"] |= {"win_rate_low": None, "win_rate_high": None}
    for name in ("reward", "rejection_sampling", "evaluation", "ppo"):
        shutil.rmtree(copy / name)
    (copy / "summary.json").write_text(json.dumps(summary))
    page = Page(render_report(read_findings(copy)))
    last = ["Energy", "Time, settings and versions"]
    assert page.texts["h2"] == ["Policies", "Reward models", *last]
    assert "without ties, a win rate of -" in page.texts["p"][0]
    assert page.rows()["win rate without ties"][2] == "-"


@pytest.mark.usefixtures("without_bundle")
def test_the_alarms_of_ppo_are_told(copy: Path) -> None:
    path = copy / "ppo" / "alarms.json"
    path.write_text("[]")
    assert "raised no alarm" in render_report(read_findings(copy))
    alarm = {"name": "kl_high", "step": 4, "finding": "26 nats & more", "remedy": "raise kl_coef"}
    path.write_text(json.dumps([alarm]))
    rows = Page(render_report(read_findings(copy))).rows()
    assert rows["4"] == ["26 nats & more", "raise kl_coef"]


def test_recall_intervals_are_shown_where_known(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    summary["ghost_attention_intervals"] = {
        name: {turn: {"value": v, "low": v / 2, "high": 1.0} for turn, v in by_turn.items()}
        for name, by_turn in summary["ghost_attention"].items()
    }
    (copy / "summary.json").write_text(json.dumps(summary))
    recall = read_findings(copy).recall
    # with: turn 6, 0.6 / 2 = 0.3
    last = recall[(recall["training"] == "with Ghost Attention") & (recall["turn"] == 6)]
    assert last[["recall", "low", "high"]].to_numpy().tolist() == [[0.6, 0.3, 1.0]]


def _drop_column(run: Path) -> None:
    path = run / "evaluation" / "samples.parquet"
    pd.read_parquet(path).drop(columns="violation").to_parquet(path)


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no summary": (lambda run: (run / "summary.json").unlink(), "rlhf quickstart --out"),
    "torn summary": (lambda run: (run / "summary.json").write_text('{"seed": '), "is not JSON"),
    "old summary": (lambda run: (run / "summary.json").write_text("{}"), "lacks policies"),
    "not parquet": (lambda run: (run / "reward" / "scores.parquet").write_text("no"), "Parquet"),
    "other schema": (_drop_column, "lacks the columns violation"),
    "no directory": (shutil.rmtree, "summary.json"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_bad_input_is_one_line(
    copy: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], words: str
) -> None:
    (copy / "report.html").unlink()
    spoil(copy)
    with pytest.raises(DataError, match=words):
        read_findings(copy)
    assert main(["report", str(copy)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (copy / "report.html").exists()


@pytest.mark.usefixtures("without_bundle")
def test_command_writes_the_report(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "report.html").unlink()
    assert main(["report", str(copy)]) == 0
    assert (copy / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert f"wrote {copy / 'report.html'}" in capsys.readouterr().err


@pytest.mark.usefixtures("without_bundle")
def test_what_was_not_measured_is_a_dash(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    for figures in summary["policies"].values():  # as where no prompt is unsafe
        figures["violation_rate"] = None
        figures["num_by_kind"]["unsafe"] = 0
    (copy / "summary.json").write_text(json.dumps(summary))
    steps = copy / "evaluation" / "ppo_steps.parquet"
    pd.read_parquet(steps).assign(violation_rate=None).to_parquet(steps)
    found = read_findings(copy)
    assert set(found.policies["measure"]) == {"gold helpfulness", "unnecessary refusals"}
    assert found.ppo_steps is not None and found.ppo_steps["violation_rate"].isna().all()
    page = Page(render_report(found))
    assert page.rows()["violations on unsafe prompts"] == ["-"] * 4
    assert "violations on 0 unsafe prompts from - to -." in page.texts["p"][0]


@pytest.mark.browser
def test_a_browser_draws_every_chart_offline(run: Path, html: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium")
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom",
        (run / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    charts = html.count("<figure>")
    assert done.stdout.count("<svg ") >= charts  # the menus have icons of their own
    assert done.stdout.count('class="marks"') == charts
    assert "could not be drawn" not in done.stdout.split("<script>")[0]
    assert "<title>RLHF quickstart, seed 0</title>" in done.stdout
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
