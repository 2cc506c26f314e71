"""Text from a language model, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from hyperpruning.deploy.decoder import Decoder

END, UNKNOWN = "<eos>", "<unk>"  # of word-level texts


def generate(
    decoder: Decoder,
    vocabulary: Sequence[str],
    unit: str,
    *,
    tokens: int = 200,
    prompt: str = "",
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Draw tokens from a language model; yields the text of each, the prompt's first.

    Args:
        decoder: of the language model; it begins with a state of zeros.
        vocabulary: its tokens.
        unit: what a token is, "word" or "character".
        tokens: number of tokens to draw.
        prompt: the text before; empty: the end of a line.
        temperature: divides the logits; below 1 likely tokens become likelier, 0 takes the likeliest.
        seed: of the draws.

    Raises:
        ValueError: a token of the prompt is not in the vocabulary, or a number is out of range.
    """
    if tokens < 1 or temperature < 0:
        raise ValueError(
            f"tokens must be at least 1 and temperature at least 0, got {tokens} and {temperature}. Raise them."
        )
    given = _numbers(vocabulary, unit, prompt)
    return _drawn(decoder, vocabulary, unit, given, tokens, temperature, seed)


def _drawn(
    decoder: Decoder, vocabulary: Sequence[str], unit: str, given: list[int], tokens: int, temperature: float, seed: int
) -> Iterator[str]:
    ends = [token for token in (END, "\n") if token in vocabulary]
    generator = torch.Generator().manual_seed(seed)
    decoder.reset(1)
    for token in given:
        yield _text(vocabulary[token], unit)
    logits = [decoder.step(token)[0] for token in given or [vocabulary.index(ends[0]) if ends else 0]][-1]
    for number in range(tokens):
        if temperature:
            token = int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator))
        else:
            token = int(logits.argmax())
        yield _text(vocabulary[token], unit)
        if number < tokens - 1:
            logits = decoder.step(token)[0]


def _numbers(vocabulary: Sequence[str], unit: str, text: str) -> list[int]:
    known = {token: number for number, token in enumerate(vocabulary)}
    parts = text.replace("\n", f" {END} ").split() if unit == "word" else list(text)
    for part in parts:
        if part not in known and UNKNOWN not in known:
            raise ValueError(f"A prompt must have tokens of the vocabulary only, got {part!r}. Leave it out.")
    return [known.get(part, known.get(UNKNOWN, 0)) for part in parts]


def _text(token: str, unit: str) -> str:
    if unit == "character":
        return token
    return "\n" if token == END else f"{token} "
