"""Makes REFERENCE.md from the docstrings of the package.

    python3 bindings/python/make_reference.py [--check]

Reads the source and imports nothing. With --check it only compares, and exits
with 1 if the file is not what the docstrings say.
"""

import ast
import inspect
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
MODULES = [
    "quashdb", "quashdb.arrow", "quashdb.embedding", "quashdb.importers", "quashdb.plot",
    "quashdb.integrations.langchain", "quashdb.integrations.llama_index",
    "quashdb.integrations.haystack", "quashdb.integrations.chroma", "quashdb.ray", "quashdb.kv"]
LINE = 88


def path_of(module):
    path = HERE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def parse(module):
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def is_public(name):
    return not name.startswith("_")


def definitions(module):
    """Classes and functions at the top of a module by name; of overloads the last."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name: node for node in parse(module).body if isinstance(node, kinds)}


def exported(module):
    """(name, node) of what the module offers: its __all__, followed to where each
    is defined, else its own public classes and functions."""
    tree, own = parse(module), definitions(module)
    listed = next((ast.literal_eval(node.value) for node in tree.body
                   if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"),
                  None)
    if listed is None:
        return [(name, node) for name, node in own.items() if is_public(name)]
    origin = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("quashdb"):
            origin.update({alias.asname or alias.name: node.module for alias in node.names})
    found = []
    for name in listed:
        node = own.get(name) or definitions(origin[name]).get(name) if name in own or (
            name in origin and path_of(origin[name]).exists()) else None
        if node is not None:
            found.append((name, node))
    return found


def markdown(docstring):
    """Docstrings are plain text: paragraphs, "name: what it is" lists, and code
    that is indented by four."""
    out, in_list, in_code = [], False, False
    for line in inspect.cleandoc(docstring or "").split("\n"):
        item = re.match(r"^(\w+(?:, \w+)*): (.+)$", line)
        if line.startswith("    ") and not in_list:
            if not in_code:
                out.append("```python")
            in_code = True
            out.append(line[4:])
            continue
        if in_code and line.strip():
            while not out[-1].strip():
                out.pop()
            out.append("```\n")
            in_code = False
        if item and not (out and out[-1] and not in_list):
            if not in_list and out:
                out.append("")
            out.append(f"- `{item[1]}`: {escape(item[2])}")
            in_list = True
        elif in_list and line.startswith("  "):
            out.append("  " + escape(line.strip()))
        else:
            in_list = in_list and not line
            out.append(line if in_code else escape(line))
    if in_code:
        out.append("```")
    return "\n".join(out).strip()


def escape(text):
    return re.sub(r"([<*|])", r"\\\1", text)


def signature(name, function, method):
    arguments = function.args
    texts = []
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        texts.append(ast.unparse(argument)
                     + (f" = {ast.unparse(default)}" if default is not None else ""))
    if method and texts and "staticmethod" not in decorators(function):
        texts.pop(0)
    if arguments.vararg:
        texts.append("*" + ast.unparse(arguments.vararg))
    elif arguments.kwonlyargs:
        texts.append("*")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults,
                                 strict=True):
        texts.append(ast.unparse(argument)
                     + (f" = {ast.unparse(default)}" if default is not None else ""))
    if arguments.kwarg:
        texts.append("**" + ast.unparse(arguments.kwarg))
    end = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    whole = f"{name}({', '.join(texts)}){end}"
    if len(whole) <= LINE:
        return whole
    return name + "(\n" + "".join(f"    {text},\n" for text in texts) + f"){end}"


def decorators(node):
    return [ast.unparse(decorator) for decorator in node.decorator_list]


def bases(node):
    named = [ast.unparse(base) for base in node.bases]
    return f"({', '.join(named)})" if named else ""


def class_reference(name, node):
    out = [f"### class {name}{bases(node)}".replace("[", "\\[").replace("_", "\\_"), ""]
    out += [markdown(ast.get_docstring(node)), ""]
    attributes, methods = [], {}
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name) \
                and is_public(child.target.id):
            default = f" = {ast.unparse(child.value)}" if child.value is not None else ""
            attributes.append(f"- `{child.target.id}: {ast.unparse(child.annotation)}{default}`")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if child.name == "__init__" and child.lineno and ast.get_docstring(child):
                methods[child.name] = child
            elif any(text in ("property", "cached_property", "functools.cached_property")
                     for text in decorators(child)):
                if is_public(child.name):
                    text = " ".join((ast.get_docstring(child) or "").split())
                    kind = f": {ast.unparse(child.returns)}" if child.returns else ""
                    attributes.append(f"- `{child.name}{kind}`"
                                      + (f": {escape(text)}" if text else ""))
            elif is_public(child.name) and ast.get_docstring(child):
                methods[child.name] = child
    if attributes:
        out += [*attributes, ""]
    for method, child in methods.items():
        shown = name if method == "__init__" else f"{name}.{method}"
        out += ["```python", signature(shown, child, method=True), "```", "",
                markdown(ast.get_docstring(child)), ""]
    return out


def module_reference(module):
    out = [f"## {module}", "", markdown(ast.get_docstring(parse(module))), ""]
    for name, node in exported(module):
        if isinstance(node, ast.ClassDef):
            out += class_reference(name, node)
        elif ast.get_docstring(node):
            out += [f"### {name}()".replace("_", "\\_"), "", "```python",
                    signature(f"{module}.{name}", node, method=False), "```", "",
                    markdown(ast.get_docstring(node)), ""]
    return out


def reference():
    out = ["# quashdb for Python: reference", "",
           "Made by `make_reference.py` from the docstrings; change those. "
           "Introduction: [README.md](README.md).", ""]
    modules = [module for module in MODULES if path_of(module).exists()]
    for module in modules:
        names = ", ".join(f"`{name}`" for name, node in exported(module)
                          if ast.get_docstring(node))
        out.append(f"- [{module}](#{module.replace('.', '')}): {names}")
    out.append("")
    for module in modules:
        out += module_reference(module)
    return "\n".join(out).rstrip() + "\n"


def main():
    target = HERE / "REFERENCE.md"
    text = re.sub(r"\n{3,}", "\n\n", reference())
    if "--check" not in sys.argv[1:]:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    print("REFERENCE.md is not what the docstrings say; run bindings/python/make_reference.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
