"""YAML that people write: scenarios, generators, and the values of `--set` and `--grid`."""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, which YAML's own loader lets the last one win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [str(key) for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            problem = f"the key '{twice[0]}' is there twice (line {node.start_mark.line + 1} on)"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a point and a sign in the exponent: without this, 1e-6 is text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """The plain value that a text holds; raises yaml.YAMLError, whatever is wrong with it."""
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError) as error:  # a date of month 13, brackets without end
        raise yaml.YAMLError(str(error)) from None
