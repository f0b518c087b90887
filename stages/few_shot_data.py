"""Makes or reads the images of an entry of few-shot learning, checks them, and writes their data card."""

from __future__ import annotations

from stages import cli, outputs


def main(context: cli.Context) -> None:
    """Writes `data/prepared/<scale>/<entry>.safetensors` and `metrics/<scale>/prepare/<entry>.json`."""
    from stages.data import splits
    from stages.data.few_shot import sources

    dataset = sources.load(context.few_shot.data, context.root)
    card = splits.card(dataset)
    with outputs.exclusive(context.root / "runs" / "locks" / f"prepare-{context.settings.scale}-{context.name}"):
        splits.save(context.data, dataset)
        outputs.write_json(context.metrics / "prepare" / f"{context.name}.json", card)
    counts = ", ".join(f"{card['samples'][name]['total']:,} {name}" for name in card["samples"])
    print(f"prepare {context.name}: {dataset.source}; {counts} images")


if __name__ == "__main__":
    cli.main(main, section="few_shot")
