"""How good is a system, and is the difference between two of them more than chance?

    measures.py     a run and judgements -> one number per query and measure; TREC files
    statistics.py   what a measure adds up, and what it is of the sums: means, F1, BLEU
    comparison.py   intervals, paired tests, and the smallest difference a test set can show
    table.py        the rows of `metrics.json`, the printed table, advice in words

None of it knows a model: a run is ids and scores, a table numbers per unit.
"""
