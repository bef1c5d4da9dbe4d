"""Message templates: one Jinja file each, with the blocks `subject`, `text` and `html`.

A sync names its template by the file's name. Variables are the sync model's fields and what the
destination adds (`variables` in its file); a variable that does not exist is an error, never an
empty place in a message. A template may extend a layout, which puts the blocks `text` and `html`
into its own `text_page` and `html_page`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import (
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
    UndefinedError,
    nodes,
)
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
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
    escaped = {key: _escaped(value, escape) for key, value in values.items()}
    return Message(
        subject=_block(name, "subject", values),
        text=_block(name, "text", escaped, needed=True) or "",
        html=_block(name, "html", values, autoescape=True),
    )


@lru_cache(maxsize=4)
def _environment(autoescape: bool, folders: tuple[Path, ...]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(list(folders)),
        undefined=StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"money": _money, "date": _date, "percent": _percent, "gsm": _gsm}
    return environment


def _load(name: str, autoescape: bool) -> tuple[Template, Template | None]:
    """A template and the layout it extends."""
    environment = _environment(autoescape, tuple(FOLDERS))
    try:
        template = environment.get_template(f"{name}.j2")
        layout = _layout_of(environment, f"{name}.j2", template)
        return template, environment.get_template(layout) if layout else None
    except TemplateNotFound as error:
        raise Fatal(f"no template {error.name!r}; there are: {', '.join(available())}") from None
    except TemplateError as error:
        raise Fatal(f"template {name}: {error}") from None


@lru_cache(maxsize=256)
def _layout_of(
    environment: ImmutableSandboxedEnvironment, file: str, template: Template
) -> str | None:
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, file)
    extended = environment.parse(source).find(nodes.Extends)
    if extended is None:
        return None
    if not isinstance(extended.template, nodes.Const):
        raise Fatal(f"template {file}: extends: name the layout as it is, like layouts/email.j2")
    return str(extended.template.value)


def _block(
    name: str,
    block: str,
    values: Mapping[str, Any],
    *,
    needed: bool = False,
    autoescape: bool = False,
) -> str | None:
    """A block filled in, within the layout's page for it; None where there is no such block."""
    template, layout = _load(name, autoescape)
    if block not in template.blocks:
        if needed:
            raise Fatal(f"template {name}: it needs a block called {block}")
        return None
    context: Context = template.new_context(dict(values))
    page = block
    if layout is not None:
        for inherited, function in layout.blocks.items():
            context.blocks.setdefault(inherited, []).append(function)
        page = f"{block}_page" if f"{block}_page" in layout.blocks else block
    try:
        return "".join(context.blocks[page][0](context)).strip()
    except SecurityError:
        raise Fatal(f"template {name}: block {block} does what templates may not") from None
    except UndefinedError as error:
        there = ", ".join(sorted(values))
        raise Fatal(
            f"template {name}: block {block}: {error.message}; there are: {there}"
        ) from None
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


def _date(value: Any, missing: str = "unknown") -> str:
    """The day of an ISO date or timestamp: `2 Jan 2026`; nothing known → `missing`."""
    if not value:
        return missing
    day = datetime.fromisoformat(str(value)[:10])
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


# Not strftime's, whose names depend on the locale.
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip


def _percent(value: Any, missing: str = "unknown") -> str:
    """0.734 → `73 %`; nothing known → `missing`."""
    return missing if value is None else f"{float(value) * 100:.0f} %"


# The letters of 3GPP TS 23.038 that take one place of an SMS, and what stands in for some others.
_GSM = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_STAND_INS = str.maketrans(
    {"€": "EUR", "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...",
     "[": "(", "]": ")", "{": "(", "}": ")", "Ł": "L", "ł": "l", "ı": "i", "Đ": "D", "đ": "d"}
)  # fmt: skip


def _gsm(value: Any) -> str:
    """Text in the letters that let an SMS hold 160: others lose their accents or become `?`."""
    letters = []
    for letter in str(value).translate(_STAND_INS):
        if letter in _GSM:
            letters.append(letter)
        else:
            base = unicodedata.normalize("NFKD", letter)[0]
            letters.append(base if base in _GSM else "?")
    return "".join(letters)
