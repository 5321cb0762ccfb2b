"""DenseNet: the bound for a DenseNet of any depth and width, derived from its graph."""

import fimtheory as ft

GRAPH = ft.families.SYMBOLIC["DenseNet"].build()
