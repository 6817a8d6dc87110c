"""Makes the C API references from the public headers.

    python3 bindings/c/make_reference.py [--check]

Writes libquashdb/API.md and kvcache/API.md; with --check it only compares, and
exits with 1 if they differ. Comments and declarations are taken as they stand.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCES = {
    "libquashdb/API.md": ("The C API of QuashDB", ["libquashdb/include/quashdb.h"]),
    "kvcache/API.md": ("The C API of the KV cache", [
        "kvcache/include/quash_kv.h", "kvcache/include/quash_quantizer.h",
        "kvcache/include/quash_kv_cuda.h"]),
}
SECTION = re.compile(r"^/\* ---- (.*?) -+")
NAME = re.compile(r"\b(quash_\w+)\s*\(|\}\s*(quash_\w+)\s*;|#define\s+(\w+)"
                  r"|^typedef\s[^{(]*?\b(quash_\w+);|\(\*(quash_\w+)\)")
SKIPPED = re.compile(r"#define \w+_H_?$|#define QUASH_(KV_)?API\b")


def comment_lines(text):
    """The lines of a /* comment */ without its marks; indentation stays."""
    body = text.strip().removeprefix("/*").removesuffix("*/")
    return [re.sub(r"^ ?\* ?| +$", "", line) if number else line.strip()
            if not line.startswith("   ") else line.rstrip()[1:]
            for number, line in enumerate(body.split("\n"))]


def marked(text):
    """Prose with code words in backticks, and nothing that Markdown would take."""
    parts = re.split(r"(\b(?:quash_\w+(?:\(\))?|QUASH_\w*[A-Z0-9])|\"[^\"]*\"|\[[^\]]*\])", text)
    return "".join(f"`{part}`" if number % 2 else re.sub(r"([<*|])", r"\\\1", part)
                   for number, part in enumerate(parts))


def prose(lines):
    """A comment as Markdown: paragraphs, lists, and tables of parameters."""
    out, verbatim = [], []
    in_list = False

    def end_verbatim():
        if verbatim:
            out.extend(["", "```", *verbatim, "```", ""])
            verbatim.clear()

    for line in lines:
        parameter = re.match(r"^ {1,3}(\w+(?:, \w+)*)  +(\S.*)$", line)
        if line.startswith("- "):
            end_verbatim()
            out.append("- " + marked(line[2:]))
            in_list = True
        elif parameter and not re.match(r"^[A-Z]+ ", line.strip()):
            end_verbatim()
            if not in_list:
                out.append("")
            out.append(f"- `{parameter[1]}`: {marked(parameter[2])}")
            in_list = True
        elif line.startswith("  ") and in_list:
            out.append("  " + marked(line.strip()))
        elif line.startswith("  ") and line.strip():
            verbatim.append(line.strip())
        else:
            end_verbatim()
            if in_list and line:
                out.append("")
            in_list = False
            out.append(marked(line))
    end_verbatim()
    return "\n".join(out).strip()


def declarations(text):
    """(comment, code) of every declaration, sections as (title, None), in order."""
    lines, at, comment = text.split("\n"), 0, ""
    while at < len(lines):
        line = lines[at]
        section = SECTION.match(line)
        if line.startswith("/*"):
            start = at
            while "*/" not in lines[at]:
                at += 1
            block = "\n".join(lines[start:at + 1])
            at += 1
            if section:
                yield section[1].strip(), None
                rest = re.sub(r"^/\* ---- .*? -+", "/*", block.split("\n")[0])
                block = "\n".join([rest, *block.split("\n")[1:]])
                if block.strip("/* \n"):
                    yield block, ""
            elif at < len(lines) and not lines[at].strip():
                yield block, ""  # belongs to no declaration
            else:
                comment = block
        elif line.startswith("#if") or line.startswith("#endif") or line.startswith("#else") \
                or line.startswith("#include") or line in ("}", 'extern "C" {') \
                or SKIPPED.match(line) or not line.strip():
            at += 1
        elif line.startswith("#define"):
            start = at
            at += 1
            while at < len(lines) and lines[at].startswith("#define"):
                at += 1
            yield comment, "\n".join(lines[start:at])
            comment = ""
        else:
            start, depth = at, 0
            while True:
                code = re.sub(r"/\*.*?(\*/|$)|^[^/]*\*/", "", lines[at])
                depth += code.count("{") - code.count("}")
                at += 1
                if depth == 0 and ";" in code:
                    break
            # A comment that goes on behind the last line belongs to it.
            while "/*" in lines[at - 1] and "*/" not in lines[at - 1].split("/*")[-1] \
                    or lines[at - 1].lstrip().startswith("*"):
                at += 1
            if lines[at - 1].count("/*") > lines[at - 1].count("*/"):
                while "*/" not in lines[at]:
                    at += 1
                at += 1
            code = "\n".join(lines[start:at])
            yield comment, re.sub(r"^QUASH(_KV)?_API ", "", code)
            comment = ""


def names_of(code):
    found = []
    for line in re.sub(r"/\*.*?\*/", "", code, flags=re.S).split("\n"):
        for match in NAME.finditer(line):
            name = next(group for group in match.groups() if group)
            if name not in found:
                found.append(name)
    return found


def header_reference(path):
    """Markdown of one header, and its (section, [(title, anchor)]) index."""
    text = (ROOT / path).read_text(encoding="utf-8")
    opening, rest = re.match(r"(/\*.*?\*/)\n(.*)", text, re.S).groups()
    lines = comment_lines(opening)
    lines[0] = lines[0].split(": ", 1)[-1]
    lines[0] = lines[0][0].upper() + lines[0][1:]
    out = [f"## {pathlib.Path(path).name}", "", prose(lines), ""]
    index, section = [], []
    for comment, code in declarations(rest):
        if code is None:
            section = []
            index.append((comment, section))
            out += [f"### {comment}", ""]
            continue
        names = names_of(code)
        if names:
            if not index:
                index.append(("General", section))
            title = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            section.append((names[0], re.sub(r"[^a-z0-9_ -]", "", title.lower())
                            .replace(" ", "-")))
            out += [f"#### {title}", ""]
        if comment:
            out += [prose(comment_lines(comment)), ""]
        if code:
            out += ["```c", code, "```", ""]
    return "\n".join(out), index


def reference(title, headers):
    texts, contents = [], []
    for path in headers:
        text, index = header_reference(path)
        texts.append(text)
        contents.append(f"- **{pathlib.Path(path).name}**")
        for section, entries in index:
            links = ", ".join(f"[`{name}`](#{anchor})" for name, anchor in entries)
            contents.append(f"  - {section}: {links}" if links else f"  - {section}")
    where = " and ".join(f"`{pathlib.Path(path).name}`" for path in headers)
    return "\n".join([f"# {title}", "", f"Made by `bindings/c/make_reference.py` from {where}; "
                      "change those.", "", *contents, "", *texts]).rstrip() + "\n"


def main():
    check = "--check" in sys.argv[1:]
    stale = []
    for path, (title, headers) in REFERENCES.items():
        text, target = reference(title, headers), ROOT / path
        if check and (not target.exists() or target.read_text(encoding="utf-8") != text):
            stale.append(path)
        elif not check:
            target.write_text(text, encoding="utf-8")
    if stale:
        print(*stale, "are not what the headers say; run bindings/c/make_reference.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
