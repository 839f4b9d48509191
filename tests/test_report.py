"""The report: what stands in it, that it needs no network, and that a person can read it, in a real browser."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from defer import Budget, OutcomeLog, evaluate
from defer.estimators import QualityRouter, SingleArm, TunedRouter
from defer.report import render_report
from defer.report.verdict import verdict


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=400)
    chance = np.array([[0.3, 0.8, 0.9], [0.7, 0.3, 0.8]])[kind]
    return OutcomeLog.from_arrays(
        np.column_stack([kind, rng.normal(size=400)]).astype(float),
        (rng.random((400, 3)) < chance).astype(float),
        arms=["small <1B>", "medium", "large & dear"],
        cost=np.tile([0.001, 0.004, 0.02], (400, 1)),
        latency=rng.uniform(0.1, 1.0, size=(400, 3)),
        domain=np.array(["code", "prose"])[kind],
    )


@pytest.fixture(scope="module")
def evaluation(log):
    router = TunedRouter(QualityRouter(), limit=Budget(mean_cost=0.008)).fit(log.X, log.quality, cost=log.cost)
    return evaluate(router, log)


@pytest.fixture(scope="module")
def page(evaluation):
    return render_report(evaluation)


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        opened = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


def open_page(browser, page, tmp_path, **options):
    """Tab with the report, and lists that fill with console errors and with requests other than for the file."""
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_page(**options)
    errors, requests = [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url) if request.url != path.as_uri() else None)
    tab.goto(path.as_uri())
    return tab, errors, requests


def test_numbers_on_the_page_are_those_of_the_evaluation(evaluation, page):
    estimate = evaluation.estimate
    assert f"{estimate.value:.4f}" in page
    assert f"{estimate.low:.4f} … {estimate.high:.4f}" in page
    for row in evaluation.domains.iter_rows(named=True):
        assert f"<td>{row['quality']:.4f}</td>" in page
    for sentence in verdict(evaluation):
        assert sentence.replace("&", "&amp;").replace('"', "&#34;") in page
    assert "Budget(mean_cost=0.008)" in page
    assert "OperatingPoint(price=" in page


def test_the_page_fetches_nothing(page):
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)""", page)
    assert links == []
    assert "@import" not in page
    assert "<script" not in page


def test_names_are_escaped(page):
    assert "small <1B>" not in page
    assert "small &lt;1B&gt;" in page
    assert "large &amp; dear" in page


def test_identifiers_are_unique_and_references_resolve(page):
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert used <= set(identifiers)


def test_the_same_evaluation_gives_the_same_page(evaluation, page):
    assert render_report(evaluation) == page


def test_a_bare_policy_and_a_bandit_log_have_their_own_pages(log):
    bare = render_report(evaluate(np.full(400, "medium"), log))
    assert "Calibration" not in bare
    assert "Operating points" not in bare
    bandit = log.with_action(np.full((400, 3), 1 / 3), seed=0)
    router = QualityRouter().fit(log.X, log.quality, cost=log.cost)
    partial = render_report(evaluate(router, bandit))
    assert "logging policy" in partial
    assert "estimator dr" in partial
    assert "Operating points" in partial


@pytest.mark.filterwarnings("ignore:support is poor:defer.exceptions.SupportWarning")
def test_poor_support_stands_in_the_verdict(log):
    bandit = log.with_action(np.tile([0.96, 0.02, 0.02], (400, 1)), seed=0)
    page = render_report(evaluate(np.full(400, "large & dear"), bandit))
    assert "This log cannot carry an interval for the routing" in page
    assert "Caution: support is poor" in page
    assert "cannot be told from this log" in page


def test_the_verdict_claims_no_more_than_the_intervals(log):
    def said(policy, baseline):
        return verdict(evaluate(policy, log, baseline=baseline))[1]

    small, large = np.full(400, "small <1B>"), np.full(400, "large & dear")
    assert said(large, "small <1B>").startswith('It is better than the baseline "always small <1B>" by ')
    assert said(small, "large & dear").startswith('It is worse than the baseline "always large & dear" by ')
    assert said(small, "small <1B>").startswith("It is exactly as good as")
    half = log.select(rows=slice(0, 12))
    near = verdict(evaluate(np.full(12, "small <1B>"), half, baseline="medium"))[1]
    assert near.endswith("these queries do not tell them apart.")


def test_costs_in_the_verdict_are_compared_with_the_baseline(log):
    router = SingleArm("medium").fit(log.X, log.quality, cost=log.cost)
    sentences = verdict(evaluate(router, log, baseline="large & dear"))
    assert "It costs $0.004 a query, 80% less than that baseline." in sentences


def test_the_page_says_what_is_known_of_leakage(log):
    texts = OutcomeLog.from_arrays([f"query {i}" for i in range(400)], log.quality, arms=log.arms)
    train, test = texts.select(rows=slice(0, 200)), texts.select(rows=slice(200, 400))
    router = SingleArm().fit(train.X, train.quality)
    unchecked, clean = render_report(evaluate(router, test)), render_report(evaluate(router, test, train=train))
    with pytest.warns(UserWarning, match="also in the training log"):
        leaky = render_report(evaluate(router, train, train=train))
    assert "was not checked" in unchecked
    assert "held-out" not in unchecked
    assert "On 200 held-out queries" in clean
    assert "shares no text with this one" in clean
    assert "200 of these queries were also in training" in leaky
    assert "its training log shares queries with this one" in leaky
    assert "held-out" not in leaky


def test_a_baseline_of_hindsight_and_equal_costs_are_named(log):
    router = SingleArm("medium").fit(log.X, log.quality, cost=log.cost)
    sentences = verdict(evaluate(router, log, baseline="medium"))
    assert "It costs $0.004 a query, as much as that baseline." in sentences
    assert "That baseline was chosen as the best arm on these very queries, which favours it." in verdict(
        evaluate(router, log)
    )
    assert not any("very queries" in sentence for sentence in sentences)


def test_a_constant_difference_claims_no_interval():
    log = OutcomeLog.from_arrays(None, np.tile([1.0, 0.0], (40, 1)), arms=["good", "bad"])
    sentence = verdict(evaluate(np.full(40, "bad"), log, baseline="good"))[1]
    assert sentence == (
        'It differs from the baseline "always good" by -1 on all of these queries alike, which carries no interval.'
    )


def test_names_with_dollars_equal_beginnings_and_free_arms_are_drawn():
    rng = np.random.default_rng(0)
    arms = ["anthropic/claude-3-5-sonnet-20240620", "anthropic/claude-3-5-sonnet-20241022", "cost $x^{ y$"]
    log = OutcomeLog.from_arrays(
        np.zeros((60, 1)), rng.random((60, 3)), arms=arms, cost=np.zeros((60, 3)),
        domain=np.array(["math: $x^{2$", "prose"] * 30),
    )  # fmt: skip
    evaluation = evaluate(np.full((60, 3), 1 / 3), log)
    assert "AIQ divided" not in render_report(evaluation)
    labels = [text.get_text() for text in evaluation.plot_load().get_yticklabels()]
    assert len(set(labels)) == 3
    free = QualityRouter().fit(log.X, log.quality, cost=log.cost)
    page = render_report(evaluate(free, log))
    assert "AIQ divided by the largest cost" not in page


def test_long_tables_and_frontiers_are_cut_to_what_is_read(evaluation, page):
    operating = page[page.index("<h2>Operating points</h2>") : page.index("<h2>Domains in numbers</h2>")]
    assert operating.count("<tr>") - 1 == min(12, len(evaluation.operating_points))
    many = OutcomeLog.from_arrays(None, np.ones((100, 2)), domain=np.array([f"domain {i:02d}" for i in range(50)] * 2))
    wide = render_report(evaluate(np.zeros(100, dtype=int), many))
    assert wide.count('<th scope="row">domain ') == 40
    assert "10 more are in the frame" in wide
    assert "<metadata>" not in page


def test_a_page_for_many_queries_stays_small(evaluation):
    many = OutcomeLog.from_arrays(
        *(np.tile(table, (50, 1)) for table in (evaluation.log.X, evaluation.log.quality)),
        arms=evaluation.log.arms, cost=np.tile(evaluation.log.cost, (50, 1)),
    )  # fmt: skip
    router = QualityRouter().fit(evaluation.log.X, evaluation.log.quality, cost=evaluation.log.cost)
    assert len(render_report(evaluate(router, many)).encode()) < 500_000


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_opens_in_a_browser_on_desk_and_phone_in_light_and_dark(browser, page, tmp_path, width, scheme):
    tab, errors, requests = open_page(
        browser, page, tmp_path, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    assert errors == []
    assert requests == []
    figures = tab.locator("figure svg")
    assert figures.count() == 4
    for index in range(4):
        box = figures.nth(index).bounding_box()
        assert box["width"] > 0.8 * min(width, 700) - 40
        assert box["height"] > 80
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    shot = tab.screenshot(full_page=True)
    assert shot.startswith(b"\x89PNG")
    tab.close()


CONTRAST = """() => {
  const luminance = color => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const background = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/rgba\\(.*, 0\\)/.test(color) && color !== 'transparent') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('h1, h2, p, th, td, figcaption, caption, dt, dd, code, li')].map(e => {
    const pair = [luminance(getComputedStyle(e).color), luminance(background(e))].sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), e.tagName];
  });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_and_pictures_have_words(browser, page, tmp_path, scheme):
    tab, _, _ = open_page(browser, page, tmp_path, color_scheme=scheme)
    assert min(tab.evaluate(CONTRAST))[0] >= 4.5
    for picture in tab.locator("svg").all():
        assert picture.get_attribute("role") == "img"
        assert len(picture.get_attribute("aria-label")) > 20
    assert tab.locator("html").get_attribute("lang") == "en"
    assert tab.locator("h1").count() == 1
    assert tab.locator("table th:not([scope])").count() == 0
    tab.close()
