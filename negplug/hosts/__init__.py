"""Our loss in the place of a host's, and back. Imports no host, and here not even torch."""
