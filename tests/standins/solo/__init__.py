"""A stand-in for the main branch of solo-learn, which no package index has.

Written from its published interface (https://github.com/vturrisi/solo-learn, 1.0.6) and from the
papers that each module names; no code of it is here. It has what an adapter meets: the same module
paths, classes and attributes, loss functions that a method's module imports by name, a
``training_step`` of the same order on Lightning, and OmegaConf settings. Left out is what has
nothing to do with a contrastive loss: data pipelines, backbones, schedulers, k-NN, accuracies and
the methods without negatives.

It is imported only where its parent folder is put on the path. ``../checks`` compares it with a
checkout of the real one: every loss function and every training step, value and gradient.
"""
