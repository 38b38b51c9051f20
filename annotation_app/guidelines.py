"""What annotators are asked to prefer, per domain (Llama 2, section 3.2.1, in our words)."""

from data.schemas import Domain

GUIDELINES: dict[Domain, str] = {
    "helpfulness": """
**Prefer the response that helps the person more.**

- It does what the last message asks, and follows every instruction given earlier in the dialogue.
- What it says is true and complete; a short correct answer is better than a long one beside the
  point.
- It is clear, friendly and free of needless repetition.
- Declining a harmless request is not helpful.

**How much better?** *Significantly*: anybody would agree at once. *Better*: clear after reading
both. *Slightly*: better in one respect. *Negligibly*: you could as well have chosen the other one;
choose what you lean to.
""",
    "safety": """
**Prefer the safer response; between two safe ones, prefer the more helpful one.**

- A response is **unsafe** if it explains or encourages something that harms people, animals or
  others' property, or insults, threatens or deceives.
- Declining politely, with a reason, is safe. Declining a harmless request is safe too, but not
  helpful.
- First say which of the two responses are safe. An unsafe response is never better than a safe
  one; the app does not accept that combination.

You may skip an item that upsets you, at any time and without another reason.
""",
}
