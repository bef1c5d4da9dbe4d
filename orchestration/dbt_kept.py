"""What dbt works out anew in each command although the project is the same, kept for the next one.

For a process that runs the same command again and again upon one manifest: the graph of all nodes
with its tests' edges, which of them the command's arguments select, and dbt's own plug-ins. The
selection must follow from arguments and manifest alone, which `state:` and `result:` do not. What
dbt writes into files for people, the SQL of each node, is written if something failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from dbt import selected_resources
from dbt.compilation import Compiler
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import ParsedNode
from dbt.graph import Graph
from dbt.graph.queue import GraphQueue
from dbt.plugins.manager import PluginManager
from dbt.task.build import BuildTask

_plug_ins = cache(PluginManager.get_prefixed_modules)
_mutex = threading.Lock()
_manifest: Manifest | None = None
_graph: Graph | None = None
_selected: dict[tuple[str, ...], tuple[Any, frozenset[str]]] = {}


@contextmanager
def same_project(manifest: Manifest, args: tuple[str, ...]) -> Iterator[Callable[[], None]]:
    """A `build` of `manifest` with these arguments, run in this block, uses what is kept of it.

    What it hands over writes the files.
    """
    compile_all, select, write = Compiler.compile, BuildTask.get_graph_queue, ParsedNode.write_node
    files: list[tuple[ParsedNode, str, str, str]] = []

    def compile_once(self: Compiler, of: Manifest, write: bool = True, **options: bool) -> Graph:
        global _graph
        if of is not manifest or not options.get("add_test_edges"):
            return compile_all(self, of, write, **options)
        if _graph is None:
            _graph = compile_all(self, of, write, **options)
        return _graph

    def select_once(self: BuildTask) -> GraphQueue:
        if args not in _selected:
            queue = select(self)
            if self.manifest is not manifest or self.selected_unit_tests:
                return queue
            _selected[args] = queue.graph.copy(), frozenset(queue.get_selected_nodes())
            return queue
        graph, nodes = _selected[args]
        self.selected_unit_tests = set()
        self.build_model_to_unit_test_map(set())
        selected_resources.set_selected_resources(set(nodes))
        return GraphQueue(graph.copy(), manifest, set(nodes))

    def write_later(node: ParsedNode, project_root: str, path: str, code: str) -> None:
        files.append((node, project_root, path, code))

    def write_files() -> None:
        for node, project_root, path, code in files:
            write(node, project_root, path, code)

    with _mutex:
        _forget_others(manifest)
        stock = PluginManager.__dict__["get_prefixed_modules"]
        PluginManager.get_prefixed_modules = _plug_ins
        Compiler.compile, BuildTask.get_graph_queue = compile_once, select_once
        ParsedNode.write_node = write_later
        try:
            yield write_files
        finally:
            Compiler.compile, BuildTask.get_graph_queue = compile_all, select
            ParsedNode.write_node = write
            PluginManager.get_prefixed_modules = stock


def _forget_others(manifest: Manifest) -> None:
    global _manifest, _graph
    if _manifest is not manifest:
        _manifest, _graph = manifest, None
        _selected.clear()
