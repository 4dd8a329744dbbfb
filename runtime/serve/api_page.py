"""The documentation of the HTTP API as one page of HTML, without scripts or a CDN, from its OpenAPI description."""

import html
import re
import textwrap
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #d5d9e2; --soft: #f3f4f7; --accent: #3344cc; }
@media (prefers-color-scheme: dark) { :root { --line: #333a49; --soft: #1a1e28; --accent: #9aa5ff; } }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h2 { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: 1.1rem; }
h2 code { font-size: 1rem; } .method { color: var(--accent); font-weight: 700; }
pre { background: var(--soft); padding: .75rem; border-radius: .5rem; overflow-x: auto; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
table { border-collapse: collapse; width: 100%; } a { color: var(--accent); }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
"""
_METHODS = ("get", "post", "put", "patch", "delete", "head")


def api_page(schema: dict[str, Any]) -> str:
    """The page for an OpenAPI description, as complete HTML; it refers to /docs.css and /openapi.json."""
    title = html.escape(schema["info"]["title"])
    parts = [_text(schema["info"].get("description", ""))]
    for path, operations in schema["paths"].items():
        parts += [_operation(path, method, operations[method]) for method in _METHODS if method in operations]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="docs.css">'
        f"</head><body><h1>{title}: the HTTP API</h1>{''.join(parts)}"
        '<p><a href="openapi.json">openapi.json</a> is the same for programs.</p></body></html>'
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = [_parameter(parameter) for parameter in operation.get("parameters", ())]
    rows += [_part(name, part) for name, part in _form(operation).items()]
    table = f"<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>{''.join(rows)}</table>" if rows else ""
    answers = "".join(
        f"<tr><td><code>{html.escape(status)}</code></td><td>{_line(answer.get('description', ''))}</td></tr>"
        for status, answer in operation["responses"].items()
        if status != "422"  # the usual error
    )
    return (
        f'<h2><code><span class="method">{method.upper()}</span> {html.escape(path)}</code></h2>'
        f"{_text(operation.get('description', ''))}{table}<table><tr><th>Answer</th><th></th></tr>{answers}</table>"
    )


def _form(operation: dict[str, Any]) -> dict[str, Any]:
    """The files of a form."""
    content = operation.get("requestBody", {}).get("content", {})
    properties: dict[str, Any] = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
    return properties


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter.get("schema", {})
    needed = " (required)" if parameter.get("required") else ""
    return _row(parameter["name"], _type(schema) + needed, parameter.get("description", ""))


def _part(name: str, part: dict[str, Any]) -> str:
    return _row(name, "file of a form", part.get("description", ""))


def _row(name: str, kind: str, meaning: str) -> str:
    return f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(kind)}</td><td>{_line(meaning)}</td></tr>"


def _type(schema: dict[str, Any]) -> str:
    kinds = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    kind = kinds[0] if kinds else schema
    if "enum" in kind:
        return " | ".join(map(str, kind["enum"]))
    least, most = kind.get("minimum"), kind.get("maximum")
    bounds = f" {least}..{most}" if least is not None and most is not None else ""
    default = schema.get("default")
    name = "numbers" if kind.get("type") == "array" else kind.get("type", "")
    return f"{name}{bounds}" + (f" = {str(default).lower()}" if default is not None else "")


def _text(description: str) -> str:
    """Paragraphs, and what is indented as code."""
    found = []
    for block in re.split(r"\n\s*\n", description.strip("\n")):
        if block.startswith("    "):
            found.append(f"<pre><code>{html.escape(textwrap.dedent(block))}</code></pre>")
        elif block.strip():
            found.append(f"<p>{_line(block)}</p>")
    return "".join(found)


def _line(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
