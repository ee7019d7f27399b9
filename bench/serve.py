"""Serving: time to first token and between tokens at 1, 8 and 64 streams; and a load that must change nothing.

    python bench/serve.py [--run RUN] [--streams 1,8,64] [--tokens 64] [--prompt 64] [--repeats 5]
    python bench/serve.py --load 300 [--streams 64]     streams without a pause for so many seconds

The server is a process of its own (one engine, the model of RUN or a random Llama of --size), the clients are one other
process. In a repeat all streams begin together; times are of what a client sees. Under load every stream asks for one
of a few texts that were asked for alone before, and each must be that text: the model runs in float64 there, where a
row does not depend on its batch. Errors and other texts end the bench with exit code 1; memory is told of the first,
the middle and the last third.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch
from measures import options
from measures.record import Record
from rich import box
from rich.console import Console
from rich.table import Table

from wren import recipes, units
from wren.errors import ConfigError
from wren.exits import exit_code
from wren.generate import Loaded, load_run
from wren.lab.machine import in_words
from wren.precision import Precision, choose_device, choose_precision
from wren.tokenizer import Tokenizer

OUT = Path(__file__).parent / "out" / "serve.json"
_TEXT = ["The wren is a small brown bird; it sings louder than any other bird for its weight."]
_VOCABULARY = 384
_KINDS = 16  # different texts under load


class Asked(NamedTuple):
    """How the server is made; double: in float64."""

    run: Path | None
    depth: int
    dim: int
    context: int
    double: bool
    device: str


class Seen(NamedTuple):
    """One stream: seconds to the first token, seconds between tokens, the text."""

    first: float
    between: list[float]
    text: str


# the server


def host(asked: Asked, pipe: Connection) -> None:
    """Serves on a free port, which it tells, until it is terminated."""
    code = exit_code("serve.py", lambda: _host(asked, pipe))
    sys.exit(code)


def _host(asked: Asked, pipe: Connection) -> int:
    from wren.interrupt import Signals
    from wren.serve.command import Options, listening, prepare, run_server

    precision = choose_precision(choose_device(asked.device))
    if asked.double:
        precision = Precision(device=precision.device, autocast=None, why="a row alone and in a batch are the same")
    loaded = _loaded(asked, precision.device)
    if asked.double:
        loaded = loaded._replace(model=loaded.model.double())
    wish = Options(run=asked.run or Path("random"), port=0, context=asked.context)
    serving = prepare(loaded, wish, precision)
    with listening("127.0.0.1", 0) as listener, Signals() as signals:
        pipe.send(listener.getsockname()[1])
        run_server(serving, listener, signals, 5)
    return 0


def _loaded(asked: Asked, device: torch.device) -> Loaded:
    if asked.run is not None:
        return load_run(asked.run, device)
    tokenizer = Tokenizer.train(_TEXT, _VOCABULARY)
    torch.manual_seed(0)
    settings = [f"depth={asked.depth}", f"dim={asked.dim}", f"num_heads={max(1, asked.dim // 64)}"]
    model = recipes.build("llama", vocab_size=_VOCABULARY, settings=settings).model.build()
    return Loaded(model.to(device).eval(), tokenizer, 0)


# the clients


def body(seed: int, args: argparse.Namespace, ends: dict[str, int]) -> dict[str, Any]:
    """A request that draws just so many tokens."""
    return {
        "prompt": [1 + (seed * 7 + i) % 250 for i in range(args.prompt)],
        "max_tokens": args.tokens,
        "seed": seed,
        "stream": True,
        "logit_bias": ends,
    }


async def stream(client: httpx.AsyncClient, asked: dict[str, Any]) -> Seen:
    """Raises httpx.HTTPError or ValueError for anything but a whole answer."""
    start, times, text, last = time.perf_counter(), [], "", ""
    async with client.stream("POST", "/v1/completions", json=asked) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line:
                continue
            last = line
            if line != "data: [DONE]":
                times.append(time.perf_counter())
                text += json.loads(line[6:])["choices"][0]["text"]
    if last != "data: [DONE]" or not times:
        raise ValueError(f"a stream ended with {last[:80]!r}")
    return Seen(times[0] - start, [b - a for a, b in itertools.pairwise(times)], text)


async def measure(client: httpx.AsyncClient, count: int, args: argparse.Namespace, ends: dict[str, int]) -> Any:
    """The row of so many streams; the first repeat warms up and is not counted."""
    seen: list[Seen] = []
    rates = []
    for repeat in range(args.repeats + 1):
        start = time.perf_counter()
        found = await asyncio.gather(*(stream(client, body(1000 * repeat + i, args, ends)) for i in range(count)))
        if repeat:
            seen += found
            rates.append(count * args.tokens / (time.perf_counter() - start))
    first, between = [each.first for each in seen], [gap for each in seen for gap in each.between]
    return {
        "name": f"{count} streams",
        "streams": count,
        "first_ms": 1e3 * statistics.median(first),
        "first_ms_95": 1e3 * quantile(first),
        "between_ms": 1e3 * statistics.median(between),
        "between_ms_95": 1e3 * quantile(between),
        "tokens_per_second": statistics.median(rates),
    }


def quantile(values: list[float], share: float = 0.95) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def load(client: httpx.AsyncClient, count: int, args: argparse.Namespace, ends: dict[str, int]) -> dict[str, Any]:
    """Streams without a pause, and what went wrong."""
    wanted = [(await stream(client, body(seed, args, ends))).text for seed in range(_KINDS)]
    end = time.monotonic() + args.load
    done, errors, wrong = 0, [], 0
    memory: list[float] = []

    async def again(number: int) -> None:
        nonlocal done, wrong
        turn = number
        while time.monotonic() < end:
            seed = turn % _KINDS
            try:
                wrong += (await stream(client, body(seed, args, ends))).text != wanted[seed]
                done += 1
            except (httpx.HTTPError, ValueError) as error:
                errors.append(repr(error)[:200])
            turn += 5

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(await resident(client))
            await asyncio.sleep(min(5.0, args.load / 10))

    await asyncio.gather(watch(), *(again(i) for i in range(count)))
    third = max(1, len(memory) // 3)
    parts = (memory[:third], memory[third:-third], memory[-third:])
    return {
        "name": f"{count} streams for {args.load:.0f} s",
        "streams": count,
        "answers": done,
        "errors": len(errors),
        "first_errors": errors[:5],
        "other_texts": wrong,
        "memory_bytes": [statistics.median(part) for part in parts if part],
        "tokens_per_second": done * args.tokens / args.load,
    }


async def resident(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("wren_resident_memory_bytes "))


async def clients(port: int, args: argparse.Namespace, ends: dict[str, int], record: Record, console: Console) -> int:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        if args.load:
            row = await load(client, max(args.streams), args, ends)
            record.put("load", {"rows": [row]})
            console.print(_load_in_words(row), highlight=False)
            return 1 if row["errors"] or row["other_texts"] else 0
        rows = []
        for count in args.streams:
            rows.append(await measure(client, count, args, ends))
            record.put("speed", {"rows": rows})
        show(rows, console)
    return 0


def _load_in_words(row: dict[str, Any]) -> str:
    memory = ", ".join(units.size(each) for each in row["memory_bytes"])
    return (
        f"{row['name']}: {row['answers']:,} answers, {row['errors']} errors, {row['other_texts']} of another text, "
        f"{row['tokens_per_second']:,.0f} tokens/s; memory {memory}."
    )


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=box.SIMPLE, title="What a client sees; milliseconds, median and 95 %")
    for name in ("streams", "first token", "95 %", "between tokens", "95 %", "tokens/s"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = [row[key] for key in ("first_ms", "first_ms_95", "between_ms", "between_ms_95")]
        shown = [f"{value:,.1f}" for value in numbers]
        table.add_row(str(row["streams"]), *shown, f"{row['tokens_per_second']:,.0f}")
    console.print(table)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--run", type=Path, help="the run that is served; without it a random model")
    add("--size", type=options.size, default=(6, 384), help="of the random model, depth x width")
    add("--streams", type=options.wholes, default=[1, 8, 64])
    add("--tokens", type=options.whole, default=64, help="drawn in each stream")
    add("--prompt", type=options.whole, default=64, help="tokens read for each")
    add("--repeats", type=options.whole, default=5)
    add("--load", type=options.positive, default=0.0, help="seconds of load instead")
    add("--device", default="auto")
    add("--json", type=Path, default=OUT, help="where the numbers go")
    return found


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    console = Console()
    record = Record.begin(args.json, choose_device(args.device), vars(args))
    console.print(f"on {in_words(record.content['machine'])}", highlight=False)
    tokenizer = load_run(args.run, torch.device("cpu")).tokenizer if args.run else Tokenizer.train(_TEXT, _VOCABULARY)
    ends = {str(token): -100 for token in tokenizer.special.values()}
    depth, dim = args.size
    asked = Asked(args.run, depth, dim, args.prompt + args.tokens, bool(args.load), args.device)
    here, there = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=host, args=(asked, there))
    server.start()
    there.close()
    try:
        code = asyncio.run(clients(here.recv(), args, ends, record, console))
    except EOFError as error:
        raise ConfigError("The server did not start; its own words stand above.") from error
    finally:
        server.terminate()
        server.join()
    console.print(f"written to {args.json}", highlight=False)
    return code


if __name__ == "__main__":
    sys.exit(exit_code("serve.py", main))
