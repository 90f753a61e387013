"""The program of a .pt2 archive: JSON that torch turns into Python code, so every string is checked.

torch evaluates size expressions, compiles names of nodes into source text, resolves operators as
Python attributes, and imports modules named in tree specifications (2.13). All four are whitelisted.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from pdp_export.errors import FileError, UnsafeFileError

_IDENTIFIER = re.compile(r"[A-Za-z_]\w{0,999}")
_QUALIFIED = re.compile(r"[\w.\- ]{0,1000}")
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.\w+")
_WRITES_FILES = {"from_file", "save"}
_PLAIN_OPERATORS = {
    "_operator.getitem", "_operator.add", "_operator.sub", "_operator.mul", "_operator.truediv", "_operator.floordiv",
    "_operator.mod", "_operator.pow", "_operator.neg", "_operator.eq", "_operator.ne", "_operator.lt", "_operator.le",
    "_operator.gt", "_operator.ge", "_operator.and_", "_operator.or_", "torch.sym_float", "torch.sym_int",
    "torch.sym_max", "torch.sym_min", "torch.sym_not", "torch.sym_ite", "torch.sym_sum", "torch.sym_sqrt", "math.ceil",
    "math.floor", "math.trunc",
}  # fmt: skip
_SYMPY = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv", "CeilDiv",
    "CleanDiv", "PythonMod", "ModularIndexing", "IntTrueDiv", "FloatTrueDiv", "ToFloat", "TruncToInt", "CeilToInt",
    "FloorToInt", "Identity", "Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan",
    "StrictGreaterThan", "And", "Or", "Not", "Where",
}  # fmt: skip
_EXPRESSION_NODES = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub)
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
_FREE_TEXT = {"metadata", "as_string", "as_strings", "torch_version", "guards_code"}
"""Never evaluated while loading. Guards would be afterwards, by ``program.module()``: `load_program` drops them."""

_QUALIFIED_KEYS = {"parameter_name", "buffer_name", "tensor_constant_name", "fqn"}
_MAX_DIGITS = 20


def check_program(program: Any, name: str) -> None:
    """Check every string in the program before torch sees it.

    Raises:
        UnsafeFileError: a string that torch would evaluate, compile, import or resolve outside the whitelists.
        FileError: not a program at all.
    """
    if not isinstance(program, dict) or not isinstance(program.get("graph_module"), dict):
        raise FileError(f"{name} is damaged: it holds no program", where=name)
    try:
        _walk(program, "", name)
    except RecursionError as error:
        raise UnsafeFileError(f"{name} is nested too deeply", where=name) from error


def _walk(item: Any, key: str, name: str) -> None:
    if key in _FREE_TEXT:
        return
    if isinstance(item, dict):
        for inner, content in item.items():
            _check_text(inner, "", name)
            _walk(content, inner, name)
    elif isinstance(item, list):
        for content in item:
            _walk(content, key, name)
    elif isinstance(item, str):
        _check_text(item, key, name)


def _check_text(text: str, key: str, name: str) -> None:
    if not _RULES.get(key, _is_identifier)(text):
        raise UnsafeFileError(
            f"{name} holds text where torch would run it as code ({key or 'a name'}); it was not executed",
            where=f"{name}: {text[:120]!r}",
            hint="do not open this file with torch.export.load either",
        )


def _is_identifier(text: str) -> bool:
    return _IDENTIFIER.fullmatch(text) is not None


def _is_qualified(text: str) -> bool:
    return _QUALIFIED.fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    match = _ATEN.fullmatch(text)
    return match[1] not in _WRITES_FILES if match else text in _PLAIN_OPERATORS


def _is_size_expression(text: str) -> bool:
    """Accept ``Mul(Integer(4), Symbol('s77', positive=True))`` and the like: calls of known sympy functions."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(isinstance(node, _EXPRESSION_NODES) and _is_harmless(node) for node in ast.walk(tree))


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        powers_grow = isinstance(node.func, ast.Name) and node.func.id == "Pow" and _has_large_number(node.args[1:])
        return isinstance(node.func, ast.Name) and node.func.id in _SYMPY and not powers_grow
    if isinstance(node, ast.Name):
        return node.id in _SYMPY or node.id in {"true", "false"}
    if isinstance(node, ast.Constant):
        is_name = isinstance(node.value, str) and (
            _is_identifier(node.value) or re.fullmatch(r"-?[\d.e+-]+", node.value)
        )
        return bool(is_name) or (isinstance(node.value, int | float) and len(str(node.value)) <= _MAX_DIGITS)
    return True


def _has_large_number(arguments: list[ast.expr]) -> bool:
    numbers = [inner.value for argument in arguments for inner in ast.walk(argument) if isinstance(inner, ast.Constant)]
    return any(isinstance(number, int | float) and abs(number) > 8 for number in numbers)  # noqa: PLR2004  (x**8)


def _is_tree_specification(text: str) -> bool:
    """Accept nested tuples, lists and dictionaries with identifier keys; other types may import modules."""
    try:
        version, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return False
    return version == 1 and _is_tree(tree)


def _is_tree(tree: Any) -> bool:
    if not isinstance(tree, dict) or tree.get("type") not in _CONTAINERS:
        return False
    context, children = tree.get("context"), tree.get("children_spec")
    keys = json.loads(context) if isinstance(context, str) else context
    plain = keys is None or (isinstance(keys, list) and all(isinstance(k, str) and _is_identifier(k) for k in keys))
    return plain and isinstance(children, list) and all(_is_tree(child) for child in children)


def _never(_: str) -> bool:
    return False


_RULES: dict[str, Callable[[str], bool]] = {
    "target": _is_operator,
    "as_operator": _is_operator,
    "expr_str": _is_size_expression,
    "in_spec": _is_tree_specification,
    "out_spec": _is_tree_specification,
    "class_fqn": _never,
    **dict.fromkeys(_QUALIFIED_KEYS, _is_qualified),
}
