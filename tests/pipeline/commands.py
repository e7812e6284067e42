"""Several command lines, one after the other in the same processes: a JSON file holds their words.

Started by torchrun, so that processes and imports are paid for once.
"""

import json
import sys
from pathlib import Path

from limbeck.cli import app

if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text()):
        app(words, standalone_mode=False)
