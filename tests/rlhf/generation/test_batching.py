"""Which response sits in which slot."""

from rlhf.generation.batching import Move, Sample, Slots

EOS = 2


def samples(*lengths: int, max_new_tokens: int = 5) -> list[Sample]:
    """With prompts of these lengths."""
    return [Sample(i, f"p{i}", [9] * n, max_new_tokens) for i, n in enumerate(lengths)]


def streams(admitted: dict[int, Sample]) -> dict[int, int]:
    return {slot: sample.stream for slot, sample in admitted.items()}


def test_a_sample_ends_with_eos_or_by_its_length() -> None:
    (sample,) = samples(1, max_new_tokens=2)
    sample.finish([7, 8], [-0.5, -0.25], EOS)
    assert (sample.response_ids, sample.logprobs) == ([7, 8], [-0.5, -0.25])
    assert sample.finish_reason == "length"
    (sample,) = samples(1, max_new_tokens=2)
    sample.finish([7, EOS], [0.0, 0.0], EOS)
    assert sample.finish_reason == "eos"  # on the last place it still ended by itself


def test_a_freed_slot_takes_the_next_in_line() -> None:
    line = samples(3, 3, 3, 3)
    slots = Slots(line, num_slots=2)
    assert streams(slots.admit(at_least=1)) == {0: 0, 1: 1}
    assert slots.admit(at_least=1) == {}
    slots.release([1])
    assert slots.active == [0]
    assert streams(slots.admit(at_least=1)) == {1: 2}


def test_few_free_slots_wait_until_a_prefill_is_worth_it() -> None:
    line = samples(*[3] * 6)
    slots = Slots(line, num_slots=4)
    slots.admit(at_least=1)
    slots.release([0])
    assert slots.admit(at_least=2) == {}
    slots.release([3])
    assert streams(slots.admit(at_least=2)) == {0: 4, 3: 5}


def test_when_nothing_runs_nobody_waits() -> None:
    slots = Slots(samples(3), num_slots=4)
    assert len(slots.running) == 1  # no more slots than samples
    assert streams(slots.admit(at_least=4)) == {0: 0}


def test_busy_until_the_last_one_ends() -> None:
    line = samples(3, 3)
    slots = Slots(line, num_slots=1)
    assert slots.busy
    for _ in line:
        slots.admit(at_least=1)
        assert slots.busy
        slots.release([0])
    assert not slots.busy
    assert not Slots([], num_slots=4).busy


def test_the_cache_holds_the_longest_prompt_with_its_response() -> None:
    line = [Sample(0, "a", [9] * 3, 10), Sample(1, "b", [9] * 7, 4)]
    assert Slots(line, num_slots=1).longest == 13
    assert Slots([], num_slots=1).longest == 0


def test_the_longest_response_may_be_that_of_a_short_prompt() -> None:
    line = [Sample(0, "a", [9] * 7, 4), Sample(1, "b", [9] * 3, 8)]
    assert Slots(line, num_slots=1).longest_response == 8
    assert Slots([], num_slots=1).longest_response == 0


def test_the_next_in_line_is_known_by_its_prompt() -> None:
    slots = Slots(samples(3, 2), num_slots=1)
    assert slots.next_prompt == [9] * 3
    slots.admit(at_least=1)
    assert slots.next_prompt == [9] * 2
    slots.release([0])
    slots.admit(at_least=1)
    assert slots.next_prompt is None


def test_empty_slots_go_eight_at_a_time_once_nobody_waits() -> None:
    slots = Slots(samples(*[3] * 21), num_slots=20)
    slots.admit(at_least=1)
    slots.release([0, 3, 9, 16])
    assert slots.compact() is None  # one still waits
    slots.admit(at_least=1)  # into slot 0
    assert slots.compact() is None  # 17 samples need 24
    slots.release([5])
    # 16 remain; those of slots 17 to 19 go where 3, 5 and 9 are empty
    assert slots.compact() == Move(sources=[17, 18, 19], targets=[3, 5, 9], slots=16)
    assert [sample.stream for sample in slots.running if sample] == [
        *(20, 1, 2, 17, 4, 18, 6, 7, 8, 19, 10, 11, 12, 13, 14, 15)
    ]
    assert slots.compact() is None
    slots.release(range(16))
    assert slots.compact() is None  # nothing is left to decode
