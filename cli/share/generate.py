"""Makes the completions and the manual page from what the shell says of itself.

    python3 cli/share/generate.py build/cli/quashdb

Writes quashdb.bash, _quashdb (zsh), quashdb.fish and quashdb.1 beside this file;
with --check it only compares, and exits with 1 if they differ.
"""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PATH_OPTIONS = {"--vectors", "--metadata", "--ids", "--queries", "--out"}
CHOICES = {
    "--metric": "cosine ip l2",
    "--rerank": "none int8 f16 f32",
    "--bits": "1 2 3 4",
    "--mode": "table json csv line list markdown",
    "--durability": "full normal",
    "--kind": "recall map",
}
OPTION = re.compile(r"^\s+(?:(-\w),)?(--[\w-]+)((?: \S+(?: REQUIRED)?(?: \.\.\.)?)?)\s*(.*)$")


class Option:
    def __init__(self, short, name, value, text):
        self.short, self.name, self.text = short, name, text
        kind = value.split(":")[0].split("=")[0].split()
        self.value = kind[0] if kind else ""  # TEXT, UINT, FLOAT or nothing
        default = re.search(r"=(\S+)", value)
        self.default = default.group(1) if default else ""


def run(shell, *arguments):
    return subprocess.run([shell, *arguments], check=True, capture_output=True, text=True).stdout


def options_of(text):
    """The options of a help text, whose descriptions may stand on the next line."""
    found, lines = [], text.splitlines()
    for at, line in enumerate(lines):
        match = OPTION.match(line)
        if not match:
            continue
        short, name, value, rest = match.groups()
        if not rest and at + 1 < len(lines):
            rest = lines[at + 1].strip()
        found.append(Option(short, name, value, rest.strip()))
    return found


def read(shell):
    top = run(shell, "--help")
    listed = top.split("Subcommands:")[1].split("\n\n")[0]
    verbs = dict(re.findall(r"^\s+(\w+)\s{2,}(.*)$", listed, re.M))
    options = options_of(top.split("Subcommands:")[0])
    each = {verb: run(shell, verb, "--help") for verb in verbs}
    return verbs, options, {verb: options_of(text) for verb, text in each.items()}, each


def read_help(shell):
    """(usage, summary) of every dot-command, and help text by statement topic."""
    text = run(shell, ":memory:", ".help")
    commands = re.findall(r"^(\..*?)\s{2,}(\S.*)$", text, re.M)
    topics = re.findall(r"\.help (\w+)", text.split("Statements end")[1])
    return commands, {topic: run(shell, ":memory:", f".help {topic}") for topic in topics}


def bash(verbs, options, of_verb):
    def words(some):
        return " ".join(name for one in some for name in (one.short, one.name) if name)

    cases = "\n".join(
        f"    {verb}) words='{words(of_verb[verb])}' ;;" for verb in verbs)
    choices = "\n".join(
        f"    {name}) COMPREPLY=($(compgen -W '{values}' -- \"$current\")); return ;;"
        for name, values in CHOICES.items())
    return f"""# bash completion for quashdb
_quashdb() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} verb= word words
  COMPREPLY=()
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case $word in
    {"|".join(verbs)}) verb=$word; break ;;
    esac
  done
  case $previous in
{choices}
  esac
  case $verb in
{cases}
    *) words='{words(options)} {" ".join(verbs)}' ;;
  esac
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    [[ -z $verb ]] && COMPREPLY=($(compgen -W '{" ".join(verbs)}' -- "$current"))
    mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$current")  # names with blanks
  fi
}}
complete -o filenames -F _quashdb quashdb
"""


def zsh(verbs, options, of_verb):
    def spec(one):
        text = one.text.replace("'", "'\\''").replace("[", "\\[").replace("]", "\\]")
        text = text.replace(":", "\\:")
        action = ""
        if one.value:
            kind = "_files" if one.name in PATH_OPTIONS else ""
            if one.name in CHOICES:
                kind = f"({CHOICES[one.name]})"
            action = f":{one.value.lower()}:{kind}"
        return " ".join(f"'{name}[{text}]{action}'" for name in (one.short, one.name) if name)

    described = "\n".join(f"    '{verb}:{text}'" for verb, text in verbs.items())
    cases = "\n".join(
        f"    {verb}) _arguments {' '.join(spec(one) for one in of_verb[verb])} '*:file:_files' ;;"
        for verb in verbs)
    return f"""#compdef quashdb
_quashdb() {{
  local context state state_descr line
  typeset -A opt_args
  local -a verbs=(
{described}
  )
  _arguments -C {" ".join(spec(one) for one in options)} '1: :->first' '*:: :->rest'
  case $state in
  first) _describe subcommand verbs; _files ;;
  rest)
    case $words[1] in
{cases}
    *) _files ;;
    esac ;;
  esac
}}
_quashdb "$@"
"""


def fish(verbs, options, of_verb):
    def quoted(text):
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def line(one, condition):
        parts = ["complete -c quashdb", f"-n {quoted(condition)}"]
        if one.short:
            parts.append(f"-s {one.short[1:]}")
        parts.append(f"-l {one.name[2:]}")
        if one.name in CHOICES:
            parts.append(f"-x -a {quoted(CHOICES[one.name])}")
        elif one.value:
            parts.append("-r" if one.name in PATH_OPTIONS else "-x")
        return " ".join([*parts, f"-d {quoted(one.text)}"])

    none = "not __fish_seen_subcommand_from " + " ".join(verbs)
    lines = ["# fish completion for quashdb"]
    lines += [line(one, none) for one in options]
    lines += [f"complete -c quashdb -n {quoted(none)} -a {verb} -d {quoted(text)}"
              for verb, text in verbs.items()]
    for verb in verbs:
        lines += [line(one, f"__fish_seen_subcommand_from {verb}") for one in of_verb[verb]]
    return "\n".join(lines) + "\n"


def manual(verbs, options, of_verb, each, commands, topics):
    def text(some):
        return some.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")

    def listed(some):
        made = []
        for one in some:
            names = ", ".join(name for name in (one.short, one.name) if name)
            value = f" \\fI{one.value.lower()}\\fR" if one.value else ""
            default = f" Default {text(one.default)}." if one.default else ""
            made.append(f".TP\n\\fB{text(names)}\\fR{value}\n{text(one.text)}.{default}")
        return "\n".join(made)

    parts = [f""".TH QUASHDB 1 "" "QuashDB" "User Commands"
.SH NAME
quashdb \\- embedded vector database
.SH SYNOPSIS
.B quashdb
[\\fIoptions\\fR] [\\fIdatabase\\fR] [\\fIstatements\\fR ...]
.br
.B quashdb
\\fIsubcommand\\fR [\\fIoptions\\fR] \\fIarguments\\fR
.SH DESCRIPTION
Opens the database directory, made if missing, and runs statements: those given, or those of
standard input, or those typed at the prompt. Without a database one in memory is used. At the
prompt \\fB.help\\fR lists dot\\-commands and statements, and Tab completes.
.SH OPTIONS
{listed(options)}
.SH SUBCOMMANDS"""]
    for verb, summary in verbs.items():
        usage = re.search(r"Usage: quashdb \w+ (.*)", each[verb]).group(1).replace("[OPTIONS] ", "")
        parts.append(f".SS quashdb {verb} [\\fIoptions\\fR] \\fI{text(usage)}\\fR\n{text(summary)}.")
        parts.append(listed(of_verb[verb]))
    parts.append(".SH STATEMENTS\nEach ends with a semicolon.")
    for topic, lines in topics.items():
        shown = "\n".join("\\&" + text(line) for line in lines.rstrip("\n").split("\n"))
        parts.append(f".SS {topic}\n.nf\n{shown}\n.fi")
    parts.append(".SH DOT\\-COMMANDS\nEach stands on a line of its own, without a semicolon.")
    parts += [f".TP\n\\fB\\&{text(usage)}\\fR\n{text(summary)}." for usage, summary in commands]
    parts.append(""".SH EXIT STATUS
0 success, 1 error, 2 wrong usage, 3 damage found, 130 interrupted.
.SH ENVIRONMENT
.TP
\\fBQUASH_ISA\\fR
Lowers the instruction set: scalar, avx2, avx512, avx512vbmi or neon.
.TP
\\fBNO_COLOR\\fR
No colours.
.TP
\\fBQUASHDB_PAGER\\fR, \\fBPAGER\\fR
Program, with arguments, that shows long output at a terminal. Default less; empty: none.
.TP
\\fBQUASHDB_PYTHON\\fR
Interpreter that plots. Default python3.
.SH FILES
.TP
\\fI~/.quashdb_history\\fR
What was typed at the prompt.
.SH EXAMPLES
.nf
quashdb import notes.qdb notes \\-\\-create \\-\\-vectors v.npy \\-\\-metadata m.jsonl
quashdb notes.qdb "SELECT id, score FROM notes NEAREST TO ID 7 WHERE year >= 2020 LIMIT 5;"
quashdb measure notes.qdb notes \\-\\-target 0.99 \\-\\-apply
.fi""")
    return "\n".join(parts) + "\n"


def main():
    arguments = [one for one in sys.argv[1:] if one != "--check"]
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    verbs, options, of_verb, each = read(arguments[0])
    made = {
        "quashdb.bash": bash(verbs, options, of_verb),
        "_quashdb": zsh(verbs, options, of_verb),
        "quashdb.fish": fish(verbs, options, of_verb),
        "quashdb.1": manual(verbs, options, of_verb, each, *read_help(arguments[0])),
    }
    stale = []
    for name, text in made.items():
        path = HERE / name
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        print(f"{', '.join(stale)}: not what the shell says; run {pathlib.Path(__file__).name}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
