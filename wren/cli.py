"""`wren <verb>`: the verbs of wren/verbs put together.

Exit codes: 0 done, 2 a mistake that the printed sentence names, 130 Ctrl-C, 143 SIGTERM.
"""

import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from wren.errors import ConfigError
from wren.verbs import adapt, data, lab, play, talk, think, train, use

VERBS = {  # in the order of --help
    "quickstart": train.quickstart,
    "doctor": train.doctor,
    "data": data.data,
    "train": train.train,
    "plan": train.plan,
    "sample": use.sample,
    "eval": use.evaluate,
    "tune": talk.tune,
    "chat": talk.chat,
    "serve": talk.serve,
    "export": use.export,
    "import": use.import_,
    "tasks": data.tasks,
    "think": think.think,
    "adapt": adapt.adapt,
    "play": play.play,
    "probe": lab.probe,
    "compare": lab.compare,
}
TOKENIZER_VERBS = {
    "train": data.tokenizer_train,
    "compare": data.tokenizer_compare,
    "show": data.tokenizer_show,
}
app, tokenizer_app = SubcommandApp(), SubcommandApp()
for name, verb in TOKENIZER_VERBS.items():
    tokenizer_app.command(name=name)(verb)
for name, verb in VERBS.items():
    app.command(name=name)(verb)
app.command(tokenizer_app, name="tokenizer", help="Train, compare and look at tokenizers.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    from wren.exits import exit_code

    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = arguments[1:] if arguments[:1] == ["--"] else arguments  # what torchrun -m wren -- leaves in front
    return exit_code("wren", lambda: _verb(arguments))


def _verb(arguments: Sequence[str]) -> int | None:
    from wren.exits import one_voice

    try:
        with one_voice():
            return app.cli(prog="wren", args=_completed(arguments))
    except (RuntimeError, MemoryError) as error:
        from wren.precision import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        short = " ".join(str(error).split())[:160]
        raise ConfigError(f"Out of memory ({short}); choose a smaller model or context, or fewer tokens.") from error


def _completed(arguments: Sequence[str]) -> list[str]:
    """With what `--fit` means where no size follows it."""
    ends = [*arguments[1:], "--"]
    return [x for word, after in zip(arguments, ends, strict=False) for x in _with_default(word, after)]


def _with_default(word: str, after: str) -> list[str]:
    return [word, "here"] if word == "--fit" and after.startswith("-") else [word]


if __name__ == "__main__":
    sys.exit(main())
