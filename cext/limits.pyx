"""Every bound of the native modules, as Python integers: bounds.h says why each is what it is.

It holds numbers and nothing else; no other place in Python may repeat one of them.

- The unit stands in the name; `_MAX` is the largest value allowed, `_MIN` the smallest that counts.
"""
