"""A compiled extension's panic: no ``Exception``, as those of some bindings are."""


class Panic(BaseException):
    """What an extension raises when it gives up."""


raise Panic("the extension gave up")
