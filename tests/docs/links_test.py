"""Checks that links between the Markdown files of the repository, and to files
and headings in it, lead somewhere.

    links_test.py SOURCE_TREE
"""

import functools
import pathlib
import re
import subprocess
import sys

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@functools.cache
def anchors(path):
    """The anchors of a file's headings, as GitHub makes them."""
    found, counts = set(), {}
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.M):
        plain = re.sub(r"[`*\\]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = counts.get(anchor, 0)
        counts[anchor] = count + 1
        found.add(f"{anchor}-{count}" if count else anchor)
    return found


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    listed = subprocess.run(["git", "-C", root, "ls-files", "*.md"], capture_output=True, text=True,
                            check=False).stdout.split()
    files = [root / name for name in listed] or [
        path for path in root.rglob("*.md")
        if not path.relative_to(root).parts[0].startswith(("build", "."))]
    broken, checked = [], 0
    for file in files:
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", file.read_text(encoding="utf-8"),
                      flags=re.M | re.S)
        for target in LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            checked += 1
            name, _, anchor = target.partition("#")
            path = (file.parent / name).resolve() if name else file
            if not path.exists():
                broken.append(f"{file.relative_to(root)}: no file {target}")
            elif anchor and path.suffix == ".md" and anchor not in anchors(path):
                broken.append(f"{file.relative_to(root)}: no heading {target}")
    print(*broken, f"{checked} links in {len(files)} files, {len(broken)} broken", sep="\n")
    return 1 if broken or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
