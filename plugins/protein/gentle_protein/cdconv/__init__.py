"""CDConv: continuous–discrete convolution over the Cα trace of a protein chain (Fan et al., ICLR 2023).

`config` describes an encoder without importing torch; `encoder.build` makes it.
"""
