"""A conversation token by token, with what is learned in colour: one look tells whether the mask is right."""

from rich.console import Console
from rich.text import Text

from wren.tokenizer import Tokenizer
from wren.tune.examples import Examples

_LEARNED, _READ, _SPECIAL, _EDGE = "bold green", "default", "magenta", "dim"


def show_example(
    examples: Examples, number: int, tokenizer: Tokenizer, console: Console, max_tokens: int = 400
) -> None:
    """Prints an example. Where there is no colour, what is learned stands between « and »."""
    colour = console.color_system is not None
    for document in range(number * examples.documents, (number + 1) * examples.documents):
        start, stop = (int(x) for x in examples.starts[document : document + 2])
        tokens, learned = examples.tokens_N[start:stop].tolist(), examples.learned_N[start:stop].tolist()
        name = f" {'better' if document % 2 == 0 else 'worse'}" if examples.documents == 2 else ""
        shown = f", the first {max_tokens}" if len(tokens) > max_tokens else ""
        console.print(
            Text(f"Example{name}: {len(tokens):,} tokens{shown}, of which {sum(learned):,} are learned:"),
            Text("in green" if colour else "between « and »", _LEARNED),
        )
        console.print(_tokens(tokens[:max_tokens], learned, tokenizer, colour), soft_wrap=True)


def _tokens(tokens: list[int], learned: list[bool], tokenizer: Tokenizer, colour: bool) -> Text:
    special, text, inside = set(tokenizer.special.values()), Text(), False
    for token, learns in zip(tokens, learned, strict=False):
        if learns != inside and not colour:
            text.append("«" if learns else "»")
        elif len(text):
            text.append("|", _EDGE)
        inside = learns
        written = tokenizer.decode([token], keep_special=True).replace("\n", "⏎\n")
        text.append(written, _LEARNED if learns else _SPECIAL if token in special else _READ)
    if inside and not colour:
        text.append("»")
    return text
