"""What runs in processes of their own need, imported once in the server that they are forked off.

Modules are no garbage: a run collects garbage, and would go through all of them.
"""

import gc

import bm25s  # noqa: F401
import transformers.models.auto.tokenization_auto
import transformers.models.bert.modeling_bert
import transformers.models.bert.tokenization_bert  # noqa: F401
from sentence_transformers import CrossEncoder, SentenceTransformer  # noqa: F401

import limbeck.cli
import limbeck.indexing
import limbeck.pipeline
import limbeck.tasks.retrieval.kind  # noqa: F401
from limbeck.recipes.registry import registry
from roughly import measure_roughly

registry()
measure_roughly()
gc.collect()
gc.freeze()
