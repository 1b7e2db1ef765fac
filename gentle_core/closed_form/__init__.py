"""Alignment without training: closed forms on features, and what makes them (or any embeddings) rank better.

`moments` (streamed covariances), `linear` (CCA, ridge regression, Procrustes), `select` (settings chosen on validation
data), `hubness` (CSLS, inverted softmax, QB-norm for any scorer), `graph` (label propagation over nearest-neighbour
graphs), `transport` (OT-EM CCA), `forms` (what they are), `fit` (all of them side by side), `choice`,
`crossfit` (without validation data), `storage`. Plain functions on arrays that know
nothing of runs, recipes or plugins.
"""
