"""The reference judge: the semantics word for word and slowly, straight from a snapshot.

The compiler's tests hold every verdict of the kernel's maps against it; `policy explain` and `why` show its answers.
It imports no module of the compiler, and the compiler none of it (an import contract): a mistake in one is not one in
the other. Read judge.py first, then packet.py (what a rule means), demands.py (`tls`, `http`), address.py (what an
address is), native.py (NetworkPolicy), claims.py (bindings).
"""
