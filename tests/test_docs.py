"""README.md and docs/ say what is: their commands parse, their links and file names exist.

To add a kind of shell line that these tests do not know, teach `check_line` to check it.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from data.schemas import Comparison, Demonstration, Judgement, Prompt, Rating, Vote, arrow_schema
from data.simulation.publish import WorldSize
from policy.ghost_attention import GhostAttentionConfig
from policy.ppo import PpoConfig
from policy.pretrain import PretrainConfig
from policy.rejection_sampling import RejectionSamplingConfig
from policy.sft import SftConfig
from reward.mixture import Mixture
from reward.train import RewardConfig
from rlhf.cli.main import COMMANDS, main
from tests.command_lines import assert_understood

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

METRIC_PAGES = (
    "sft", "reward", "rejection_sampling", "ppo", "rounds", "ghost_attention", "evaluation",
)  # fmt: skip
CONFIGS = [
    PretrainConfig, SftConfig, RewardConfig, Mixture, RejectionSamplingConfig, PpoConfig,
    GhostAttentionConfig, WorldSize,
]  # fmt: skip
LONGEST_FIRST = sorted(COMMANDS, key=len, reverse=True)

# Programs that are not ours. How to call them is their authors' business.
FOREIGN = (
    "cd",
    "export",
    "git clone",
    "sudo apt-get",
    "pip install",
    "ray start",
    "ray stop",
    ". .venv/bin/activate",
    "tensorboard --logdir",
)

_FENCE = re.compile(r"^```(?:sh|bash|shell|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(
    r"`((?:data|rlhf|reward|policy|annotation_app|configs|tests|benchmarks|notebooks|docs)"
    r"/[\w./-]*\w\.(?:py|yaml|ipynb|md))`"
)
_METRIC = re.compile(r"^\| `([a-z_]+(?:/[a-z_]+)*)` \|", re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """One shell line of a page."""

    page: Path
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text}"


def shell_lines() -> Iterator[Line]:
    for page in PAGES:
        for block in _FENCE.findall(page.read_text(encoding="utf-8")):
            for text in block.replace("\\\n", " ").splitlines():
                if text.strip() and not text.lstrip().startswith("#"):
                    yield Line(page, " ".join(text.split()))


def check_line(line: str) -> None:
    """Nothing, for a line that would be understood.

    Raises:
        AssertionError: it would not, or nobody knows how to check it.
    """
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    text = " ".join(words)
    match words:
        case ["rlhf", *rest]:
            check_command(rest)
        case ["make", *rest]:
            unknown = {word for word in rest if "=" not in word} - TARGETS
            assert not unknown, f"the Makefile has no target {unknown}"
        case ["ray", "job", "submit", *_]:
            assert "--" in words, "`ray job submit` needs `--` before the command"
            check_line(shlex.join(words[words.index("--") + 1 :]))
        case _:
            assert text.startswith(FOREIGN), (
                f"nobody checks {text!r}; write it with rlhf or make, or teach tests/test_docs.py"
            )


def check_command(words: list[str]) -> None:
    """The real parser with the real configs, missing keys and ranges included.

    Files that the command would read need not be there.
    """
    name = next((n for n in LONGEST_FIRST if words[: len(n.split())] == n.split()), None)
    if name is None or "--help" in words:
        assert {"--help", "-h"} & set(words), f"rlhf has no such command: {words}"
        try:
            assert main(words) == 0
        except SystemExit as stopped:
            assert stopped.code == 0
        return
    words = [word for word in words if word != "--print_config"]
    assert_understood(name, words[len(name.split()) :])


@pytest.mark.parametrize("line", list(shell_lines()), ids=str)
def test_shell_lines_are_understood(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where --config configs/... is found
    check_line(line.text)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("rlhf sft --modle x", "unknown key"),
        ("rlhf sft --model x", "missing"),
        ("rlhf sft --config configs/tiny/none.yaml --model x --data y", "none.yaml"),
        ("rlhf quickstart --workers 0", "must be 1 or more"),
        ("rlhf slft", "no such command"),
        ("make everything", "no target"),
        ("ray job submit -- rlhf sft --data x", "missing"),
        ("frobnicate --all", "nobody checks"),
    ],
)
def test_a_wrong_line_is_found(line: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, ValueError), match=reason):
        check_line(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_file_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = [name for name in _FILE.findall(text) if not (ROOT / name).exists()]
    for link in _LINK.findall(text):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_page_is_reached() -> None:
    overview = ROOT / "docs" / "architecture.md"
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in (ROOT / "README.md", overview)
        for link in _LINK.findall(page.read_text(encoding="utf-8"))
    }
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert [str(p.relative_to(ROOT)) for p in pages if p != overview and p not in linked] == []


@pytest.mark.parametrize("config_type", CONFIGS, ids=lambda config_type: config_type.__name__)
def test_documented_defaults_are_those_of_the_code(config_type: type[Any]) -> None:
    """Tables `field | … | default` below a heading with the name of a config."""
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    table = pages.split(f"### {config_type.__name__}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (\S+) \|$", table, re.MULTILINE)
    assert rows
    for field, shown in rows:
        value = attrgetter(field)(config_type())
        assert type(value)(shown) == value, field


@pytest.mark.parametrize("row_type", [Comparison, Demonstration, Prompt, Rating, Vote, Judgement])
def test_every_column_is_described(row_type: type[Any]) -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    part = text.split(f"## {row_type.__name__}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == arrow_schema(row_type).names


def test_every_command_is_mentioned() -> None:
    text = " ".join("".join(page.read_text(encoding="utf-8") for page in PAGES).split())
    assert [name for name in COMMANDS if f"rlhf {name}" not in text] == []


def test_documented_metrics_and_keys_exist() -> None:
    """First cells of tables in the pages on algorithms and evaluation are names in the code."""
    known = names_in_the_code()
    for page in METRIC_PAGES:
        found = _METRIC.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
        assert [name for name in found if name not in known] == [], page


def names_in_the_code() -> set[str]:
    """String literals, fields and keyword arguments of the packages."""
    known = set()
    for package in ("data", "rlhf", "reward", "policy"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Constant(value=str(text)):
                        known.add(text)
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        known.add(name)
                    case ast.keyword(arg=str(name)):
                        known.add(name)
    # f-strings that make names: see reward/train.py and policy/ppo_workers.py
    return (
        known
        | {f"validation/{name}" for name in ("loss", "accuracies", "margins")}
        | {
            "policy/grad_norm",
            "critic/grad_norm",
        }
    )
