"""Message templates: one Jinja file each, with the blocks `subject`, `text` and `html`.

A sync names its template by the file's name. Variables are the sync model's fields; a field that
does not exist is an error, never an empty place in a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from syncs.results import Fatal, Message, Rejected

#: Folders that are searched for templates, first match wins.
FOLDERS = [Path(__file__).parent]


def available() -> list[str]:
    """Names of all templates, sorted."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.j2")})


def render(
    name: str, fields: Mapping[str, Any], *, escape: Callable[[str], str] | None = None
) -> Message:
    """Fill in a template. JSON text in a field arrives in the template parsed.

    `escape` is applied to every value in the `text` block; HTML is always escaped. Raises Fatal
    for a template that is broken, Rejected for values it cannot work with.
    """
    values = {key: _parsed(value) for key, value in fields.items()}
    plain, markup = _load(name, False), _load(name, True)
    if "text" not in plain.blocks:
        raise Fatal(f"template {name}: it needs a block called text")
    escaped = {key: _escaped(value, escape) for key, value in values.items()}
    return Message(
        subject=_block(name, plain, "subject", values),
        text=_block(name, plain, "text", escaped) or "",
        html=_block(name, markup, "html", values),
    )


@lru_cache(maxsize=2)
def _environment(autoescape: bool, folders: tuple[Path, ...]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(list(folders)),
        undefined=StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["money"] = _money
    environment.filters["day"] = _day
    return environment


def _load(name: str, autoescape: bool) -> Template:
    try:
        return _environment(autoescape, tuple(FOLDERS)).get_template(f"{name}.j2")
    except TemplateNotFound:
        raise Fatal(f"no template {name!r}; there are: {', '.join(available())}") from None
    except TemplateError as error:
        raise Fatal(f"template {name}: {error}") from None


def _block(name: str, template: Template, block: str, values: Mapping[str, Any]) -> str | None:
    if block not in template.blocks:
        return None
    try:
        context = template.new_context(dict(values))
        return "".join(template.blocks[block](context)).strip()
    except SecurityError:
        raise Fatal(f"template {name}: block {block} does what templates may not") from None
    except TemplateError as error:
        raise Fatal(f"template {name}: block {block}: {error.message}") from None
    except Exception as error:
        # The error's own text may quote the customer's values.
        raise Rejected(
            f"template {name}: block {block} cannot be filled in ({type(error).__name__})"
        ) from None


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value


def _escaped(value: Any, escape: Callable[[str], str] | None) -> Any:
    if escape is None:
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_escaped(item, escape) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item, escape) for key, item in value.items()}
    return value


def _money(value: Any, currency: str | None = None) -> str:
    """1234.5 → `1,234.50 EUR`; nothing known → `unknown`."""
    if value is None:
        return "unknown"
    return f"{float(value):,.2f} {currency or ''}".strip()


def _day(value: Any) -> str:
    """The date of an ISO timestamp; nothing known → `never`."""
    return str(value)[:10] if value else "never"
