"""Transformer: the bound for a Transformer of any depth and width, derived from its graph."""

import fimtheory as ft

GRAPH = ft.families.SYMBOLIC["Transformer"].build()
