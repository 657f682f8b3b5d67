"""The arithmetic: operations on embeddings and logits, each with kernels that compete for it.

- :mod:`negplug.kernels.unit`: rows of unit length;
- :mod:`negplug.kernels.anchor_loss`: the loss of an anchor, from its positives and negatives;
- :mod:`negplug.kernels.chosen`: similarities of chosen pairs, and their log-sum-exp;
- :mod:`negplug.kernels.pool`: log-sum-exp over a whole pool;
- :mod:`negplug.kernels.ring`: the same over the keys of all ranks, which go around a ring;
- :mod:`negplug.kernels.nearest`: the nearest of a pool;
- :mod:`negplug.kernels.mixing`: unit mixtures of two rows;
- :mod:`negplug.kernels.softmax_draws`: draws from the softmax over a pool;
- :mod:`negplug.kernels.chain`: Metropolis–Hastings chains;
- :mod:`negplug.kernels.samples`: which rows of a pool are views of the same sample;
- :mod:`negplug.kernels.views`: logits of samples and weights of their views;
- :mod:`negplug.kernels.states`: those of chains' states outside the batch;
- :mod:`negplug.kernels.posterior`: the expected logit of weighted draws;
- :mod:`negplug.kernels.averages`: moving averages of samples' keys;
- :mod:`negplug.kernels.random`: distinct integers and uniform numbers;
- :mod:`negplug.kernels.table`: look-up and writing by view and index.

In each folder ``__init__`` is the operation, ``reference`` its equation, the other files its
kernels. :mod:`negplug.kernels.choice` decides between them.
"""
