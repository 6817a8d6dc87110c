"""What was said in a chat, kept on disk and recalled by meaning.

    python3 bindings/python/examples/chat_memory.py                     a scripted chat
    python3 bindings/python/examples/chat_memory.py --database chat.qdb --session ann
        reads lines: each is stored, and what it brings to mind is shown

A language model would get `context()` before each answer: the last turns as they were,
and older ones that are about the same thing. The embedding function here hashes words;
give ChatMemory your model's instead.
"""

import argparse
import sys
import threading
import time

import sample

import quashdb
from quashdb.embedding import TextCollection

FIELDS = {"session": str, "role": str, "turn": int, "time": float}


class ChatMemory:
    """Turns of any number of sessions in one collection.

    embed: as TextCollection takes it.
    """

    def __init__(self, database, embed, collection="chat"):
        self._texts = TextCollection(database, collection, embed, rerank="f32", fields=FIELDS)
        self._lock = threading.Lock()  # turns are numbered one after another

    def add(self, session, role, text):
        """Keeps one turn; returns its number in the session."""
        with self._lock:
            turn = self.count(session)
            self._texts.add(
                [f"{session}/{turn:08d}"],
                [text],
                [{"session": session, "role": role, "turn": turn, "time": time.time()}],
            )
        return turn

    def count(self, session):
        collection = self._texts.collection
        return 0 if collection is None else collection.count({"session": session})

    def recent(self, session, n=4):
        """[(turn, role, text)]: the last n turns, oldest first."""
        if self._texts.collection is None:
            return []
        last = {"session": session, "turn": {"$gte": self.count(session) - n}}
        return sorted(_turn(row) for row in self._texts.collection.get(where=last))

    def recall(self, session, text, k=3, before=None, min_score=0.15):
        """[(turn, role, text)]: at most k turns that are about the same, nearest first.

        before: only turns with lower numbers.
        """
        if self._texts.collection is None:
            return []
        where = {"session": session}
        if before is not None:
            where["turn"] = {"$lt": before}
        return [_turn(hit) for hit in self._texts.query(text, k, where, min_score=min_score)]

    def context(self, session, text, n=4, k=3):
        """What a model should see before it answers `text`: recalled turns, then recent
        ones, each once, in the order in which they were said."""
        recent = self.recent(session, n)
        before = recent[0][0] if recent else None
        return sorted(self.recall(session, text, k, before)) + recent

    def forget(self, session):
        """Deletes a session; returns how many turns it had."""
        collection = self._texts.collection
        return 0 if collection is None else collection.delete(where={"session": session})


def _turn(row):
    return row.metadata["turn"], row.metadata["role"], row.document


SCRIPT = [
    ("user", "My daughter Mila is allergic to peanuts."),
    ("assistant", "Noted: no peanuts for Mila."),
    ("user", "We fly to Lisbon on Friday, the flight leaves at nine."),
    ("assistant", "Have a good flight to Lisbon."),
    ("user", "Please remind me to water the tomatoes."),
    ("assistant", "I will remind you of the tomatoes."),
    ("user", "The printer in the study is out of ink again."),
    ("assistant", "Shall I order ink?"),
]
QUESTIONS = ["Which snacks can Mila eat, given her allergy?", "When does our flight leave?"]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", help="kept there, and lines are read from stdin")
    parser.add_argument("--session", default="demo")
    given = parser.parse_args(arguments)
    try:
        with quashdb.open(given.database or ":memory:") as database:
            memory = ChatMemory(database, sample.HashingEmbedder())
            if given.database is None:
                for role, text in SCRIPT:
                    memory.add(given.session, role, text)
            for line in QUESTIONS if given.database is None else sys.stdin:
                text = line.strip()
                if text:
                    print(f"> {text}")
                    for turn, role, said in memory.context(given.session, text, n=2):
                        print(f"  {turn:3} {role}: {said}")
                    memory.add(given.session, "user", text)
    except quashdb.QuashError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
