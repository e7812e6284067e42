"""Several command lines, one after the other; a JSON file holds their words."""

import json
import sys
from pathlib import Path

from limbeck.cli import app

if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text()):
        if code := app(words, standalone_mode=False):
            sys.exit(code)
