"""Mixer: the bound for an MLP-Mixer of any depth and width, derived from its graph."""

import fimtheory as ft

GRAPH = ft.families.SYMBOLIC["Mixer"].build()
