"""Arms, prices and portfolios: values, order, files, frames, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from defer import Arm, Portfolio, Price
from defer.exceptions import PortfolioError


@pytest.fixture
def portfolio() -> Portfolio:
    return Portfolio(
        [
            Arm(
                "small",
                price=Price.per_million(0.1, 0.4),
                context_window=8192,
                tags=("fast",),
                metadata={"origin": ["x"]},
            ),
            Arm("large", price=Price(per_call=0.001, per_output_token=2e-6), capacity=40),
            Arm("reviewer", kind="expert"),
        ]
    )


def test_price_of_a_call_adds_its_three_parts():
    price = Price(per_call=0.01, per_input_token=1e-6, per_output_token=3e-6)
    assert price.cost(input_tokens=1000, output_tokens=200) == pytest.approx(0.0116)
    assert price.cost() == 0.01
    assert price.cost(input_tokens=[0, 1000]).tolist() == pytest.approx([0.01, 0.011])
    assert math.isnan(price.cost(input_tokens=math.nan))


def test_quotations_per_million_are_prices_per_token():
    assert Price.per_million(0.25, 1.25, currency="EUR") == Price(0.0, 0.25e-6, 1.25e-6, "EUR")


def test_cached_tokens_are_input_tokens_at_a_price_of_their_own():
    price = Price.per_million(3.0, 15.0, cached_input_tokens=0.3)
    assert price == Price(0.0, 3.0 / 1e6, 15.0 / 1e6, "USD", 0.3 / 1e6)
    assert price.cache_discount == pytest.approx(2.7e-6)
    assert price.cost(input_tokens=1000, output_tokens=100, cached_tokens=600) == pytest.approx(
        (400 * 3.0 + 600 * 0.3 + 100 * 15.0) / 1e6
    )
    assert price.cost(input_tokens=[10, 20], cached_tokens=[10, 0]).tolist() == pytest.approx([3e-6, 60e-6])
    assert math.isnan(price.cost(input_tokens=10, cached_tokens=math.nan))
    assert math.isnan(price.cost(input_tokens=math.nan, cached_tokens=5))
    plain = Price.per_million(3.0, 15.0)
    assert plain.cache_discount == 0.0
    assert plain.cost(input_tokens=1000, cached_tokens=600) == plain.cost(input_tokens=1000)
    assert Price(per_input_token=1e-6, per_cached_input_token=0.0).cost(input_tokens=5, cached_tokens=5) == 0.0
    assert Price(per_input_token=1e-6, per_cached_input_token=2e-6).cache_discount == pytest.approx(-1e-6)
    both = Portfolio([Arm("a", price=price), Arm("b", price=plain)])
    assert both.cache_discount.tolist() == pytest.approx([2.7e-6, 0.0])
    cost = both.cost(input_tokens=[1000, 2000], output_tokens=100, cached_tokens=[[600, 600], [0, 2000]])
    for row, (tokens, cached) in enumerate([(1000, (600, 600)), (2000, (0, 2000))]):
        for column, arm in enumerate(both):
            one = arm.price.cost(input_tokens=tokens, output_tokens=100, cached_tokens=cached[column])
            assert cost[row, column] == pytest.approx(one)


def test_there_are_not_more_cached_than_input_tokens(portfolio):
    for call in (Price().cost, portfolio.cost):
        with pytest.raises(
            PortfolioError, match=r"cached_tokens has 1 of 2 values above input_tokens, the first is 7 of 5"
        ):
            call(input_tokens=[5, 9], cached_tokens=[7, 9])
        with pytest.raises(PortfolioError, match="cached_tokens has 1 of 2 values below 0, the first is -1"):
            call(input_tokens=[5, 9], cached_tokens=[-1, 0])


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", None, True])
@pytest.mark.parametrize("name", ["per_call", "per_input_token", "per_output_token"])
def test_price_must_be_finite_and_not_negative(name, value):
    with pytest.raises(PortfolioError, match=f"Price: {name} must be a finite number >= 0, got {value!r}"):
        Price(**{name: value})


def test_quotation_and_currency_are_checked():
    with pytest.raises(PortfolioError, match="Price: output_tokens must be a finite number >= 0, got '1'"):
        Price.per_million(1.0, "1")
    with pytest.raises(PortfolioError, match="Price: cached_input_tokens must be a finite number >= 0, got -1"):
        Price.per_million(1.0, 1.0, cached_input_tokens=-1)
    with pytest.raises(PortfolioError, match="Price: per_cached_input_token must be a finite number >= 0, got nan"):
        Price(per_cached_input_token=math.nan)
    with pytest.raises(PortfolioError, match="Price: currency must be a non-empty string, got ''"):
        Price(currency="")


def test_token_counts_cannot_be_negative(portfolio):
    for call in (Price().cost, portfolio.cost):
        with pytest.raises(PortfolioError, match="input_tokens has 2 of 3 values below 0, the first is -1"):
            call(input_tokens=[5, -1, -2])


def test_arms_compare_hash_copy_and_pickle(portfolio):
    arm = portfolio["small"]
    for twin in (copy.copy(arm), copy.deepcopy(arm), pickle.loads(pickle.dumps(arm))):
        assert twin == arm
        assert hash(twin) == hash(arm)
        assert twin.metadata == {"origin": ["x"]}
    assert copy.deepcopy(arm).metadata["origin"] is not arm.metadata["origin"]
    assert arm != Arm("small")
    assert pickle.loads(pickle.dumps(portfolio)) == copy.deepcopy(portfolio) == portfolio
    assert hash(Portfolio(list(portfolio))) == hash(portfolio)


def test_arms_and_portfolios_are_frozen(portfolio):
    given = {"k": 1}
    arm = Arm("a", metadata=given, tags=["t"])
    given["k"] = 2
    assert arm.metadata["k"] == 1
    assert arm.tags == ("t",)
    with pytest.raises(TypeError):
        arm.metadata["k"] = 3
    with pytest.raises(AttributeError):
        arm.name = "b"
    with pytest.raises(AttributeError):
        portfolio.arms = ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "Arm: name must be a non-empty string, got ''"),
        ({"name": 3}, "Arm: name must be a non-empty string, got 3"),
        ({"kind": ""}, "Arm 'a': kind must be a non-empty string"),
        ({"price": 0.1}, "Arm 'a': price must be a Price, got 0.1"),
        ({"capacity": 0}, "Arm 'a': capacity must be an integer >= 1 or None, got 0"),
        ({"capacity": 1.5}, "Arm 'a': capacity must be an integer >= 1 or None, got 1.5"),
        ({"context_window": True}, "Arm 'a': context_window must be an integer >= 1 or None, got True"),
        ({"tags": "fast"}, "Arm 'a': tags must be a sequence of strings, got 'fast'"),
        ({"tags": [1]}, "Arm 'a': tags must be a sequence of strings"),
        ({"metadata": "x"}, "Arm 'a': metadata must be a mapping, got 'x'"),
    ],
)
def test_arm_says_which_field_is_wrong(options, message):
    with pytest.raises(PortfolioError, match=message):
        Arm(**{"name": "a", **options})


def test_portfolio_keeps_order_and_finds_by_name(portfolio):
    assert portfolio.names == ("small", "large", "reviewer")
    assert [arm.name for arm in portfolio] == list(portfolio.names)
    assert len(portfolio) == 3
    assert repr(portfolio) == "Portfolio(small, large, reviewer)"
    assert "large" in portfolio
    assert portfolio["large"] in portfolio
    assert "tiny" not in portfolio
    assert portfolio["reviewer"].kind == "expert"
    assert Portfolio(list(portfolio)[::-1]) != portfolio
    with pytest.raises(PortfolioError, match=r"no arm 'tiny'; the portfolio has \['small', 'large', 'reviewer'\]"):
        portfolio["tiny"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "a portfolio needs at least one arm"),
        ([Arm("a"), "b"], "a portfolio holds Arm objects, got str in place 1"),
        ([Arm("b"), Arm("a"), Arm("b"), Arm("a")], "2 arms are named twice, the first is 'a'"),
        ([Arm("a"), Arm("b", price=Price(currency="EUR"))], r"2 currencies, \['EUR', 'USD'\]; convert them to one"),
    ],
)
def test_portfolio_refuses_what_does_not_fit_together(arms, message):
    with pytest.raises(PortfolioError, match=message):
        Portfolio(arms)


def test_cost_has_a_row_a_query_and_a_column_an_arm(portfolio):
    cost = portfolio.cost(input_tokens=[1_000_000, 0], output_tokens=[0, 1_000_000])
    assert cost == pytest.approx(np.array([[0.1, 0.001, 0.0], [0.4, 2.001, 0.0]]))
    own = portfolio.cost(output_tokens=np.array([[1e6, 2e6, 3e6]]))
    assert own == pytest.approx(np.array([[0.4, 4.001, 0.0]]))
    assert portfolio.cost().shape == (1, 3)


def test_cost_needs_counts_that_fit(portfolio):
    with pytest.raises(PortfolioError, match=r"input_tokens must have shape \(n,\) or \(n, 3\), got \(1, 2\)"):
        portfolio.cost(input_tokens=[[1, 2]])
    with pytest.raises(PortfolioError, match=r"input_tokens, output_tokens and cached_tokens are of \[2, 3\] queries"):
        portfolio.cost(input_tokens=[1, 2], output_tokens=[1, 2, 3])


TOML = """
[[arm]]
name = "small"
context_window = 8192
tags = ["fast"]
price = {input_per_million = 0.1, output_per_million = 0.4}
metadata = {origin = ["x"]}

[[arm]]
name = "large"
capacity = 40
[arm.price]
per_call = 0.001
per_output_token = 2e-6

[[arm]]
name = "reviewer"
kind = "expert"
"""


def test_portfolio_from_toml(tmp_path, portfolio):
    path = tmp_path / "portfolio.toml"
    path.write_text(TOML)
    assert Portfolio.from_toml(path) == Portfolio.from_toml(str(path)) == portfolio


def test_prices_of_cached_tokens_are_read_from_files_and_frames(tmp_path):
    price = Price.per_million(3.0, 15.0, cached_input_tokens=0.3)
    path = tmp_path / "portfolio.toml"
    keys = "input_per_million = 3.0, output_per_million = 15.0"
    path.write_text(f'[[arm]]\nname = "a"\nprice = {{{keys}, cached_input_per_million = 0.3}}')
    assert Portfolio.from_toml(path)["a"].price == price
    path.write_text(f'[[arm]]\nname = "a"\nprice = {{{keys}, per_cached_input_token = {0.3 / 1e6!r}}}')
    assert Portfolio.from_toml(path)["a"].price == price
    path.write_text('[[arm]]\nname = "a"\nprice = {cached_input_per_million = 1, per_cached_input_token = 1}')
    with pytest.raises(PortfolioError, match="give cached_input_per_million or per_cached_input_token, not both"):
        Portfolio.from_toml(path)
    frame = pd.DataFrame({"name": ["a", "b"], "input_per_million": [3.0, 3.0], "cached_input_per_million": [0.3, None]})
    assert [arm.price.per_cached_input_token for arm in Portfolio.from_frame(frame)] == [0.3 / 1e6, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no \[\[arm\]\] table"),
        ("arm = [1, 2]", r"has no \[\[arm\]\] table"),
        ("[[arm]\nname = 1", "is no valid TOML"),
        ('[[arm]]\nname = "a"\n[defaults]\nx = 1', "unknown key 'defaults'"),
        ('[[arm]]\nname = "a"\ncolour = "red"', "arm 0 of .*: unknown key 'colour'; allowed are"),
        (
            '[[arm]]\nname = "a"\n[[arm]]\nname = "b"\nprice = {per_query = 1}',
            "arm 1 of .*: unknown key 'price.per_query'",
        ),
        ('[[arm]]\nname = "a"\nprice = 3', "arm 0 of .*: price must be a table such as price.per_call, got 3"),
        (
            '[[arm]]\nname = "a"\nprice = {input_per_million = "1"}',
            "arm 0 of .*: Price: input_per_million must be a finite",
        ),
        (
            '[[arm]]\nname = "a"\nprice = {input_per_million = 1, per_input_token = 1}',
            "give input_per_million or per_input_token, not both",
        ),
        ('[[arm]]\nkind = "tool"', "arm 0 of .*: no name"),
        ('[[arm]]\nname = "a"\ncapacity = 0', "arm 0 of .*: Arm 'a': capacity must be an integer >= 1"),
    ],
)
def test_toml_faults_name_the_file_the_arm_and_the_key(tmp_path, text, message):
    path = tmp_path / "portfolio.toml"
    path.write_text(text)
    with pytest.raises(PortfolioError, match=message) as caught:
        Portfolio.from_toml(path)
    assert str(path) in str(caught.value)


def test_toml_that_cannot_be_read(tmp_path):
    with pytest.raises(PortfolioError, match="there is no file"):
        Portfolio.from_toml(tmp_path / "none.toml")
    with pytest.raises(PortfolioError, match="cannot be read"):
        Portfolio.from_toml(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PortfolioError, match="is no valid TOML"):
        Portfolio.from_toml(binary)


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_portfolio_from_a_frame_of_any_library(library):
    frame = library(
        {
            "name": ["small", "large", "reviewer"],
            "kind": ["model", None, "expert"],
            "context_window": [8192, None, None],
            "capacity": [None, 40, None],
            "input_per_million": [0.1, None, None],
            "output_per_million": [0.4, 2.0, None],
            "per_call": [None, 0.001, None],
            "mode": ["chat", None, None],
        }
    )
    assert Portfolio.from_frame(frame) == Portfolio(
        [
            Arm("small", price=Price.per_million(0.1, 0.4), context_window=8192, metadata={"mode": "chat"}),
            Arm("large", price=Price(per_call=0.001, per_output_token=2e-6), capacity=40),
            Arm("reviewer", kind="expert"),
        ]
    )


def test_nullable_integers_of_pandas_are_read():
    frame = pd.DataFrame({"name": ["a", "b"], "capacity": pd.array([3, None], dtype="Int64")})
    assert [arm.capacity for arm in Portfolio.from_frame(frame)] == [3, None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arm": ["a"]}, r"column 'name' is missing; the columns are \['arm'\]"),
        ({"name": ["a", None]}, "row 1: no name"),
        (
            {"name": ["a", "b"], "per_call": [0.1, -0.1]},
            "row 1: Price: per_call must be a finite number >= 0, got -0.1",
        ),
        ({"name": ["a"], "capacity": [2.5]}, "row 0: Arm 'a': capacity must be an integer >= 1 or None, got 2.5"),
        ({"name": ["a", "a"]}, "1 arms are named twice, the first is 'a'"),
        ({"name": []}, "a portfolio needs at least one arm"),
    ],
)
def test_frame_faults_name_the_row(columns, message):
    with pytest.raises(PortfolioError, match=message):
        Portfolio.from_frame(pl.DataFrame(columns))
    with pytest.raises(PortfolioError, match=r"expected a frame .*, got dict"):
        Portfolio.from_frame(columns)


def test_shared_prices_load_as_a_portfolio(shared_data):
    prices = pl.read_csv(shared_data / "bfcl" / "models.csv").rename(
        {"model": "name", "input_usd_per_mtok": "input_per_million", "output_usd_per_mtok": "output_per_million"}
    )
    portfolio = Portfolio.from_frame(prices)
    assert len(portfolio) == 71
    dear = portfolio["claude-3-opus-20240229"]
    assert dear.price == Price.per_million(15.0, 75.0)
    assert portfolio["Nexusflow-Raven-v2"].price == Price()
    assert portfolio["Nexusflow-Raven-v2"].metadata == {"mode": "prompting or specialised"}
