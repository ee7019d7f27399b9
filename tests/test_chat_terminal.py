"""The terminal: commands, several lines, signals, saved conversations, and one sentence for every mistake."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chat_parts import MODELS, conversation, model, screen, script
from tune_parts import base_run, tokenizer

from wren.chat.calculator import CALCULATOR
from wren.chat.terminal import Terminal
from wren.chat.tools import Result, Toolbox
from wren.cli import main
from wren.errors import WrenError
from wren.generate import Sampling
from wren.tokenizer import Tokenizer
from wren.tune.formats import read_conversations

CALL = Result("{}", "calculator", "4")
SAMPLING = Sampling(max_tokens=6, temperature=1.0, seed=4)


def terminal(lines, *, talks: bool = True, out: io.StringIO | None = None, toolbox: Toolbox | None = None, **options):
    talk = conversation(model(MODELS["gated_delta_net-0"]), context_len=400, **options)
    return Terminal(talk, screen(talks=talks, out=out), script(lines), SAMPLING, toolbox)


def notes(of: Terminal) -> str:
    assert isinstance(of.screen.notes, io.StringIO)
    return of.screen.notes.getvalue()


def said(of: Terminal) -> str:
    assert isinstance(of.screen.out, io.StringIO)
    return of.screen.out.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_run(tmp_path_factory.mktemp("chat") / "run")


def test_lines_are_turns_and_marks_hold_several(tmp_path: Path):
    chat = terminal(["one", "", '"""two', "", 'lines"""', '"""three"""', '"""no end'])
    assert chat.run() == 0
    users = [turn.message.content for turn in chat.talk.turns if turn.message.role == "user"]
    assert users == ["one", "two\n\nlines", "three", "no end"]


def test_reset_system_and_the_rest():
    chat = terminal(["one", "/reset", "/system Be brief.", "two", "/system", "/tools", "/help", "/nosuch", " /text"])
    assert chat.run() == 0
    assert [m.content for m in chat.talk.messages() if m.role != "assistant"] == ["Be brief.", "two", " /text"]
    for sentence in ("begins anew.", "begins anew under it.", "System: Be brief.", "No tools;", "/save FILE"):
        assert sentence in notes(chat)
    assert "There is no command /nosuch; /help lists them." in notes(chat)
    chat = terminal(["/system x", "/system -", "/system"])
    chat.run()
    assert notes(chat).endswith("There is no system text.\n")


def test_tools_can_be_turned_off():
    box = Toolbox([CALCULATOR])
    chat = terminal(["/tools", "/tools off", "/tools", "/tools on", "/tools maybe"], toolbox=box, tools=box.schemas())
    chat.run()
    assert "calculator(expression): Works out arithmetic.\n" in notes(chat)
    assert "Works out arithmetic. (off)" in notes(chat)
    assert "/tools takes on or off, not 'maybe'." in notes(chat)
    assert list(chat.talk.tools) == box.schemas()
    chat = terminal(["/tools on"])
    chat.run()
    assert "There are no tools" in notes(chat)


def test_a_saved_conversation_is_one_to_tune_on(tmp_path: Path):
    path, other = tmp_path / "talk.jsonl", tmp_path / "other.jsonl"
    other.write_text("mine")
    box = Toolbox([CALCULATOR])
    lines = [f"/save {path}", "/system Be brief.", "one", f"/save {path}", "two", f"/save {path}", f"/save {other}"]
    chat = terminal([*lines, "/save", f"/save {tmp_path}"], toolbox=box, tools=box.schemas())
    chat.run()
    found = read_conversations([str(path)]).conversations
    assert [m.role for m in found[0].messages] == ["system", *["user", "assistant"] * 2]
    assert found[0].messages == tuple(chat.talk.messages())
    assert list(found[0].tools) == box.schemas()
    assert other.read_text() == "mine"
    for sentence in ("nothing to save yet", "exists already; choose another name", "Name a file"):
        assert sentence in notes(chat)


class Interrupting(io.StringIO):
    """Sends the process a signal at each of the first pieces that are written."""

    def __init__(self, number: int, times: int):
        super().__init__()
        self.number, self.times = number, times

    def write(self, text: str) -> int:
        if self.times and text.strip():
            self.times -= 1
            signal.raise_signal(self.number)
        return super().write(text)


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on():
    chat = terminal(["one", "two"], out=Interrupting(signal.SIGINT, 1))
    before = signal.getsignal(signal.SIGINT)
    assert chat.run() == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert "(stopped; Ctrl-C again leaves)" in notes(chat)
    assert [turn.message.role for turn in chat.talk.turns] == ["user", "assistant"] * 2
    whole = terminal(["one"])
    whole.run()
    stopped, full = chat.talk.turns[1].tokens, whole.talk.turns[1].tokens
    assert len(stopped) < len(full)
    assert stopped[:-1] == full[: len(stopped) - 1]  # as far as it came


@pytest.mark.parametrize(
    ("lines", "out", "code"),
    [
        (["one", "two"], lambda: Interrupting(signal.SIGINT, 2), 130),  # twice in one answer
        (["one", KeyboardInterrupt, "two"], lambda: Interrupting(signal.SIGINT, 1), 130),  # and where it is prompted
        ([KeyboardInterrupt, KeyboardInterrupt, "two"], io.StringIO, 130),
        (["one", "two"], lambda: Interrupting(signal.SIGTERM, 1), 143),
    ],
)
def test_a_second_one_leaves(lines, out, code: int):
    chat = terminal(lines, out=out())
    assert chat.run() == code
    assert "two" not in [turn.message.content for turn in chat.talk.turns]


def test_one_at_the_prompt_is_forgiven():
    chat = terminal([KeyboardInterrupt, "one", KeyboardInterrupt, "two"])
    assert chat.run() == 0
    assert len(chat.talk.turns) == 4


def test_on_a_pipe_one_ctrl_c_ends_and_a_mistake_too():
    assert terminal(["one", "two"], talks=False, out=Interrupting(signal.SIGINT, 1)).run() == 130
    with pytest.raises(WrenError, match="no command /nosuch"):
        terminal(["/nosuch"], talks=False).run()


def test_a_message_that_does_not_fit_is_taken_back_and_the_talk_goes_on():
    chat = terminal(["one", "x" * 1000, "two"])
    assert chat.run() == 0
    assert [turn.message.content for turn in chat.talk.turns if turn.message.role == "user"] == ["one", "two"]
    assert "more than the context of 400" in notes(chat)


def test_a_models_text_does_not_steer_the_terminal():
    view = screen()
    view.piece("a\x1b[2Jb\x07\r\nc\td")
    view.note("\x1b]0;title\x07")
    assert isinstance(view.out, io.StringIO)
    assert view.out.getvalue() == "a\ufffd[2Jb\ufffd\nc\td\n"
    assert isinstance(view.notes, io.StringIO)
    assert "\x1b" not in view.notes.getvalue()


def test_what_stands_around_a_call_is_on_lines_of_its_own():
    chat = terminal([])
    chat.screen.piece("Let me see.")
    chat._told(CALL)
    chat.screen.piece("4\n")
    chat.screen.end_line()
    assert said(chat) == "Let me see.\n4\n"
    assert notes(chat) == "[{} -> 4]\n"


def wren(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wren", "chat", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


def test_a_pipe_gets_answers_and_nothing_else(run: Path, tmp_path: Path):
    saved, result = tmp_path / "talk.json", tmp_path / "result.json"
    more = ["--context", "200", "--max-tokens", "4", "--json", str(result)]
    done = wren("--run", str(run), *more, stdin=f"h\N{EURO SIGN}llo\n/save {saved}\n".encode() + b"\xff")
    assert done.returncode == 0
    answer = json.loads(saved.read_text())["messages"][1]["content"]
    shown = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", answer.replace("\r", ""))
    assert done.stdout.decode().startswith(shown)
    assert b"was not tuned on conversations" in done.stderr
    messages = json.loads(result.read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["h\N{EURO SIGN}llo", "\ufffd"]
    assert messages[:2] == json.loads(saved.read_text())["messages"]


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of its own")
def test_a_real_terminal_prompts_and_leaves_at_its_end(run: Path):
    import pty

    master, slave = pty.openpty()
    command = [sys.executable, "-m", "wren", "chat", "--run", str(run), "--max-tokens", "3"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, close_fds=True) as process:
        os.close(slave)
        try:
            seen = until(master, b"> ")
            os.write(master, b"/help\n")
            seen += until(master, b"Ctrl-D.", b"> ")
            os.write(master, b"\x04")
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            os.close(master)
    assert b"/help lists commands" in seen
    assert b"/save FILE" in seen


def until(terminal: int, *texts: bytes) -> bytes:
    """What a terminal shows up to the last of these texts, each behind the one before, which come within a minute."""
    seen, start = b"", 0
    for text in texts:
        while (found := seen.find(text, start)) < 0:
            assert select.select([terminal], [], [], 60)[0], seen
            seen += os.read(terminal, 4096)
        start = found + len(text)
    return seen


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--tools", "search"], "add --folder DIR"),
        (["--folder", "."], "add --tools search"),
        (["--tools", "search", "--folder", "nosuch"], "nosuch is not a folder"),
        (["--max-calls", "0"], "number of calls is 0"),
        (["--context", "1"], "The context is 1 tokens"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--ask", " "], "The question is empty"),
        (["--ask", "x" * 500], "more than the context of 48"),
    ],
)
def test_a_mistake_is_one_sentence(run: Path, capfd: pytest.CaptureFixture[str], more: list[str], sentence: str):
    assert main(["chat", "--run", str(run), *more]) == 2
    said = capfd.readouterr()
    assert sentence in " ".join(said.err.split())
    assert said.out == ""


def test_a_model_without_tokens_for_turns_gets_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = base_run(tmp_path / "run")
    assert tokenizer().vocab_size > 260
    Tokenizer.train(["no room for turns"], 260).save(path / "tokenizer.json")
    assert main(["chat", "--run", str(path), "--ask", "Hello?"]) == 2
    assert "has no tokens for conversations" in capfd.readouterr().err


def test_one_question(run: Path, capfd: pytest.CaptureFixture[str]):
    arguments = ["chat", "--run", str(run), "--ask", "Hello?", "--max-tokens", "5"]
    assert main(arguments) == 0
    first = capfd.readouterr().out
    assert main([*arguments, "--seed", "0"]) == 0
    assert capfd.readouterr().out == first != ""


def test_a_question_of_many_lines_from_standard_input(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    text, result = "\nA story.\n\nWho was it?\xff\n".encode("latin-1"), tmp_path / "r.json"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    assert main(["chat", "--run", str(run), "--ask", "-", "--context", "200", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["messages"][0]["content"] == "A story.\n\nWho was it?\ufffd"
