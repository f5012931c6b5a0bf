"""``asteady models probe``: how many requests a worker decodes side by side, and why."""

from __future__ import annotations

import argparse
import json

import attrs

from asteady._base.settings import Settings


def run(options: argparse.Namespace) -> int:
    from asteady._engine.models.resolve import resolve_model
    from asteady._engine.plan import EngineOptions, probe_report

    settings = Settings.from_environment()
    reference = options.model or settings.generation_model
    file = resolve_model(reference, kind="generation", cache_dir=settings.cache_dir)
    report = probe_report(file, EngineOptions.of(settings), settings.cache_dir)
    if options.json:
        print(json.dumps(attrs.asdict(report), indent=2))
        return 0
    if report.layouts:
        print(f"{'weights':<10} {'width':>5} {'same bits':>9} {'ms a step':>9} {'ms a token':>10}")
    for layout in report.layouts:
        name = "repacked" if layout.repack else "plain"
        for result in layout.widths:
            step_ms = result.step_s * 1000
            print(
                f"{name:<10} {result.width:>5} {'yes' if result.held else 'no':>9}"
                f" {step_ms:>9.2f} {step_ms / result.width:>10.2f}"
            )
    chosen = report.setup
    layout_name = "repacked" if chosen.repack else "plain"
    why = f": {report.reason}" if report.reason else f" (probed in {report.took_s:.2f} s)"
    print(f"{reference}: width {chosen.width}, {layout_name} weights{why}")
    return 0
