"""Makes or reads the texts of a language task, checks, splits and encodes them, and writes their data card."""

from __future__ import annotations

from stages import cli, outputs
from stages.settings import FineTuned


def main(context: cli.Context) -> None:
    """Writes `data/prepared/<scale>/<task>.safetensors` and `metrics/<scale>/prepare/<task>.json`."""
    from stages.data.errors import DataError
    from stages.data.language import prepared

    settings = context.language
    try:
        encoder = None
        # First of all, as the texts take longer.
        if isinstance(settings.networks, FineTuned):
            from stages.data.language import encoders

            encoder = encoders.read(encoders.folder_of(settings.networks.encoder.folder, context.root))
        corpus = prepared.read(settings.data, context.root)
        dataset = prepared.prepare(
            corpus,
            settings.data,
            vocabulary=settings.vocabulary,
            length=settings.length,
            cut=settings.cut,
            encoder=encoder,
        )
    except DataError as error:
        raise cli.UserError(str(error)) from None
    card = prepared.card(dataset, corpus)
    with outputs.exclusive(context.root / "runs" / "locks" / f"prepare-{context.settings.scale}-{context.name}"):
        prepared.save(context.data, dataset)
        outputs.write_json(context.metrics / "prepare" / f"{context.name}.json", card)
    counts = ", ".join(f"{card['samples'][name]['total']:,} {name}" for name in prepared.SPLITS)
    print(f"prepare {context.name}: {dataset.source}; {counts} samples; a vocabulary of {dataset.vocabulary}")


if __name__ == "__main__":
    cli.main(main, section="language")
