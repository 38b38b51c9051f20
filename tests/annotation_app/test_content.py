from annotation_app.content import MAX_SHOWN, Part, parts_of, shortened, visible


def test_prose_code_and_mathematics() -> None:
    text = "Try this:\n\n```python\nprint('a ``` b')\n```\nand $$x^2$$ done. It costs $5 or $6."
    assert parts_of(text) == [
        Part("prose", "Try this:"),
        Part("code", "print('a ``` b')"),
        Part("prose", "and "),
        Part("maths", "x^2"),
        Part("prose", " done. It costs $5 or $6."),
    ]


def test_markup_is_prose_like_any_other() -> None:
    text = "<script>alert(1)</script> [click](http://x.y) ![i](http://x.y/i.png) :red[a]"
    assert parts_of(text) == [Part("prose", text)]


def test_a_fence_that_is_never_closed_is_code_to_the_end() -> None:
    assert parts_of("a\n```\nb\nc") == [Part("prose", "a"), Part("code", "b\nc")]
    assert parts_of("   \n") == []


def test_control_characters_are_shown_and_line_ends_kept() -> None:
    assert visible("a\x07b\x1b[31m\r\nc\td") == "a�b�[31m\nc\td"
    assert visible("a\x9bb\u202eevil") == "a�b�evil"  # C1; letters in reversed order
    assert visible("\u2067ש\u2069 é\u200f") == "\u2067ש\u2069 é\u200f"  # right-to-left as it should


def test_long_texts_are_shortened() -> None:
    text = "x" * 200_000
    shown, hidden = shortened(text)
    assert (len(shown), hidden) == (MAX_SHOWN, 200_000 - MAX_SHOWN)
    assert shortened("short") == ("short", 0)
