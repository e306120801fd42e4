"""From a snapshot to the contents of the kernel maps, whole or by what changed. Pure.

The pipeline, with the modules in the order in which to read them:

    policy                  one object of any kind (agent/model)
      -> terms              terms.py     a rule as "an address that ... at these ports"
      -> layers             layers.py    all policies of one kind that select a pod: deny, allow, isolation
                            own.py, native.py are the kinds, policy_layer.py is what a kind answers
      -> content            rulesets.py  the layers of a pod, indexed by what they ask of an address
                            subjects.py  which pod gets which content
    address                 of a pod, service, node or CIDR
      -> atoms              atoms.py     everything that any term asks about and that holds for the address
                            addresses.py, peerpods.py, services.py, prefixes.py find them
    DNS name                names.py     the patterns that match it are its atoms; its longest suffix finds it
      -> class              registry.py  addresses with equal atoms
    content x class         rows.py      the rows of map `rules`, where the defaults do not decide
    ports                   ports.py     ports that no term tells apart are one class
    Want                    compiler.py  all of it, kept in step with snapshots; lookup.py reads it as the kernel does

What may be too much is counted before it is done: needs.py, shares.py, admission.py, capacity.py. What a change takes
away from open connections: revoking.py.

Glossary:
    atom        something that a rule can ask of an address: "is in this CIDR", "is a pod with these labels"
    members     the atoms of one address; a class is a set of addresses with equal members
    base        atoms of every cluster (entities, wide CIDRs); an address has its own class, and one of these alone
    term        an atom, and ports
    content     the rules of a ruleset: equal contents are one ruleset, whoever has them
    view        a content's verdicts on one class in one direction, at every port
    transition  what an address was and what it is, as members
    group       the rows of one ruleset for one class
    step, part  the writes of a snapshot come in parts, because the kernel answers in between (see Compiler.steps)
    commit      forget what was before, once a step is done (Interner, ChangeLog, rows, registry)
"""
