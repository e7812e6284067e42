"""What a page says of a budget, and of what could not be found out."""

from limbeck.bench.page import budget, measured_with, table, visible
from limbeck.evaluation.measures import RETRIEVAL


def test_who_made_other_updates_is_named() -> None:
    allowed = {"max_steps": 1300, "batch_size": 8, "list_length": 3, "candidates_per_query": 9}
    rows = [
        {"system": "bm25"},
        {"system": "kl", "updates": 1300},
        {"system": "prod", "updates": 3900},
    ]
    told = (
        "Budget of every recipe: max steps 1,300, batch size 8, list length 3, candidates per "
        "query 9; the same labels, and one teacher unless a recipe fits its own."
    )
    assert budget({"budget": allowed, "rows": rows[:2]}) == told
    made = "Other numbers of steps: prod made 3,900."
    assert budget({"budget": allowed, "rows": rows}) == f"{told} {made}"


def test_one_query_shows_no_difference_at_all() -> None:
    found = visible(
        {
            "measures": RETRIEVAL.model_dump(mode="json"),
            "baselines": ["contrastive", "kl"],
            "queries": 1,
            "split": "dev",
            "smallest_visible_difference": {"kl": None},
            "smallest_visible_difference_kl": {"contrastive": 0.25},
        }
    )
    assert found == (
        "Smallest visible difference from contrastive in nDCG@10 (two-sided 5 %, power 80 %, "
        "1 dev queries): kl unknown. Smallest visible difference from kl in nDCG@10: "
        "contrastive 0.2500."
    )


def test_tables_and_the_last_line() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    assert measured_with({"python": "3", "threads": 1}) == "Measured with: python 3, threads 1."
