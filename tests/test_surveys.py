"""Surveys against the dense oracle, input by input; intervals against simulated sources whose truth is known."""

import json
import math
import sys

import numpy as np
import oracles
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fimtheory as ft
from fimtheory import cli, surveys
from fimtheory.claims import Status
from fimtheory.data import Data
from fimtheory.errors import DataError, FimTheoryError, GraphError, NonFiniteError, PropertyError
from fimtheory.intervals import exceeding_share, mean_interval, quantile_ranks, summarised


def classifier(classes=4, dtype=torch.float64):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, classes)).to(dtype).eval()


def inputs(n=23):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Listed(Dataset):
    """A dataset of whatever is in a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        return self.items[k]


# ---- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("batch", [1, 4, 7, 23, 100, None])
def test_every_input_has_its_own_lam_prediction_and_probability(method, batch):
    module, x = classifier(), inputs()
    found = ft.survey(module, x, method, batch=batch, temperature=2.0)
    truth = torch.tensor([oracles.log10_lam(module, each, 2.0) for each in x], dtype=torch.float64)
    torch.testing.assert_close(found.log10_lam, truth, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.lam, 10**truth, rtol=1e-5, atol=0)
    with torch.no_grad():
        p = (module(x) / 2.0).softmax(1)
    assert torch.equal(found.predicted, p.argmax(1))
    torch.testing.assert_close(found.probability, p.amax(1), rtol=1e-12, atol=0)
    assert len(found) == len(found.statuses) == len(found.methods) == len(found.seconds_each) == 23
    assert set(found.methods) == {found.method} == {method}
    assert found.status is (Status.EXACT if method == "exact" else Status.LOWER)
    assert found.labels is None
    assert (found.lower <= found.lam).all()
    assert found.upper.isinf().all() == (method == "lanczos")
    assert found.seconds == pytest.approx(found.seconds_each.sum().item())


@pytest.mark.parametrize("pieces", [[1] * 40, [40], [7, 1, 1, 20], [3], [1], [2, 1], [16, 1], [33]])
@pytest.mark.parametrize("batch", [1, 2, 3, 16, 50])
def test_a_batch_of_one_comes_up_only_where_it_is_asked_for(pieces, batch):
    n, y = sum(pieces), torch.arange(sum(pieces))
    made = list(surveys._regrouped(zip(y[:, None].double().split(pieces), y.split(pieces), strict=True), batch))
    sizes = [len(x) for x, _ in made]
    assert torch.equal(torch.cat([labels for _, labels in made]), y)
    assert torch.equal(torch.cat([x for x, _ in made]), y[:, None].double())
    assert max(sizes) <= batch
    assert n == 1 or batch <= 2 or min(sizes) > 1  # two cannot divide an odd number
    assert min(sizes) >= min(n, batch // 2)


def test_large_inputs_come_in_smaller_batches_by_default():
    sizes = [len(x) for x, _ in surveys._regrouped(iter([(torch.zeros(100, 3, 224, 224), None)]), None)]
    assert sizes == [13] * 6 + [11] * 2
    sizes = [len(x) for x, _ in surveys._regrouped(iter([(torch.zeros(3, 2**22), None)]), None)]
    assert sizes == [1, 1, 1]


def test_all_kinds_of_data_give_the_same_values():
    module, x, y = classifier(dtype=torch.float32), inputs().float(), torch.arange(23)
    expected = ft.survey(module, x)
    arrays = [x.numpy(), x.numpy().astype(np.float64), x.numpy().astype(">f4"), x.numpy()[::-1][::-1]]
    for data in (*arrays, x.double(), DataLoader(Listed(list(x)), batch_size=5), DataLoader(TensorDataset(x), 64)):
        found = ft.survey(module, data)
        assert torch.equal(found.lam, expected.lam)
        assert found.labels is None
    pairs = Listed([(each, int(label)) for each, label in zip(x, y, strict=True)])
    for data in (Data(x, y, "23 of these"), DataLoader(pairs, batch_size=5), DataLoader(TensorDataset(x, y), 1)):
        found = ft.survey(module, data)
        assert torch.equal(found.lam, expected.lam)
        assert torch.equal(found.labels, y)


def test_notes_of_batches_are_told_once_and_probabilities_are_noticed():
    probabilities = nn.Sequential(classifier(), nn.Softmax(1)).eval()
    found = ft.survey(probabilities, inputs(), batch=5)
    assert found.note.count("the outputs of the model are probabilities") == 1
    assert found.note.count("exact was taken as the cheaper") == 1
    assert ft.survey(classifier(), inputs(), "exact").note == ""


def test_equal_seeds_give_equal_results_and_every_batch_has_a_start_of_its_own():
    module, x = classifier(classes=60), inputs(1).expand(12, 5)
    first, again, other = (ft.survey(module, x, "power", batch=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.lam, again.lam)
    assert not torch.equal(first.lam, other.lam)
    assert len(first.lam.unique()) == 12  # one input: only starts differ


def test_results_depend_on_the_batch_size_by_no_more_than_their_tolerance():
    module, x = classifier(classes=60), inputs()
    for method, relative in (("exact", 1e-12), ("lanczos", 1e-5)):
        some, all_ = (ft.survey(module, x, method, batch=batch) for batch in (3, 23))
        torch.testing.assert_close(some.lam, all_.lam, rtol=relative, atol=0)


def test_a_level_gives_every_input_an_interval():
    found = ft.survey(classifier(classes=60), inputs(), "lanczos", level=0.9)
    assert (found.status, found.level) == (Status.CONFIDENCE, 0.9)
    assert (found.upper >= found.lam).all()
    assert found.upper.isfinite().all()
    assert found.columns()["level"] == [0.9] * 23


def test_a_status_is_what_every_input_has():
    found = ft.survey(classifier(), inputs(3))

    def mixed(*statuses):
        values = {name: getattr(found, name) for name in surveys.Survey.__slots__}
        return surveys.Survey(**(values | {"statuses": statuses})).status

    assert mixed(Status.EXACT, Status.LOWER, Status.EXACT) is Status.LOWER
    assert mixed(Status.EXACT, Status.CONFIDENCE, Status.CONFIDENCE) is Status.CONFIDENCE
    with pytest.raises(DataError, match="confidence and lower; name one method"):
        mixed(Status.LOWER, Status.CONFIDENCE, Status.EXACT)


def test_a_survey_is_shown_in_one_line_and_draws_no_bar_unless_asked(capfd):
    text = repr(ft.survey(classifier(), inputs()))
    assert len(text) < 200
    assert text.startswith("<Survey: lam of 23 inputs from ")
    assert capfd.readouterr() == ("", "")
    ft.survey(classifier(), inputs(), progress=True)
    assert capfd.readouterr().out == ""


# ---- refusals ---------------------------------------------------------------------------------------------------


def holding(x, k, value):
    """Return inputs with one entry replaced."""
    x = x.clone()
    x[k, 2] = value
    return x


class Failing(nn.Module):
    """Fails with a named error where an input starts with more than 9."""

    def __init__(self, located):
        super().__init__()
        self.located = located
        self.body = classifier()

    def forward(self, x):
        logits = self.body(x)
        if self.located:
            return logits + torch.where(x[:, :1] > 9, torch.inf, 0.0)
        return logits[:, :1] if (x[:, 0] > 9).any() else logits


def test_an_error_in_a_batch_is_told_as_one_of_the_data():
    x = inputs()
    x[17, 0] = 10.0
    with pytest.raises(NonFiniteError, match=r"^input 17 of the data: .*NaN or infinite") as caught:
        ft.survey(Failing(located=True).eval(), x, batch=5)
    assert caught.value.__suppress_context__
    with pytest.raises(GraphError, match=r"^inputs 15 to 18 of the data: the module returned one logit"):
        ft.survey(Failing(located=False).eval(), x, batch=5)


def test_an_error_of_the_module_is_told_as_it_is():
    with pytest.raises(GraphError, match=r"^the module itself is in training mode"):
        ft.survey(classifier().train(), inputs())


class Broken(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, k):
        if k == 6:
            raise OSError("disk\non fire")
        return inputs()[k]


X = inputs()
REFUSED = [
    (X[:0], DataError, "hold no inputs"),
    (DataLoader(Listed([]), batch_size=2), DataError, "hold no inputs"),
    (np.zeros((0, 5)), DataError, "hold no inputs"),
    (holding(X, 19, math.nan), NonFiniteError, "^input 19 of the data has NaN"),
    (DataLoader(TensorDataset(holding(X, 19, -math.inf)), 4), NonFiniteError, "^input 19 of the data has NaN"),
    (DataLoader(Listed([*X[:6], torch.zeros(4)]), 2, collate_fn=lambda rows: rows[0][None]), DataError,
     r"^input 3 of the data has shape \(4,\), those before it \(5,\)"),
    (DataLoader(Listed([*X[:3], torch.zeros(4)]), 2), DataError, "loader fails after 2 inputs: RuntimeError: stack"),
    (DataLoader(Broken(), 3), DataError, "fails after 6 inputs: OSError: disk$"),
    (DataLoader(TensorDataset(X), 4, shuffle=True), DataError, "shuffle=False"),
    (DataLoader(Listed([{"image": each} for each in X]), 4), DataError, r"after 0 inputs the loader yields \(dict\)"),
    (DataLoader(TensorDataset(X, X, X), 4), DataError, r"yields \(Tensor, Tensor, Tensor\).*collate_fn"),
    (DataLoader(TensorDataset(X, X[:, 0]), 4), DataError, "labels of inputs 0 to 3 are torch.float64"),
    (DataLoader(TensorDataset(X, X.long()), 4), DataError, r"torch.int64 of shape \(4, 5\)"),
    (DataLoader(Listed([(each, "cat") for each in X]), 4), DataError, "are a (list|tuple): expected one integer"),
    (X.long(), DataError, "torch.int64"),
    (np.zeros((2, 5), dtype=np.uint8), DataError, "uint8"),
    (np.array(["x"]), DataError, "<U1"),
    (torch.zeros(5), DataError, r"shape \(5,\)"),
    (torch.tensor(5.0), DataError, r"shape \(\)"),
    (np.array(5.0), DataError, r"shape \(\)"),
    (torch.zeros(3, 7), DataError, r"rejects inputs of shape \(3, 7\)"),
    ([X], DataError, "a list: expected a torch.Tensor"),
    (None, DataError, "a NoneType"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_data_that_make_no_sense_are_refused(case):
    data, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        ft.survey(classifier(), data)


def test_labels_of_some_inputs_only_are_refused():
    loader = DataLoader(
        Listed(list(range(6))), 2, collate_fn=lambda rows: X[rows] if rows[0] < 4 else (X[rows], torch.tensor(rows))
    )
    with pytest.raises(DataError, match="inputs from 4 on have labels"):
        ft.survey(classifier(), loader)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"batch": 0}, "batch is 0"), ({"method": "guess"}, "^method is 'guess'"), ({"level": 2.0}, "^level is 2.0")],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(DataError, match=words):
        ft.survey(classifier(), X, **options)


# ---- tables on disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_table_gives_back_every_number(suffix, labelled, tmp_path):
    module = nn.Linear(5, 3).double().eval()
    module.weight.data *= 1e170  # lam overflows
    module.bias.data.copy_(torch.tensor([0.0, 5.0, -5.0]))
    x = torch.zeros(3, 5, dtype=torch.float64)
    known = (torch.tensor([2, 1, 0]), "", torch.tensor([4, 7, 9])) if labelled else (None, "")
    found = ft.survey(module, Data(x, *known), "lanczos")
    path = tmp_path / f"table.{suffix}"
    path.write_text("something older")
    found.write(path)
    read = polars.read_csv(path) if suffix == "csv" else polars.read_parquet(path)
    assert read.columns == list(found.columns())
    assert read["index"].to_list() == [0, 1, 2]
    assert read["source_index"].to_list() == ([4, 7, 9] if labelled else [None] * 3)
    assert read["label"].to_list() == ([2, 1, 0] if labelled else [None] * 3)
    for name in ("probability", "lam", "log10_lam", "lower", "upper", "log10_lower", "log10_upper"):
        assert read[name].to_list() == getattr(found, name).tolist()
    assert read["lam"].to_list() == [math.inf] * 3
    assert all(300 < value < 400 for value in read["log10_lam"])
    assert read["upper"].to_list() == [math.inf] * 3
    assert read["status"].to_list() == ["lower"] * 3
    assert read["method"].to_list() == ["lanczos"] * 3
    assert read["seconds"].to_list() == found.seconds_each.tolist()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    found = ft.survey(classifier(), inputs(3))
    path = tmp_path / "table.csv"
    path.write_text("something older")

    def interrupted(error):
        def write(self, file):
            file.write_text("half")
            raise error

        return write

    for error, expected in ((OSError(28, "No space left"), DataError), (KeyboardInterrupt(), KeyboardInterrupt)):
        monkeypatch.setattr(polars.DataFrame, "write_csv", interrupted(error))
        with pytest.raises(expected):
            found.write(path)
        assert path.read_text() == "something older"
        assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("table.txt", ".csv or .parquet"), ("table", ".csv or .parquet"), ("no/table.csv", "is none"), ("", "name such"),
     ("folder.csv", "is a folder")],
)  # fmt: skip
def test_a_table_of_another_kind_or_place_is_refused(name, words, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=words):
        ft.survey(classifier(), inputs(2)).write(tmp_path / name if name else name)


# ---- summaries --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(0.01, 0.99), st.floats(0.5, 0.999))
def test_the_ranks_of_a_quantile_are_the_innermost_of_their_level(n, p, level):
    low, high = quantile_ranks(n, p, level)
    tail = (1 - level) / 2
    below = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]  # P(k of n draws below the quantile)
    assert 0 <= low <= high <= n + 1
    assert sum(below[:low]) <= tail * (
        1 + 1e-9
    )  # P(fewer than low draws below it): then the value of rank low is above
    assert sum(below[high:]) <= tail * (1 + 1e-9)
    if high <= n:
        assert sum(below[: low + 1]) >= tail * (1 - 1e-9)
    assert sum(below[high - 1 :]) >= tail * (1 - 1e-9)


def sample(logs, **options):
    logs = torch.as_tensor(logs, dtype=torch.float64)
    return summarised(10.0**logs, logs, Status.EXACT, **options)


@pytest.mark.parametrize("discrete", [False, True])
def test_intervals_of_quantiles_cover_at_their_level(discrete):
    """400 samples of 60 from a source whose quantiles are known; the level is 0.8 and the theorem says at least."""
    rng, runs, n = np.random.default_rng(0), 400, 60
    hits = dict.fromkeys(("0.05 quantile", "0.25 quantile", "median", "0.75 quantile", "0.95 quantile"), 0)
    unbounded = 0
    for _ in range(runs):
        draws = rng.exponential(size=n)
        logs = np.floor(3 * draws) if discrete else draws
        found = sample(logs, level=0.8, resamples=100)
        for name, p in zip(hits, (0.05, 0.25, 0.5, 0.75, 0.95), strict=True):
            truth = -math.log1p(-p)
            truth = math.floor(3 * truth) if discrete else truth
            interval = found[name].interval
            assert interval.by == "order statistics"
            hits[name] += interval.log10_low <= truth <= interval.log10_high
            unbounded += math.isinf(interval.log10_low) + math.isinf(interval.log10_high)
    fewest = binom.ppf(1e-6, runs, 0.8)
    assert all(count >= fewest for count in hits.values())
    if not discrete:  # not much wider than need be: ranks are integers
        assert all(count <= binom.ppf(1 - 1e-6, runs, 0.92) for count in hits.values())
    assert unbounded == 0


def test_the_interval_of_a_mean_covers_about_at_its_level_where_the_source_is_tame():
    rng, runs, truth = np.random.default_rng(1), 300, math.exp(0.5**2 / 2)
    hits = {"mean": 0, "geometric mean": 0}
    for k in range(runs):
        found = sample(0.5 * rng.standard_normal(100) / math.log(10), level=0.8, resamples=300, seed=k)
        for name, expected in (("mean", truth), ("geometric mean", 1.0)):
            interval = found[name].interval
            assert interval.by == "bootstrap"
            hits[name] += interval.low <= expected <= interval.high
    for count in hits.values():
        assert binom.ppf(1e-4, runs, 0.76) <= count <= binom.ppf(1 - 1e-4, runs, 0.83)


def test_the_fraction_above_the_maximum_is_exact():
    """For a uniform source the fraction above the maximum of n draws is 1 - max; it exceeds q in 5 % of samples."""
    draws = np.random.default_rng(2).random((20000, 30)).max(1)
    q = exceeding_share(30, 0.95)
    assert q == pytest.approx(1 - 0.05 ** (1 / 30), rel=1e-12)
    assert binom.ppf(1e-5, 20000, 0.05) <= (1 - draws > q).sum() <= binom.ppf(1 - 1e-5, 20000, 0.05)
    assert 0 < exceeding_share(10**12, 0.95) < 1e-11


def test_statistics_are_those_of_the_sample():
    logs = np.random.default_rng(3).normal(size=101)
    found = sample(logs, resamples=100)
    for p, name in ((0.05, "0.05 quantile"), (0.25, "0.25 quantile"), (0.5, "median"), (0.75, "0.75 quantile")):
        assert found[name].log10 == np.quantile(logs, p, method="inverted_cdf")
        assert found[name].value == 10.0 ** found[name].log10
    assert (found["minimum"].log10, found["maximum"].log10) == (logs.min(), logs.max())
    assert found["minimum"].interval is found["maximum"].interval is None
    assert found["mean"].value == pytest.approx((10**logs).mean(), rel=1e-12)
    assert found["geometric mean"].log10 == pytest.approx(logs.mean(), rel=1e-12)
    for statistic in found.statistics:
        if statistic.interval is not None:
            assert statistic.interval.low <= statistic.value <= statistic.interval.high
            assert statistic.interval.log10_low == pytest.approx(math.log10(statistic.interval.low), rel=1e-9)


def test_quantiles_of_logarithms_are_logarithms_of_quantiles_beyond_floats():
    """lam from 1e-500 to 1e500: nothing overflows, and the mean is carried by the largest."""
    logs = torch.linspace(-500, 500, 41, dtype=torch.float64)
    found = summarised(10.0**logs, logs, Status.LOWER, resamples=200)
    assert found["median"].log10 == 0
    assert found["mean"].log10 == pytest.approx(500 - math.log10(41), abs=1e-9)
    assert (found["mean"].value, found["maximum"].value, found["minimum"].value) == (math.inf, math.inf, 0.0)
    assert found["geometric mean"].log10 == pytest.approx(0, abs=1e-9)
    assert found.status is Status.LOWER
    told = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(told)["statistics"]["maximum"] == {"lam": None, "log10": 500.0, "interval": None}


@pytest.mark.parametrize("logs", [[1.0], [1.0, 1.0, 1.0], [-math.inf] * 3, [-math.inf, 0.0], [1.0, 2.0], [-400, 400.0]])
def test_samples_that_say_little_have_no_interval_rather_than_a_wrong_one(logs):
    found = sample(logs)
    assert found.n == len(logs)
    assert found["median"].interval is None
    for name in ("mean", "geometric mean"):
        interval = found[name].interval
        assert interval is None or interval.log10_low <= found[name].log10 <= interval.log10_high
    json.dumps(found.to_json(), allow_nan=False)
    if len(set(logs)) == 1:
        assert found["mean"].interval is None
    if -math.inf in logs:
        assert found["geometric mean"].value == 0
        assert found["geometric mean"].interval is None


def test_equal_seeds_give_equal_intervals():
    values = np.random.default_rng(4).lognormal(size=50)
    first, again, other = (mean_interval(values, 0.95, 100, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_summary_of_a_survey_carries_its_status_and_names_its_statistics():
    found = ft.survey(classifier(classes=60), inputs(), "lanczos").summary(resamples=100)
    assert (found.n, found.status, found.level) == (23, Status.LOWER, 0.95)
    assert len(repr(found)) < 200
    with pytest.raises(KeyError, match=r"the statistics are minimum, 0\.05 quantile"):
        found["mode"]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"level": 1.0}, "level is 1.0"), ({"resamples": 99}, "resamples = 99"), ({"seed": -1}, "seed = -1")],
)
def test_summaries_refuse_what_makes_no_sense(options, words):
    with pytest.raises(DataError, match=words):
        ft.survey(classifier(), inputs(3)).summary(**options)


# ---- command line -----------------------------------------------------------------------------------------------


def command(monkeypatch, capsys, *arguments):
    """Run a command in this process; return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["fimtheory", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, *capsys.readouterr()


def test_the_command_writes_a_table_and_summarises_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "digits.parquet"
    options = ("estimate", "zoo:digits_mlp", "--n", 40, "--batch", 9, "--summary-level", 0.9)
    status, out, err = command(monkeypatch, capsys, *options, "--out", path, "--json")
    assert (status, err) == (0, "")
    found, table = json.loads(out), polars.read_parquet(path)
    assert table["lam"].to_list() == found["lam"]
    assert table["label"].null_count() == 0
    assert found["summary"]["level"] == 0.9
    assert found["summary"]["statistics"]["maximum"]["lam"] == max(found["lam"])
    assert found["summary"]["exceeding"] == pytest.approx(1 - 0.1 ** (1 / 40))
    status, out, err = command(monkeypatch, capsys, *options, "--out", tmp_path / "digits.txt")
    assert (status, out) == (2, "")
    assert ".csv or .parquet" in err
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_level_of_values_and_that_of_the_summary_are_two_options(monkeypatch, capsys):
    options = ("estimate", "zoo:digits_mlp", "--n", 20, "--json")
    for method in ("exact", "power"):  # which have no level: their summary has
        _, out, _ = command(monkeypatch, capsys, *options, "--method", method, "--summary-level", 0.8)
        found = json.loads(out)
        assert (found["level"], found["summary"]["level"]) == (None, 0.8)
    _, out, _ = command(monkeypatch, capsys, *options, "--method", "lanczos", "--level", 0.9)
    found = json.loads(out)
    assert (found["level"], found["summary"]["level"]) == (0.9, 0.95)


def test_the_command_shows_notes_and_tells_percent_of_inputs_from_confidence(monkeypatch, capsys):
    """`truncated` runs exact where leaving classes out of ten saves nothing, and no two numbers of percent compete."""
    _, out, _ = command(monkeypatch, capsys, "estimate", "zoo:digits_mlp", "--n", 9, "--method", "truncated")
    shown = " ".join(out.split())
    assert "Note: exact was taken: leaving classes out saves nothing" in shown
    assert "0.95 quantile" in shown
    assert "% quantile" not in shown
    assert "confidence 95 %" in shown


def test_an_error_names_the_class_it_was():
    assert issubclass(NonFiniteError, FimTheoryError)  # what surveys raise again is made from its message alone
    for kind in set(FimTheoryError.__subclasses__()) - {PropertyError}:  # no survey tests properties
        assert str(kind("why")) == "why"
