"""One file per edit: `check(graph, edit)` and `apply(model, graph, edit, optimizers)`; no state of their own."""
