"""A server with pages in a process of its own, to be killed: `python -m tests.chat_server FOLDER`.

FOLDER holds tokenizer.model. Says where it is and who is logged in as one line of JSON, then serves
until it is ended. Its model writes slowly and without end.
"""

import json
import sys
import time
from pathlib import Path

from puna.text.tokenizer import open_tokenizer
from tests.pages import serving_pages


def main() -> None:
    """Serve until killed."""
    folder = Path(sys.argv[1])
    tokenizer = open_tokenizer(folder / "tokenizer.model", "llama2")
    with serving_pages(folder, tokenizer) as pages:
        fake = pages.running.fake
        fake.pause, fake.script = 0.02, lambda asked, sample: "tea " * 2000
        anna = pages.person("Anna")
        where = {"url": pages.running.url, "cookie": anna.cookie, "csrf": anna.csrf}
        print(json.dumps(where), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
