"""The threads of one node, and what each of them owns.

Reading order:

    source_thread    follows the source and this host's addresses; posts updates
    node             the writing thread: updates, cgroup folders and questions of the kernel in, maps out
      folders        cgroup folders that are there
      classifier     pods that no snapshot explains (L2)
      health         is what should be enforced enforced?
      directory      endpoints by slot, by folder and by pod, as values for the other threads
      config_map     settings of the programs
      state, state_db    what outlives the agent
      news           what of it is logged
    flow_drain       the draining thread: flows and events with names, to the outputs
      folding        counts of denials of pods that have gone
    socket_closer    the closing thread: open connections that are denied end
      connections    the sockets of the pods' network namespaces

Nothing here imports an output.
"""
