"""Empty; that it is a package tells main from the published 1.0.2."""
