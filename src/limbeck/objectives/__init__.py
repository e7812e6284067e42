"""How wrong is the student? One folder of pure functions, filed by what they look at.

    rows.py        softmax over the slots that are there; the weighted mean every loss ends with;
                   losses of each row, with a label or a teacher beside it
    listwise.py    a row of scores as one distribution: cross-entropy, KL and its reverse
    pairwise.py    differences of scores inside a row: margin-MSE
    adversarial.py what a ranker is unsure of, as a reward for the retriever that finds it
    embedding.py   vectors against vectors: cosine distance, squared error

Each takes numbers and returns one scalar tensor, or a value for each row. None holds a model, runs
a forward pass, reads settings or knows which method uses it.
"""
