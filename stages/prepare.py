"""Makes or reads the images of a row, checks and splits them, and writes their data card."""

from __future__ import annotations

from stages import cli, outputs


def main(context: cli.Context) -> None:
    """Writes `data/prepared/<scale>/<row>.safetensors` and `metrics/<scale>/prepare/<row>.json`."""
    from stages.data import registry, splits
    from stages.data.errors import DataError

    try:
        dataset = registry.load(context.row.data, context.root)
    except DataError as error:
        raise cli.UserError(str(error)) from None
    card = splits.card(dataset)
    with outputs.exclusive(context.root / "runs" / "locks" / f"prepare-{context.settings.scale}-{context.row_name}"):
        splits.save(context.data, dataset)
        outputs.write_json(context.metrics / "prepare" / f"{context.row_name}.json", card)
    counts = ", ".join(f"{card['samples'][name]['total']:,} {name}" for name in card["samples"])
    print(f"prepare {context.row_name}: {dataset.source}; {counts} images")


if __name__ == "__main__":
    cli.main(main, has_row=True)
