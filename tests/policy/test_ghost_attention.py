"""An instruction given once that holds for the dialogue (Llama 2, section 3.3)."""

from collections.abc import Sequence

import pytest

from data.errors import ConfigError, DataError
from data.instructions import StandingInstruction
from data.schemas import Message, Prompt
from policy.ghost_attention import (
    GhostAttentionConfig,
    Instructed,
    converse,
    dialogue_messages,
    ghost_demonstrations,
    pair_up,
    user_messages,
)
from policy.sft import pack_demonstrations
from rlhf.types import PromptIds, Rollout
from tests.reward.tiny import tiny_chat, tiny_tokenizer

PIRATE = StandingInstruction(text="Be a pirate.", marker="arr")
LONG = Instructed(("hi", "how are you", "bye"), PIRATE)
SHORT = Instructed(("what now", "ok"), StandingInstruction(text="Be brief."))


class Script:
    """Answers "said N" to the N-th prompt that it gets, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[list[int]], int]] = []
        self._count = 0

    def __call__(self, prompts: Sequence[PromptIds], seed: int) -> list[Rollout]:
        self.calls.append(([p.prompt_id for p in prompts], [p.ids for p in prompts], seed))
        rollouts = []
        for prompt in prompts:
            ids = tiny_chat().encode_response(f"said {self._count}")
            self._count += 1
            rollouts.append(
                Rollout(
                    prompt_id=prompt.prompt_id,
                    prompt_ids=prompt.ids,
                    response_ids=ids,
                    response_logprobs=[0.0] * len(ids),
                    finish_reason="eos",
                    policy_version=0,
                )
            )
        return rollouts


def prompt(*texts: str) -> list[int]:
    """Ids of a dialogue by user and assistant in turn that waits for an answer."""
    roles = ("user", "assistant")
    return tiny_chat().encode_prompt(
        [Message(roles[n % 2], text) for n, text in enumerate(texts)]  # type: ignore[arg-type]
    )


def test_the_sampler_sees_the_instruction_in_every_user_message() -> None:
    script = Script()
    answers = converse([LONG, SHORT], script, tiny_chat(), everywhere=True, context=192, seed=40)
    assert answers == [["said 0", "said 2", "said 4"], ["said 1", "said 3"]]
    pirate, brief = "Be a pirate. ", "Be brief. "
    assert script.calls == [
        (["0", "1"], [prompt(pirate + "hi"), prompt(brief + "what now")], 40),
        (
            ["0", "1"],
            [
                prompt(pirate + "hi", "said 0", pirate + "how are you"),
                prompt(brief + "what now", "said 1", brief + "ok"),
            ],
            41,
        ),
        (  # the shorter dialogue is over
            ["0"],
            [prompt(*(pirate + "hi", "said 0", pirate + "how are you", "said 2", pirate + "bye"))],
            42,
        ),
    ]


def test_or_in_the_first_one_only() -> None:
    script = Script()
    converse([LONG], script, tiny_chat(), everywhere=False, context=192, seed=0)
    asked = [ids for _, (ids,), _ in script.calls]
    assert asked == [
        prompt("Be a pirate. hi"),
        prompt("Be a pirate. hi", "said 0", "how are you"),
        prompt("Be a pirate. hi", "said 0", "how are you", "said 1", "bye"),
    ]


def test_a_dialogue_that_outgrows_the_context_ends_there() -> None:
    second = prompt("Be a pirate. hi", "said 0", "how are you")
    for context, turns in ((len(second) + 1, 2), (len(second), 1)):  # a token for the answer
        script = Script()
        answers = converse(
            [LONG, SHORT], script, tiny_chat(), everywhere=False, context=context, seed=0
        )
        assert len(answers[0]) == turns
        assert all(len(ids) < context for _, batch, _ in script.calls for ids in batch)
    nothing = Script()
    assert converse([LONG], nothing, tiny_chat(), everywhere=False, context=3, seed=0) == [[]]
    assert nothing.calls == []


def test_dialogues_that_ended_early_are_not_learned() -> None:
    found = ghost_demonstrations([LONG, SHORT, SHORT], [["arr", "arr"], [], ["d", "e"]])
    assert [d.demonstration_id for d in found] == ["ghost-2"]


def test_demonstrations_keep_the_instruction_in_the_first_turn() -> None:
    found = ghost_demonstrations([LONG, SHORT], [["a", "b", "c, arr!"], ["d", "e"]])
    assert [d.messages for d in found] == [
        (
            Message("user", "Be a pirate. hi"),
            Message("assistant", "a"),
            Message("user", "how are you"),
            Message("assistant", "b"),
            Message("user", "bye"),
            Message("assistant", "c, arr!"),
        ),
        (
            Message("user", "Be brief. what now"),
            Message("assistant", "d"),
            Message("user", "ok"),
            Message("assistant", "e"),
        ),
    ]
    assert len({d.demonstration_id for d in found}) == 2


def test_a_last_answer_that_is_seen_to_disobey_is_not_learned() -> None:
    said = [["arr", "arr", "bye"], ["a", "b", "c, Arr!"], ["a", "b", "arrest"]]
    found = ghost_demonstrations([LONG] * 3, said)
    assert [d.messages[-1].content for d in found] == ["c, Arr!"]


def test_only_the_last_answer_is_learned() -> None:
    (demonstration,) = ghost_demonstrations([LONG], [["arr one", "arr two", "arr three"]])
    rows = pack_demonstrations([demonstration], tiny_tokenizer(), 256, 256)
    learned = rows.tokens[0][rows.loss_mask[0]].tolist()
    assert learned == tiny_chat().encode_response("arr three")


def test_dialogue_so_far() -> None:
    messages = dialogue_messages(LONG, ["a"], 1, everywhere=False)
    assert [m.content for m in messages] == ["Be a pirate. hi", "a", "how are you"]


def test_pairs_are_drawn_by_the_seed() -> None:
    dialogues = [(f"q{n}", "next") for n in range(20)]
    instructions = [StandingInstruction(text=f"Do {n}.") for n in range(5)]
    first, again, other = (pair_up(dialogues, instructions, 200, seed=s) for s in (1, 1, 2))
    assert first == again != other
    assert {pair.user_messages for pair in first} == set(dialogues)
    assert {pair.instruction for pair in first} == set(instructions)
    # independent of each other: most of the 100 combinations come up (1 − e⁻² = 86 of them)
    assert len({(pair.user_messages, pair.instruction) for pair in first}) > 70


def test_no_dialogues() -> None:
    with pytest.raises(DataError, match="there are no dialogues in that split"):
        pair_up([], [PIRATE], 3, seed=0)


@pytest.mark.parametrize("name", ["seed", "replay_prompts"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is -1; it must be 0 or more"):
        GhostAttentionConfig(**{name: -1})


@pytest.mark.parametrize("system", [False, True])
def test_user_messages(system: bool) -> None:
    messages = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    row = Prompt(
        prompt_id="p",
        prompt=(Message("system", "s"), *messages) if system else messages,
        domain="helpfulness",
        kind="test",
        source="test",
    )
    assert user_messages(row) == ("a", "c")
