"""ConvNeXt: the bound for a ConvNeXt of any depth and width, derived from its graph."""

import fimtheory as ft

GRAPH = ft.families.SYMBOLIC["ConvNeXt"].build()
