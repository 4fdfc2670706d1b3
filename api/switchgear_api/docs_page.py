"""The page at `/docs`: the OpenAPI document as plain HTML, made once at start.

No script, and nothing loaded from elsewhere, so that it works where there is no way to the internet.
"""

from __future__ import annotations

from html import escape
from typing import Any

from switchgear_api.problems import Json

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d9dee5, #343b45); --soft: light-dark(#f4f6f8, #1b2027);
  --ink: light-dark(#1b2430, #e5e9ef); --dim: light-dark(#526070, #9aa7b6); --accent: light-dark(#0b5cad, #7cb7f5); }
body { margin: 0; font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: light-dark(#fff, #12161c); }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2.25rem 0 .5rem; }
p, .dim { color: var(--dim); margin: .25rem 0 .75rem; } a { color: var(--accent); }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .4rem 0; }
summary { padding: .5rem .75rem; cursor: pointer; display: flex; gap: .75rem; flex-wrap: wrap; align-items: baseline; }
summary:hover { background: var(--soft); border-radius: .5rem; }
.method { font: 700 .75rem/1 ui-monospace, monospace; width: 3.75rem; color: var(--accent); }
code, pre { font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
.inside { padding: .25rem 1rem 1rem; } pre { background: var(--soft); padding: .75rem; overflow-x: auto; margin: 0; }
table { border-collapse: collapse; width: 100%; margin: .25rem 0 .75rem; font-size: .88rem; }
td, th { text-align: left; padding: .3rem .75rem .3rem 0; border-top: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 500; }
"""


def render(schema: Json) -> str:
    """The whole page for an OpenAPI 3.1 document."""
    info = schema["info"]
    server = ((schema.get("servers") or [{}])[0]).get("url", "http://HOST:PORT")
    groups: dict[str, list[str]] = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(schema, server, method, path, operation))
    sections = "".join(f"<h2>{escape(tag.capitalize())}</h2>{''.join(found)}" for tag, found in groups.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(info['title'])} API <span class=dim>{escape(info['version'])}</span></h1>"
        f"<p>{escape(info.get('description', ''))}</p>"
        "<p>Every call needs <code>Authorization: Bearer &lt;admin token&gt;</code>. Errors are "
        "<code>{&quot;code&quot;, &quot;message&quot;, &quot;details&quot;?}</code>. "
        'The machine-readable form is <a href="openapi.json">openapi.json</a>.</p>'
        f"{sections}</main></body></html>"
    )


def _operation(schema: Json, server: str, method: str, path: str, operation: Json) -> str:
    body = (((operation.get("requestBody") or {}).get("content") or {}).get("application/json") or {}).get("schema")
    success: Json = next((r for code, r in operation["responses"].items() if code.startswith("2")), {})
    answer = ((success.get("content") or {}).get("application/json") or {}).get("schema")
    parts = [f"<p>{escape(operation['description'])}</p>" if operation.get("description") else ""]
    if operation.get("parameters"):
        rows = "".join(_parameter(schema, p) for p in operation["parameters"])
        parts.append(f"<table><tr><th>Parameter<th>In<th>Type<th>Meaning</tr>{rows}</table>")
    for title, found in (("Body", body), ("Answer", answer)):
        if found:
            parts.append(f"<table><tr><th>{title}<th>Type<th>Meaning</tr>{_fields(schema, found)}</table>")
    parts.append(f"<pre>{escape(_curl(server, method, path, body is not None))}</pre>")
    return (
        f"<details><summary><span class=method>{method.upper()}</span><code>{escape(path)}</code>"
        f"<span class=dim>{escape(operation.get('summary', ''))}</span></summary>"
        f"<div class=inside>{''.join(parts)}</div></details>"
    )


def _curl(server: str, method: str, path: str, body: bool) -> str:
    verb = "" if method == "get" else f" -X {method.upper()}"
    data = " \\\n  -H 'Content-Type: application/json' -d '{…}'" if body else ""
    return f'curl{verb} {server}{path} \\\n  -H "Authorization: Bearer $(cat ADMIN_TOKEN_FILE)"{data}'


def _parameter(schema: Json, parameter: Json) -> str:
    kind = escape(_type(schema, parameter["schema"]))
    meaning = escape(parameter.get("description") or "")
    return f"<tr><td><code>{escape(parameter['name'])}</code><td>{parameter['in']}<td>{kind}<td>{meaning}</tr>"


def _fields(schema: Json, found: Json) -> str:
    target = _resolve(schema, found)
    required = set(target.get("required") or [])
    rows = []
    for name, field in (target.get("properties") or {}).items():
        meaning = field.get("description") or ""
        need = " (required)" if name in required else ""
        kind = escape(_type(schema, field) + need)
        rows.append(f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{escape(meaning)}</tr>")
    return "".join(rows)


def _type(schema: Json, field: Json) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type(schema, one) for one in field["anyOf"] if one.get("type") != "null")
    if field.get("type") == "array":
        return f"list of {_type(schema, field.get('items') or {})}"
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    return str(field.get("type") or "any")


def _resolve(schema: Json, found: Json) -> Json:
    reference = found.get("$ref")
    if reference is None:
        return found
    target: Any = schema["components"]["schemas"][reference.rpartition("/")[2]]
    return dict(target)
