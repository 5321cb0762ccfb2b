"""VGG: the bound for a VGG of any depth and width, derived from its graph."""

import fimtheory as ft

GRAPH = ft.families.SYMBOLIC["VGG"].build()
