"""The chat tags, and the template in Jinja that other programs read from tokenizer_config.json.

data/chat_format.py does not use the template; a test holds the two together.
"""

INSTRUCTION_PIECES = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
"""The chat tags of Llama 2. [/INST] separates prompt from answer."""

_TURNS = """\
{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}\
{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}\
{% for message in messages %}{% for tag in [TAGS] %}{% if tag in message['content'] %}\
{{ raise_exception('a message contains the tag ' + tag) }}{% endif %}{% endfor %}{% endfor %}\
{% for message in turns %}{% set first = loop.first and system is defined %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('user and assistant must take turns, the user first') }}{% endif %}\
{% if message['role'] == 'user' %}USER{% else %}ANSWER{% endif %}{% endfor %}"""

_CONTROL_USER = (
    "{{ bos_token + '[INST]' }}{% if first %}{{ '<<SYS>>' + system + '<</SYS>>' }}{% endif %}"
    "{{ message['content'] + '[/INST]' }}"
)
_CONTROL_ANSWER = "{{ message['content'] + eos_token }}"
_TEXT_USER = (
    "{% set user = message['content'] %}"
    "{% if first %}{% set user = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + user %}{% endif %}"
    "{{ bos_token + '[INST] ' + user.strip() + ' [/INST]' }}"
)
_TEXT_ANSWER = "{{ ' ' + message['content'].strip() + ' ' + eos_token }}"


_PLAIN = """\
{% for message in messages %}{% for tag in [TAGS] %}{% if tag in message['content'] %}\
{{ raise_exception('a message contains the tag ' + tag) }}{% endif %}{% endfor %}{% endfor %}\
{% if messages | map(attribute='role') | join(' ') not in ['user', 'user assistant'] %}\
{{ raise_exception('plain text is continued: one user message, and at most one answer') }}\
{% endif %}{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}\
{% if messages | length == 2 %}{{ eos_token }}{% endif %}"""


def chat_template(control_pieces: bool, special: tuple[str, ...]) -> str:
    """The template for a tokenizer.

    Args:
        control_pieces: whether the tags are pieces of their own, which no text can produce.
        special: further names that other programs would take for special pieces within a message.
    """
    user = _CONTROL_USER if control_pieces else _TEXT_USER
    answer = _CONTROL_ANSWER if control_pieces else _TEXT_ANSWER
    turns = _TURNS.replace("USER", user).replace("ANSWER", answer)
    return turns.replace("TAGS", _listed((*INSTRUCTION_PIECES, *special)))


def plain_template(special: tuple[str, ...]) -> str:
    """The template of a model that goes on with a text; `special` as in `chat_template`."""
    return _PLAIN.replace("TAGS", _listed(special))


def _listed(tags: tuple[str, ...]) -> str:
    return ", ".join(f"'{tag}'" for tag in tags)
