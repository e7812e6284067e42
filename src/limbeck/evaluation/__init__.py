"""How good is a ranking, and is the difference between two of them more than chance?

    measures.py     a run and judgements -> one number per query and measure; TREC files
    comparison.py   intervals, paired tests, and the smallest difference a test set can show
    table.py        the rows of `metrics.json`, the printed table, advice in words

None of it knows a model: a run is ids and scores.
"""
