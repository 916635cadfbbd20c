"""Shape annotations such as `Float[Array, "B T N D"]`, checked in the tests and without cost for users.

jaxtyping is a development dependency. Without it, every annotation is `Any`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped, UInt8
    from numpy import ndarray
else:
    from jax import Array
    from numpy import ndarray

    try:
        from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped, UInt8
    except ImportError:

        class _Anything:
            def __class_getitem__(cls, item):
                return Any

        Bool = Float = Int = Shaped = UInt8 = _Anything
        PRNGKeyArray = Any

__all__ = ["Array", "Bool", "Float", "Int", "PRNGKeyArray", "Shaped", "UInt8", "ndarray"]
