"""Generated TypeScript fits Segment's own types, and its compiled form is sent and taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from collector_process import start, stop

sys.path.append(str(Path(__file__).parents[1] / "ingestion"))
from codegen_contract import contracts

from ingestion.contract_codegen import generate

USE = """
import { Analytics } from "@segment/analytics-node";
import { AnalyticsBrowser } from "@segment/analytics-next";
import {
  browser, server, trackCardTransaction, trackGrE105OddMoved, trackPurchaseCompleted,
} from "./events.js";

declare const process: { argv: string[] };
const node = new Analytics({ writeKey: "wk_web", host: process.argv[2] });
const one = server(node, { userId: "u_42" });
const purchase = { order_id: "A-1", total: 5, currency: "EUR" };
trackPurchaseCompleted(one, { ...purchase, items: [{ product_id: "p", quantity: 1, price: 5 }] });
trackPurchaseCompleted(server(node, { anonymousId: "a-1" }), purchase, {
  timestamp: new Date(0),
  context: { ip: "192.0.2.1" },
});
await node.closeAndFlush();

export function inTheBrowser(web: AnalyticsBrowser): void {
  trackPurchaseCompleted(browser(web), purchase);
  const odd = { class: null, "plan-type": "pro", user_id: "u", at: new Date() } as const;
  trackGrE105OddMoved(browser(web), odd);
  // @ts-expect-error text
  trackPurchaseCompleted(browser(web), { ...purchase, total: "5" });
  // @ts-expect-error no currency
  trackPurchaseCompleted(browser(web), { order_id: "A-1", total: 5 });
  const card = { transaction_id: "t", card_id: "c", amount: 1, currency: "EUR" };
  // @ts-expect-error not listed
  trackCardTransaction(one, { ...card, status: "lost" });
  // @ts-expect-error nobody
  server(node, {});
}
"""
OPTIONS = {
    "strict": True,
    "module": "nodenext",
    "target": "es2022",
    "lib": ["es2022", "dom"],
    "skipLibCheck": True,  # of the SDKs' own declarations
    "outDir": "out",
}


def test_generated_typescript_compiles_and_sends(modules: Path, tmp_path: Path) -> None:
    if not (modules / ".bin" / "tsc").exists():
        pytest.skip("typescript is not among the installed libraries")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS}))
    (tmp_path / "events.ts").write_text(generate(contracts(tmp_path), "typescript"))
    (tmp_path / "use.ts").write_text(USE)
    compiled = subprocess.run(
        [modules / ".bin" / "tsc", "-p", tmp_path], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stdout
    server = start(tmp_path / "log")
    try:
        command = ["node", tmp_path / "out" / "use.js", server.url]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        first, second = server.since(0)
    finally:
        stop(server)
    assert (first.kind, first.event_version, first.user_id) == ("event", 1, "u_42")
    assert json.loads(first.payload)["context"]["protocols"] == {"event_version": 1}
    assert (second.anonymous_id, second.original_timestamp) == (
        "a-1",
        "1970-01-01T00:00:00.000000Z",
    )
    assert json.loads(second.payload)["context"]["ip"] == "192.0.2.1"
