"""Draws or reads the pictures of an entry of object detection, checks them, and writes their data card."""

from __future__ import annotations

from stages import cli, outputs


def main(context: cli.Context) -> None:
    """Writes `data/prepared/<scale>/<entry>.safetensors` and `metrics/<scale>/prepare/<entry>.json`."""
    from stages.data.detection import sources, store

    found = sources.load(context.detection.data, context.root)
    card = store.card(found)
    with outputs.exclusive(context.root / "runs" / "locks" / f"prepare-{context.settings.scale}-{context.name}"):
        store.save(context.data, found)
        outputs.write_json(context.metrics / "prepare" / f"{context.name}.json", card)
    counts = ", ".join(f"{of['total']:,} {name} with {of['objects']:,} objects" for name, of in card["samples"].items())
    print(f"prepare {context.name}: {found.source}; {counts}")


if __name__ == "__main__":
    cli.main(main, section="detection")
