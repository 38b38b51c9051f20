"""The command table and the one place where errors become an exit code.

Nothing heavy is imported here: `rlhf --help` has to answer at once, and a command's module is
imported only when that command runs.
"""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from data.errors import UserError

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("rlhf.cli.quickstart", "the whole loop on the built-in world, on this machine"),
    "data simulate": (
        "rlhf.cli.data_simulate",
        "write the built-in world: corpus, demonstrations, prompts",
    ),
    "data import hh-rlhf": (
        "rlhf.cli.data_import_hh",
        "Anthropic's HH transcripts to a Parquet dataset",
    ),
    "data import tulu-humaneval": (
        "rlhf.cli.data_import_tulu_humaneval",
        "Tülu's human evaluation, with strengths, to comparisons",
    ),
    "data import qa-feedback": (
        "rlhf.cli.data_import_qa_feedback",
        "QA-Feedback's pair labels to comparisons",
    ),
    "data import mtbench-votes": (
        "rlhf.cli.data_import_mtbench",
        "MT-Bench's votes, several judges on a pair",
    ),
    "data import oasst": ("rlhf.cli.data_import_oasst", "OpenAssistant's trees to comparisons"),
    "data import diasafety": ("rlhf.cli.data_import_diasafety", "DiaSafety's safety labels"),
    "data import xstest": ("rlhf.cli.data_import_xstest", "XSTest's safety labels"),
    "data import generic": (
        "rlhf.cli.data_import_generic",
        "JSON lines, CSV, Parquet, TRL's forms, a datasets directory",
    ),
    "data export trl": ("rlhf.cli.data_export", "a dataset as JSON lines with TRL's columns"),
    "data stats": ("rlhf.cli.data_stats", "the columns of Llama 2's Table 6, strengths and labels"),
    "data validate": (
        "rlhf.cli.data_validate",
        "check a dataset: manifest, checksums, schema, splits",
    ),
    "data publish": (
        "rlhf.cli.data_publish",
        "the annotation app's ledger to a Parquet dataset, exactly once",
    ),
    "tokenizer train": ("rlhf.cli.tokenizer_train", "train a SentencePiece BPE tokenizer"),
    "pretrain": ("rlhf.cli.pretrain", "train a language model on a text corpus"),
    "sft": ("rlhf.cli.sft", "supervised fine-tuning on demonstrations"),
    "collect": ("rlhf.cli.collect", "sample pairs of responses and have them compared"),
    "reward train": ("rlhf.cli.reward_train", "train the helpfulness and the safety reward model"),
    "reward evaluate": (
        "rlhf.cli.reward_evaluate",
        "reward models against people's choices: accuracy, calibration, biases",
    ),
    "reward score": ("rlhf.cli.reward_score", "score dialogues with reward models"),
    "reproduce reward": (
        "rlhf.cli.reproduce_reward",
        "judge the paper's claims about reward models, on the built-in world",
    ),
    "reproduce policy": (
        "rlhf.cli.reproduce_policy",
        "judge the paper's claims about PPO and rejection sampling, on the built-in world",
    ),
    "reproduce hh": ("rlhf.cli.reproduce_hh", "reward models on what people preferred in HH"),
    "rejection-sampling": ("rlhf.cli.rejection_sampling", "fine-tune on the best of K samples"),
    "temperature-sweep": (
        "rlhf.cli.temperature_sweep",
        "at which temperature the best of N samples scores highest",
    ),
    "ppo": ("rlhf.cli.ppo", "PPO with a KL penalty against the reward models"),
    "rounds": (
        "rlhf.cli.rounds",
        "RLHF-V1 … V5: new comparisons, reward models and policies in every round",
    ),
    "ghost-attention": (
        "rlhf.cli.ghost_attention",
        "make a standing instruction hold for a dialogue",
    ),
    "evaluate gold": (
        "rlhf.cli.evaluate_gold",
        "policies against the built-in world's gold scores",
    ),
    "evaluate scores": (
        "rlhf.cli.evaluate_scores",
        "policies against the first one, judged by reward models",
    ),
    "evaluate recall": (
        "rlhf.cli.evaluate_recall",
        "how long policies remember a standing instruction",
    ),
    "convert": ("rlhf.cli.convert", "models between Hugging Face's, Meta's, llama2.c's format"),
    "annotate": ("rlhf.cli.annotate", "the annotation app in the browser"),
    "annotate invite": (
        "rlhf.cli.annotate_invite",
        "make, list or revoke the links by which a team comes in",
    ),
    "report": ("rlhf.cli.report", "one HTML file with the tables and plots of a quickstart run"),
}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (0 done, 2 bad input, 130 interrupted)."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:  # of the table of commands
        return 0
    finally:
        _forget_closed_pipe()


def _run(words: list[str]) -> int:
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    name, rest = _find_command(words)
    if name is None:
        return _show_commands(words)
    try:
        with _sigterm_as_ctrl_c():
            import_module(COMMANDS[name][0]).main(rest)
    except (UserError, OSError, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = _explain(error)
        print(f"rlhf {name}: {message}", file=sys.stderr)
        return code
    return 0


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """So that what ends jobs from outside also hears that the same command continues them."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def run_command(words: Sequence[str]) -> None:
    """Runs another command in this process; its errors pass through to the caller."""
    module = command_module(words)
    import_module(module).main(_find_command(words)[1])


def command_module(words: Sequence[str]) -> str:
    """The name of the module behind a command line.

    Raises:
        KeyError: no command begins so.
    """
    name, _ = _find_command(words)
    if name is None:
        raise KeyError(" ".join(words))
    return COMMANDS[name][0]


def _forget_closed_pipe() -> None:
    """Silence where nobody reads the output any more, as in `rlhf --help | head -1`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # would be told once more when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _find_command(words: Sequence[str]) -> tuple[str | None, list[str]]:
    for length in (3, 2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS and len(words) >= length:
            return name, list(words[length:])
    return None, []


def _show_commands(words: Sequence[str]) -> int:
    """The table of commands, or of those that begin with `words`; exit code 2 for unknown ones."""
    asked = [word for word in words if not word.startswith("-")]
    prefix = " ".join(asked)
    shown = {
        n: text for n, (_, text) in COMMANDS.items() if n.startswith(prefix + " " if prefix else "")
    }
    if words and not shown:
        import difflib

        near = difflib.get_close_matches(prefix, COMMANDS, n=1)
        hint = f"did you mean 'rlhf {near[0]}'?" if near else "'rlhf --help' lists the commands"
        print(f"rlhf: unknown command {prefix!r}; {hint}", file=sys.stderr)
        return EXIT_USER_ERROR
    print("usage: rlhf COMMAND [--config FILE] [--key value ...]\n\nCommands:")
    width = max(len(name) for name in shown)
    for name, text in shown.items():
        print(f"  {name:<{width}}  {text}")
    print("\n'rlhf COMMAND --help' explains every field; --debug shows tracebacks.")
    return 0 if not asked or "--help" in words or "-h" in words else EXIT_USER_ERROR


def _explain(error: BaseException) -> tuple[str, int]:
    """One line for the person at the keyboard, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        message = (
            "interrupted; the same command continues from its last checkpoint or finished part, "
            "and begins anew where there is neither"
        )
        return message, EXIT_INTERRUPTED
    if isinstance(error, UserError):
        return f"error: {error}", EXIT_USER_ERROR
    assert isinstance(error, OSError)
    what = error.strerror or str(error)
    where = f" {os.fspath(error.filename)!r}" if error.filename else ""
    remedies = {
        errno.ENOSPC: "free some space and run the command again; nothing was left half-written",
        errno.EACCES: "choose a place you may read and write, or change its permissions",
        errno.EROFS: "choose a place that is writable, with --out for example",
        errno.ENOENT: "check the path",
        errno.EADDRINUSE: "choose another port, or stop the program that holds it",
    }
    remedy = remedies.get(error.errno or 0, "see --debug for details")
    return f"error: {what}{where}; {remedy}", EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
