"""Every probe: its examples can be answered from what was read, its settings hold what they say, nothing leaks."""

import dataclasses
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch
from probe_solvers import SOLVERS

import wren.probes
from wren import groups, probe_parts, probes
from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.probe import ProbeConfig, Setting

NAMES = [module.name for module in pkgutil.iter_modules(wren.probes.__path__)]
SETTINGS = [(name, size) for name in NAMES for size in probes.get(name).SIZES]
NEXT_TOKENS = ("dfa", "fuzzy_recall", "in_context_recall", "noisy_recall")  # training takes every next token
MORE_PLACES = ("linear_regression",)  # training takes more places than a test
OTHER_SIZES = ("copy", "palindrome", "sorting")  # training draws sizes, tests do not
# What a solver answers of the scored places, where not all can be answered by it: at least, at most.
COVERAGE = {"fuzzy_recall": (0.98, 0.9999), "dfa": (0.25, 0.75)}
RIGHT = {"linear_regression": (0.84, 0.97)}  # y is known to a bin only


def setting(name: str, size: str) -> Setting:
    return probes.get(name).SIZES[size]


def headline(name: str, size: str) -> Any:
    return next(iter(setting(name, size).tests.values()))


def draw(config: ProbeConfig, count: int, seed: int = 0, *, train: bool = False) -> Batch:
    return config.batch(count, np.random.default_rng(seed), train=train)


def scored(batch: Batch) -> torch.Tensor:
    return batch.targets_BT != IGNORE


def solved(name: str, config: ProbeConfig, batch: Batch, most: int) -> tuple[float, float]:
    """(share of scored places that the solver answers, share of its answers that are right), of `most` places a row."""
    told = right = asked = 0
    rng = np.random.default_rng(0)
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        places = [t for t, target in enumerate(targets) if target != IGNORE]
        for t in rng.permutation(places)[:most].tolist():
            answer = SOLVERS[name](config, tokens[: t + 1])
            asked, told = asked + 1, told + (answer is not None)
            right += answer == targets[t]
    return told / asked, right / told


def test_every_probe_is_found_and_has_a_solver():
    assert probes.names() == sorted(NAMES) == sorted(SOLVERS)
    assert len(NAMES) == 21


def test_an_unknown_probe_is_named_with_the_list():
    with pytest.raises(ConfigError, match=r"Probe 'mqra' is unknown; did you mean 'mqar'\? It can be: a5, .*stack\."):
        probes.get("mqra")


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_opens_with_its_task_and_its_source(name: str):
    module = probes.get(name)
    assert module.__doc__ is not None
    assert "\n    tokens " in module.__doc__
    assert "\n    targets" in module.__doc__
    assert "(" in module.__doc__.splitlines()[0]
    assert {"cpu", "paper"} <= set(module.SIZES)
    assert dataclasses.fields(module.Config)
    assert module.Config.__dataclass_params__.frozen


@pytest.mark.parametrize(("name", "size"), SETTINGS)
def test_shapes_types_and_ranges(name: str, size: str):
    its = setting(name, size)
    for config in (its.train, *its.tests.values()):
        for train in (True, False):
            batch = draw(config, 3, train=train)
            for x_BT in (batch.tokens_BT, batch.targets_BT):
                assert x_BT.shape == (3, config.length)
                assert x_BT.dtype == torch.int64
                assert x_BT.is_contiguous()
            assert batch.tokens_BT.min() >= 0
            assert batch.tokens_BT.max() < config.vocab_size
            targets = batch.targets_BT[scored(batch)]
            assert scored(batch).any(1).all()
            assert targets.min() >= 0
            assert targets.max() < config.vocab_size
            assert all(x is None for x in batch[2:])


@pytest.mark.parametrize(("name", "size"), SETTINGS)
def test_a_setting_holds_what_a_sweep_needs(name: str, size: str):
    its = setting(name, size)
    assert its.says.endswith(".")
    assert its.dim % its.num_heads == 0
    assert len(its.tests) == len({str(config) for config in its.tests.values()})
    assert its.steps >= 10 * its.eval_every
    assert all(0 < lr <= 0.01 + 1e-9 for lr in its.lrs)
    assert its.learned_positions == (name == "mqar")  # as in the paper; all others leave places to the mixer
    assert {config.vocab_size for config in its.tests.values()} == {its.train.vocab_size}
    if size == "cpu":
        assert 2 <= len(its.lrs) <= 4
        assert its.steps * its.batch_size * its.train.length <= 6.5e6


@pytest.mark.parametrize("name", NAMES)
def test_longer_rows_are_tested(name: str):
    """2x and 4x the trained length at least, 8x or 16x at the paper's size, where a longer row has a meaning."""
    for size, least in (("cpu", 4), ("paper", 8)):
        its = setting(name, size)
        longest = max(config.length for config in its.tests.values()) / its.train.length
        if name in ("mqar", "compression"):  # tables of places end where training does
            assert longest == 1
        elif name == "key_overwrite" and size == "cpu":  # rows of writes and as many queries as before
            assert longest > 2.5
        else:
            assert longest > 0.9 * least


@pytest.mark.parametrize(("name", "size"), SETTINGS)
def test_targets_can_be_told_from_what_was_read(name: str, size: str):
    its = setting(name, size)
    for config in (its.train, *its.tests.values()):
        if config.length > 2500:  # the same generator, longer
            continue
        rows = 60 if name in COVERAGE or name in RIGHT else 3
        told, right = solved(name, config, draw(config, rows, seed=5), most=8)
        low, high = COVERAGE.get(name, (1.0, 1.0))
        if config is headline(name, size):
            assert low <= told <= high
        low, high = RIGHT.get(name, (1.0, 1.0))
        assert low <= right <= high


@pytest.mark.parametrize(("name", "size"), SETTINGS)
def test_chance_is_the_best_constant_answer(name: str, size: str):
    its, config = setting(name, size), headline(name, size)
    count = max(50, min(4000, 400_000 // config.length))
    choose, check = (batch.targets_BT[scored(batch)] for batch in (draw(config, count, 1), draw(config, count, 2)))
    if its.score == "exact":
        assert its.chance == 0
    elif its.score == "macro":
        assert its.chance == pytest.approx(1 / len(choose.unique()))
    else:
        found = (check == choose.bincount().argmax()).double().mean().item()
        noise = 4 * (its.chance / min(len(check), 4 * count)) ** 0.5  # places of a row go together
        assert found == pytest.approx(its.chance, abs=noise + 0.06 * its.chance)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_alone_decides(name: str):
    for config in (setting(name, "cpu").train, headline(name, "cpu")):
        for train in (True, False):
            one, two, other = (draw(config, 20, seed, train=train) for seed in (3, 3, 4))
            assert torch.equal(one.tokens_BT, two.tokens_BT)
            assert torch.equal(one.targets_BT, two.targets_BT)
            assert not torch.equal(one.tokens_BT, other.tokens_BT)


@pytest.mark.parametrize("name", NAMES)
def test_no_test_row_was_trained_on(name: str):
    config = headline(name, "cpu")
    train, test = (draw(config, 500, seed).tokens_BT.tolist() for seed in (1, 2))
    assert not {tuple(row) for row in train} & {tuple(row) for row in test}
    assert len({tuple(row) for row in train}) == 500


@pytest.mark.parametrize("name", NAMES)
def test_training_and_tests_differ_only_where_it_is_said(name: str):
    configs: list[Any] = [setting(name, "cpu").train, headline(name, "paper")]
    for config in configs:
        train, test = (draw(config, 20, 7, train=train) for train in (True, False))
        if name in NEXT_TOKENS:
            assert torch.equal(train.targets_BT[:, :-1], train.tokens_BT[:, 1:])
            assert not torch.equal(scored(train), scored(test))
            if name != "fuzzy_recall":  # whose tests take the longest keys alone
                assert torch.equal(train.tokens_BT, test.tokens_BT)
                assert torch.equal(train.targets_BT[scored(test)], test.targets_BT[scored(test)])
        elif name in MORE_PLACES:
            assert torch.equal(train.tokens_BT, test.tokens_BT)
            assert (scored(train) | ~scored(test)).all()
            assert torch.equal(train.targets_BT[scored(test)], test.targets_BT[scored(test)])
        elif name in OTHER_SIZES and config.smallest is not None:
            assert len(scored(train).sum(1).unique()) > 1
            assert len(scored(test).sum(1).unique()) == 1
        else:
            assert torch.equal(train.tokens_BT, test.tokens_BT)
            assert torch.equal(train.targets_BT, test.targets_BT)


@pytest.mark.parametrize(
    ("table", "order"),
    [(groups.symmetric(3), 6), (groups.alternating(5), 60), (groups.symmetric(5), 120), (groups.cyclic(2), 2)],
)
def test_tables_are_groups(table: np.ndarray, order: int):
    every = np.arange(order)
    assert table.shape == (order, order)
    assert (np.sort(table, axis=0) == every[:, None]).all()  # each element comes once in every column,
    assert (np.sort(table, axis=1) == every).all()  # and row: closed, with inverses
    assert (table[0] == every).all()
    assert (table[:, 0] == every).all()
    assert (table[table[:, :, None], every] == table[every[:, None, None], table[None]]).all()  # associative


def test_s3_and_s5_do_not_commute_and_a5_is_simple():
    for table in (groups.symmetric(3), groups.symmetric(5), groups.alternating(5)):
        assert not (table == table.T).all()
    table = groups.alternating(5)
    inverse = table.argmin(axis=1)  # 0 does nothing
    products = {int(table[table[a, b], table[inverse[a], inverse[b]]]) for a in range(60) for b in range(60)}
    assert len(products) == 60  # every element is a commutator: no way to solve it step by step


@pytest.mark.parametrize(("choices", "size"), [(5, 5), (6, 4), (40, 6), (4095, 64)])
def test_distinct_draws_have_no_repeats_and_no_favourites(choices: int, size: int):
    drawn = probe_parts.distinct(np.random.default_rng(0), 4000, choices, size)
    assert drawn.shape == (4000, size)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < choices
    for column in (0, size - 1):  # every number at every place alike: 5 standard deviations
        share = np.bincount(drawn[:, column] * 5 // choices, minlength=5) / 4000
        wide = np.bincount(np.arange(choices) * 5 // choices) / choices
        assert np.abs(share - wide).max() < 5 * (0.25 / 4000) ** 0.5


def test_weighted_draws_are_those_of_one_after_another():
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    drawn = probe_parts.weighted_distinct(np.random.default_rng(0), 40_000, weights, 2)
    for first in range(4):
        chance = weights[first] / 12
        assert (drawn[:, 0] == first).mean() == pytest.approx(chance, abs=0.012)
        for second in set(range(4)) - {first}:
            both = chance * weights[second] / (12 - weights[first])
            assert ((drawn[:, 0] == first) & (drawn[:, 1] == second)).mean() == pytest.approx(both, abs=0.012)


def test_mqar_rows_look_as_the_paper_says():
    config = probes.get("mqar").SIZES["paper-64"].train
    batch = draw(config, 4000)
    tokens, targets = batch.tokens_BT, batch.targets_BT
    keys, values, rest = tokens[:, 0:8:2], tokens[:, 1:8:2], tokens[:, 8:]
    assert keys.min() >= 1
    assert keys.max() < 4096 <= values.min()
    assert (rest[:, 1::2] == 0).all()
    assert (scored(batch).sum(1) == 4).all()
    assert torch.equal(scored(batch)[:, 8:], rest > 0)
    place = (rest[:, 0::2, None] == keys[:, None]).int().argmax(1)  # where each pair's query stands
    chance = np.arange(1, 29) ** -0.99
    chance /= chance.sum()
    assert (place[:, 0] == 0).double().mean().item() == pytest.approx(chance[0], abs=0.035)
    assert (place[:, 0] >= 14).double().mean().item() == pytest.approx(chance[14:].sum(), abs=0.035)
    assert place.double().mean(0).diff().min() > 0  # queries of earlier pairs tend to come earlier
    assert (targets[scored(batch)] >= 4096).all()


def test_mqar_can_fill_with_random_tokens():
    config = probes.get("mqar").Config(length=64, num_pairs=4, random_fill=True)
    tokens = draw(config, 50).tokens_BT[:, 8:]
    assert (tokens > 0).double().mean() > 0.99
    assert solved("mqar", config, draw(config, 20), most=4) == (1.0, 1.0)


def test_noise_takes_its_share_of_the_pairs():
    config = probes.get("noisy_recall").Config()
    tokens = draw(config, 2000).tokens_BT
    is_noise = tokens[:, 0:-1:2] >= 16
    assert is_noise.double().mean().item() == pytest.approx(0.2 * 63 / 64, abs=0.01)
    assert torch.equal(is_noise, tokens[:, 1::2] >= 16)
    assert (tokens[:, -1] < 8).all()
    tight = probes.get("noisy_recall").Config(num_pairs=2, noise=0.9)  # the only pair before the last is never noise
    assert (draw(tight, 200).tokens_BT < 16).all()


def test_fuzzy_training_has_keys_of_every_size_and_tests_the_longest():
    config = probes.get("fuzzy_recall").Config()
    for train, sizes in ((True, {1, 2, 3}), (False, {3})):
        found = set()
        for row in draw(config, 50, train=train).tokens_BT.tolist():
            runs = "".join("k" if token < 7 else "v" if token < 15 else " " for token in row).replace("v", " ").split()
            found |= {len(run) for run in runs[:-1]}
        assert found == sizes


def test_memorization_keeps_its_map_and_others_have_another():
    module = probes.get("memorization")
    values = module.Config().values()
    assert (values == module.Config(num_pairs=3).values()).all()
    assert (values != module.Config(map_seed=1).values()).any()
    assert len(set(values.tolist())) == 127
    assert values.min() >= 127
    assert values.max() < 255


def test_old_values_of_a_key_are_wrong():
    config = headline("key_overwrite", "cpu")
    for row, targets in zip(draw(config, 50).tokens_BT.tolist(), draw(config, 50).targets_BT.tolist(), strict=True):
        assert len(set(row[1 : 2 * config.num_writes : 2])) == config.num_writes
        assert len(set(row[0 : 2 * config.num_writes : 2])) == config.num_keys
        assert sum(target != IGNORE for target in targets) == config.num_keys


def test_dfa_scores_no_letter_that_could_be_another():
    """Where two words begin alike and go on differently, the place is not scored."""
    config = headline("dfa", "cpu")
    batch, checked = draw(config, 60), 0
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        after: dict[tuple[int, ...], set[int]] = {}
        word: tuple[int, ...] = ()
        for token in tokens:
            if token == config.letters:
                word = ()
                continue
            after.setdefault(word, set()).add(token)
            word += (token,)
        word = ()
        for token, target in zip(tokens, targets, strict=True):
            word = () if token == config.letters else (*word, token)
            if target != IGNORE:
                checked += 1
                assert after.get(word, {target}) == {target}
    assert checked > 500


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("mqar", {"length": 63, "num_pairs": 4}, "mqar.length is 63; 4 pairs and their queries need an even one"),
        ("mqar", {"length": 14, "num_pairs": 4}, "of at least 16"),
        ("mqar", {"length": 64, "num_pairs": 0}, "mqar.num_pairs is 0"),
        ("mqar", {"length": 64, "num_pairs": 4, "vocab_size": 9}, "mqar.vocab_size is 9; 4 pairs need at least 10"),
        ("mqar", {"length": 64, "num_pairs": 4, "power": 0.0}, "mqar.power"),
        ("in_context_recall", {"num_pairs": 1}, "num_pairs is 1"),
        ("in_context_recall", {"vocab_size": 3}, "vocab_size is 3"),
        ("noisy_recall", {"noise": 1.0}, "noise is 1.0"),
        ("noisy_recall", {"vocab_size": 18}, "beside 16 noise tokens"),
        ("noisy_recall", {"noise_vocab": 0}, "noise_vocab is 0"),
        ("noisy_recall", {"num_pairs": 1}, "num_pairs is 1"),
        ("fuzzy_recall", {"length": 12}, "length is 12"),
        ("fuzzy_recall", {"vocab_size": 6}, "vocab_size is 6"),
        ("selective_copying", {"length": 33}, "16 letters need more than 33"),
        ("selective_copying", {"letters": 0}, "letters is 0"),
        ("selective_copying", {"vocab_size": 3}, "vocab_size is 3"),
        ("compression", {"letters": 32}, "between 1 and places, 31"),
        ("compression", {"letter_vocab": 1}, "letter_vocab is 1"),
        ("memorization", {"num_pairs": 0}, "num_pairs is 0"),
        ("memorization", {"vocab_size": 2}, "vocab_size is 2"),
        ("induction", {"length": 2}, "length is 2"),
        ("induction", {"vocab_size": 2}, "vocab_size is 2"),
        ("copy", {"size": 4, "smallest": 5}, "copy.smallest is 5"),
        ("copy", {"size": 4, "letters": 1}, "copy.letters is 1"),
        ("palindrome", {"size": 0}, "palindrome.smallest is 0"),
        ("sorting", {"size": 4, "smallest": 0}, "sorting.smallest is 0"),
        ("stack", {"operations": 1}, "stack.operations is 1"),
        ("stack", {"operations": 9, "depth": 0}, "stack.depth is 0"),
        ("s3", {"elements": 0}, "s3.elements is 0"),
        ("a5", {"elements": 0}, "a5.elements is 0"),
        ("s5", {"elements": -1}, "s5.elements is -1"),
        ("parity", {"bits": 0}, "parity.bits is 0"),
        ("key_overwrite", {"num_keys": 4, "num_writes": 3, "key_vocab": 9, "value_vocab": 9}, "num_writes is 3"),
        ("key_overwrite", {"num_keys": 4, "num_writes": 6, "key_vocab": 9, "value_vocab": 5}, "value_vocab is 5"),
        ("key_overwrite", {"num_keys": 0, "num_writes": 6, "key_vocab": 9, "value_vocab": 9}, "num_keys is 0"),
        ("noisy_mqar", {"length": 32, "num_pairs": 9, "vocab_size": 99}, "at least 36"),
        ("noisy_mqar", {"length": 64, "num_pairs": 9, "vocab_size": 33}, "at least 34"),
        ("noisy_mqar", {"length": 64, "num_pairs": 0, "vocab_size": 33}, "num_pairs is 0"),
        ("noisy_mqar", {"length": 64, "num_pairs": 1, "vocab_size": 33, "noise_vocab": 0}, "noise_vocab is 0"),
        ("linear_regression", {"dims": 2, "num_examples": 4}, "at least 5"),
        ("linear_regression", {"dims": 0, "num_examples": 4}, "dims is 0"),
        ("linear_regression", {"dims": 2, "num_examples": 9, "bins": 1}, "bins is 1"),
        ("dfa", {"length": 1}, "dfa.length is 1"),
        ("dfa", {"length": 9, "word": 0}, "dfa.word is 0"),
        ("dfa", {"length": 9, "letters": 11}, "not 4, 12, 11"),
        ("dfa", {"length": 9, "most_ways": 5}, "dfa.most_ways is 5"),
        ("dyck", {"length": 0}, "dyck.length is 0"),
        ("dyck", {"length": 9, "kinds": 0}, "dyck.kinds is 0"),
    ],
)
def test_settings_that_cannot_be_are_said_in_a_sentence(name: str, settings: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError) as error:
        probes.get(name).Config(**settings)
    assert sentence in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_setting_takes_little_memory_per_row(name: str):
    """A batch is int64 tokens and targets of its own, not views of something larger."""
    batch = draw(headline(name, "cpu"), 7)
    for x_BT in (batch.tokens_BT, batch.targets_BT):
        assert x_BT.untyped_storage().nbytes() == 8 * x_BT.numel()
