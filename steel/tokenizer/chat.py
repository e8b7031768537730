"""The chat template (ChatML, as Qwen and the original use it) and its loss masks.

    <|im_start|>user
    林晓月住在哪里？<|im_end|>
    <|im_start|>assistant
    云州。<|im_end|>

A system turn is rendered when the dialogue has one; none is invented. The loss mask is 1 on what
the assistant has to produce: the answer and the `<|im_end|>` that ends it, not the header and not
the line break after it.
"""

from ..config import UserError

ROLES = ("system", "user", "assistant")

# The {% generation %} markers let other trainers (TRL) find the same mask.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def check(messages: list[dict]) -> None:
    """Raise ValueError unless every turn is {"role": system|user|assistant, "content": str}."""
    if not messages:
        raise ValueError("a dialogue needs at least one turn")
    for turn in messages:
        sound = isinstance(turn, dict) and turn.get("role") in ROLES
        if not sound or not isinstance(turn.get("content"), str):
            raise ValueError(f"not a dialogue turn: {str(turn)[:80]!r}")


def render(messages: list[dict], add_generation_prompt: bool = False) -> str:
    """The dialogue as one string, for reading; `encode_chat` never parses text as control."""
    check(messages)
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + ("<|im_start|>assistant\n" if add_generation_prompt else "")


def encode_chat(
    tokenizer, messages: list[dict], add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Token ids and loss mask (same length, 1 on assistant content and its `<|im_end|>`).

    Turns are encoded apart, so a user who types "<|im_end|>" cannot close their own turn. Raises
    UserError for a tokenizer without the tokens of a turn.
    """
    check(messages)
    start, end = marks = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    if {None, tokenizer.unk_token_id} & set(marks):
        raise UserError("this tokenizer has no <|im_start|> and <|im_end|>: no turns to encode")

    def plain(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    ids: list[int] = []
    mask: list[int] = []

    def add(part: list[int], learned: bool = False) -> None:
        ids.extend(part)
        mask.extend([int(learned)] * len(part))

    for turn in messages:
        add([start, *plain(turn["role"] + "\n")])
        add([*plain(turn["content"]), end], learned=turn["role"] == "assistant")
        add(plain("\n"))
    if add_generation_prompt:
        add([start, *plain("assistant\n")])
    return ids, mask
