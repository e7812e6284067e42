"""Measures as functions of sums: against scikit-learn and sacrebleu, by hand, and under resampling.

sacrebleu draws its own resamples, so its p-values and intervals are near ours and not the same.
"""

import math
import warnings

import numpy as np
import polars as pl
import pytest
import sacrebleu
from pydantic import ValidationError
from sacrebleu.significance import PairedTest
from sklearn.metrics import f1_score

from limbeck.evaluation.comparison import compare, estimate, mean_over_seeds
from limbeck.evaluation.statistics import (
    BLEU,
    Array,
    MacroF1,
    Mean,
    Measure,
    Measures,
    MicroF1,
    class_counts,
    total,
)

CLASSES = ("a", "b", "c")  # "other" is none of them
LABELS = np.array([*CLASSES, "other"])


def labels(seed: int, units: int, right: float) -> tuple[list[str], list[str]]:
    """Labels, and predictions of which a share is right."""
    rng = np.random.default_rng(seed)
    actual = rng.choice(LABELS, units, p=[0.4, 0.25, 0.05, 0.3])
    kept = rng.random(units) < right
    return actual.tolist(), np.where(kept, actual, rng.choice(LABELS, units)).tolist()


def with_ids(counts: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"image_id": [f"i{number}" for number in range(len(counts))]}).hstack(
        counts
    )


def pooled(actual: list[str], predicted: list[str]) -> pl.DataFrame:
    return with_ids(class_counts(actual, predicted, CLASSES))


@pytest.mark.parametrize(("measure", "average"), [(MicroF1, "micro"), (MacroF1, "macro")])
def test_f1_is_that_of_scikit_learn(measure: type[MicroF1 | MacroF1], average: str) -> None:
    """Labels left out count when they are mistaken for a class, or a class for them."""
    f1 = measure(name=f"{average}-F1", classes=CLASSES)
    for seed, right in enumerate((0.0, 0.3, 0.8, 1.0)):
        actual, predicted = labels(seed, 60, right)
        expected = f1_score(actual, predicted, labels=list(CLASSES), average=average)
        assert f1.of(pooled(actual, predicted)) == pytest.approx(expected, abs=1e-12)
    # a class that is nowhere has F1 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = f1_score(["a"], ["a"], labels=list(CLASSES), average=average)
    assert f1.of(pooled(["a"], ["a"])) == pytest.approx(expected)


def test_directions_of_a_relation_count_and_are_no_classes() -> None:
    """As the official scorer of SemEval 2010 task 8: cause has 3 predictions, 2 actual ones and
    1 right, so F1 2/5; part 1, 1 and 1, F1 1; macro-F1 0.7.
    """
    of = {"cause(1,2)": "cause", "cause(2,1)": "cause", "part(1,2)": "part", "part(2,1)": "part"}
    actual = ["cause(1,2)", "cause(1,2)", "part(2,1)", "other", "other"]
    predicted = ["cause(1,2)", "cause(2,1)", "part(2,1)", "cause(1,2)", "other"]
    counts = with_ids(class_counts(actual, predicted, ("cause", "part"), of))
    macro = MacroF1(name="macro-F1", classes=("cause", "part"))
    assert macro.of(counts) == pytest.approx((2 * 1 / (3 + 2) + 1) / 2)


def test_labels_without_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels and 1 predictions"):
        class_counts(["a", "b"], ["a"], CLASSES)


def sentences(seed: int, right: float) -> list[str]:
    """Sentences of 30 words' vocabulary, of which a share of words is that of `seed` 0's."""
    lengths = np.random.default_rng(99).integers(5, 25, 120)
    truth = np.random.default_rng(0)
    noise = np.random.default_rng(seed + 1)
    found = []
    for length in lengths:
        words = truth.integers(0, 30, length)
        kept = noise.random(length) < right
        changed = np.where(kept, words, noise.integers(0, 30, length))
        found.append(" ".join(f"w{word}" for word in changed[: length - noise.integers(0, 3)]))
    return found


REFERENCES = sentences(0, 1.0)


def table_of(hypotheses: list[str], references: list[str]) -> pl.DataFrame:
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = sacrebleu.sentence_bleu(hypothesis, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    columns = pl.DataFrame(rows, schema=BLEU().columns, orient="row").cast(pl.Float64)
    return with_ids(columns)


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [
        (sentences(1, 0.8), REFERENCES),
        (sentences(2, 0.3), REFERENCES),
        (REFERENCES, REFERENCES),
        (["a b c d x"], ["a b c y d e f"]),  # no 4-gram, hence smoothing
        (["a x b y"], ["a b c d e f"]),  # neither 3-grams nor 2-grams, and brevity
        (["a b c"], ["a b c"]),  # too short for a 4-gram
        (["x y z w v"], ["a b c d e"]),  # nothing
        ([""], ["a b"]),
    ],
)
def test_bleu_is_that_of_sacrebleu(hypotheses: list[str], references: list[str]) -> None:
    expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert BLEU().of(table_of(hypotheses, references)) == pytest.approx(expected, abs=1e-9)


def test_intervals_and_randomisation_of_bleu_are_near_those_of_sacrebleu() -> None:
    base, close, better = sentences(3, 0.7), sentences(4, 0.71), sentences(5, 0.75)
    systems = [("base", base), ("close", close), ("better", better)]
    test = PairedTest(
        systems, {"BLEU": sacrebleu.BLEU()}, [REFERENCES], n_samples=2000, n_ar_confidence=2000
    )
    _, found = test()
    tables = {name: table_of(hypotheses, REFERENCES) for name, hypotheses in systems}
    for (name, table), theirs in zip(tables.items(), found["BLEU"], strict=True):
        ours = estimate(table, BLEU(), seed=0)
        assert ours.value == pytest.approx(theirs.score)
        assert ours.low < ours.value < ours.high
        assert (ours.high - ours.low) / 2 == pytest.approx(theirs.ci, rel=0.07)
        if name != "base":
            [apart] = compare(table, {"base": tables["base"]}, BLEU(), seed=0)
            assert apart.p == pytest.approx(theirs.p_value, abs=0.03)
            assert apart.difference.value == pytest.approx(
                theirs.score - found["BLEU"][0].score, abs=1e-9
            )


def exact_p(measure: Measure, ours: Array, theirs: Array) -> float:
    """A full count over all ways to swap, one after the other."""
    units = len(ours)
    observed = measure.value(total(ours)) - measure.value(total(theirs))
    differences = []
    for way in range(2**units):
        swap = np.array([way >> unit & 1 for unit in range(units)], dtype=bool)[:, None]
        first, second = np.where(swap, theirs, ours), np.where(swap, ours, theirs)
        differences.append(measure.value(first.sum(axis=0)) - measure.value(second.sum(axis=0)))
    found = np.array(differences)
    share = min(np.mean(found >= observed - 1e-12), np.mean(found <= observed + 1e-12))
    return min(1.0, 2 * float(share))


def test_p_of_few_units_is_a_full_count() -> None:
    actual, predicted = labels(0, 8, 0.6)
    other = labels(0, 8, 0.2)[1]
    for measure in (MicroF1(name="f", classes=CLASSES), MacroF1(name="f", classes=CLASSES)):
        tables = pooled(actual, predicted), pooled(actual, other)
        [found] = compare(tables[0], {"other": tables[1]}, measure, seed=0)
        assert found.p == pytest.approx(exact_p(measure, *map(measure.statistics, tables)))
    first, second = (table_of(sentences(seed, 0.6)[:7], REFERENCES[:7]) for seed in (1, 2))
    [found] = compare(first, {"other": second}, BLEU(), seed=0)
    assert found.p == pytest.approx(exact_p(BLEU(), *map(BLEU().statistics, (first, second))))


def test_a_mean_as_a_difference_of_sums_is_the_mean_of_differences() -> None:
    """The general way, which a mean does not take, comes to the same figures."""

    class Slow(Mean):
        difference = Measure.difference  # type: ignore[assignment]
        pseudovalues = Measure.pseudovalues  # type: ignore[assignment]

    rng = np.random.default_rng(0)
    first, second = (
        pl.DataFrame({"id": [str(unit) for unit in range(40)], "x": rng.random(40)})
        for _ in range(2)
    )
    [plain] = compare(first, {"b": second}, Mean(name="x"), seed=0)
    [general] = compare(first, {"b": second}, Slow(name="x"), seed=0)
    assert general.p == plain.p
    assert general.visible == pytest.approx(plain.visible)
    assert (general.difference.low, general.difference.high) == pytest.approx(
        (plain.difference.low, plain.difference.high)
    )


@pytest.mark.parametrize(
    "measure", [MicroF1(name="f", classes=CLASSES), MacroF1(name="f", classes=CLASSES)]
)
def test_the_jackknife_agrees_with_the_bootstrap(measure: Measure) -> None:
    """The interval is about 2 * 1.96 standard errors wide, and 2.8016 of the same are visible."""
    actual, predicted = labels(1, 400, 0.7)
    other = labels(1, 400, 0.5)[1]
    [found] = compare(pooled(actual, predicted), {"b": pooled(actual, other)}, measure, seed=0)
    width = found.difference.high - found.difference.low
    assert found.visible == pytest.approx(2.8016 * width / (2 * 1.96), rel=0.06)
    [same] = compare(pooled(["a"], ["a"]), {"b": pooled(["a"], ["b"])}, measure, seed=0)
    assert (same.visible, same.p) == (math.inf, 1.0)


def test_mean_over_seeds_pools_counts() -> None:
    """a: 1 and 0 right of 2, F1 1 and 0; pooled 2 * 0.5 / (1 + 1) = 0.5."""
    classes = ("a",)
    runs = [
        with_ids(class_counts(["a", "x"], predicted, classes))
        for predicted in (["a", "x"], ["x", "a"])
    ]
    f1 = MicroF1(name="f", classes=classes)
    assert [f1.of(run) for run in runs] == [1.0, 0.0]
    assert f1.of(mean_over_seeds(runs)) == pytest.approx(0.5)


def test_measures_survive_being_written() -> None:
    measures = Measures(
        unit="image",
        units="images",
        measures=(
            Mean(name="accuracy"),
            Mean(name="errors", higher_is_better=False),
            MacroF1(name="macro-F1", classes=CLASSES),
            BLEU(),
        ),
    )
    assert Measures.model_validate_json(measures.model_dump_json()) == measures
    assert (measures.id, measures.file) == ("image_id", "per_image.parquet")
    assert measures.first.name == "accuracy"
    assert measures.named("BLEU") == BLEU()
    assert measures.named("chrF") is None
    assert measures.measures[1].better(0.1, 0.2)
    with pytest.raises(ValidationError, match="classes"):
        MacroF1(name="macro-F1", classes=())
