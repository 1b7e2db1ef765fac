"""Measuring embeddings: plain functions on tensors and arrays that know nothing of runs, recipes or plugins.

`retrieval` (ranks, recall, chance), `geometry` (gap, alignment, uniformity, effective rank), `shortcuts` (how far an
attribute alone goes), `probes` (kNN and linear), `bootstrap` (whether two runs differ), `examples` (neighbours to look
at), `summary` (all of it for one split).
"""
