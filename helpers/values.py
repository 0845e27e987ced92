"""A value that is not there, with its reason, `Nothing("no base is given")`, and the base of errors in one sentence."""

from functools import cached_property, wraps


class Refused(ValueError):
    """What was given is refused: base of the errors whose message is a whole sentence for whoever gave it."""


class Nothing:
    """What does not apply or cannot be computed. reason: why, as the end of a sentence.

    It stands where a table, an array or a number would: what is asked of it, an attribute, an item, a call or
    arithmetic, gives it back, and it holds no items. A report shows the reason where it would have shown the value, and
    leaves a claim about it undecided.
    """

    __array_ufunc__ = None  # NumPy leaves arithmetic to the methods below

    def __init__(self, reason):
        self.reason = reason

    def __repr__(self):
        return f"Nothing({self.reason!r})"

    def __getattr__(self, name):
        if name.startswith("_"):  # protocols that it does not have, such as _repr_html_
            raise AttributeError(name)
        return self

    def __iter__(self):
        return iter(())

    def __len__(self):
        return 0

    def _itself(self, *_, **__):
        return self

    __call__ = __getitem__ = __neg__ = __abs__ = _itself
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = _itself
    __matmul__ = __rmatmul__ = _itself
    __lt__ = __le__ = __gt__ = __ge__ = __and__ = __rand__ = __or__ = __ror__ = _itself


def passing(function):
    """Make a function give back the first Nothing among its arguments, or in a list or dict among them."""

    @wraps(function)
    def passed(*given, **named):
        for value in (*given, *named.values()):
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            for each in (value, *inner):
                if isinstance(each, Nothing):
                    return each
        return function(*given, **named)

    return passed


def computed(*needs):
    """A property that is computed when it is first asked for; where one of those it needs is Nothing, that Nothing."""

    def decorate(method):
        @wraps(method)
        def found(self):
            missing = [value for name in needs if isinstance(value := getattr(self, name), Nothing)]
            return missing[0] if missing else method(self)

        return cached_property(found)

    return decorate
