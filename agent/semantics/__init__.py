"""What the rules of policies mean, where the compiler and the reference judge must not differ by a second spelling.

Only what both read word for word stands here; what each decides by itself, and they are compared in, does not.
"""
