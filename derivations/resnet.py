"""ResNet: the bound for a ResNet of any depth and width, derived from its graph."""

import fimtheory as ft

GRAPH = ft.families.SYMBOLIC["ResNet"].build()
