"""The threads of one node, and what each of them owns.

Reading order:

    source_thread    follows the source and this host's addresses; posts updates
    node             the writing thread: updates, cgroup folders and questions of the kernel in, maps out
      parts            what it owns
      inbox            what other threads post to it
      folders          cgroup folders that are there
      unknown          cgroups that the kernel asks about
      classifier       pods that no snapshot has (L2)
      health           is what should be enforced enforced?
      config_map       settings of the programs
      publisher        what follows from a turn
      directory        endpoints by slot, by folder and by pod, as values for the other threads
      reporter         the report of the node
      news             what of it is logged
      keeper           what of it outlives the agent; state, state_db: where
    flow_drain       the draining thread: flows and events with names, to the outputs
      folding          counts of denials of pods that have gone
    totals           what the kernel counts, read when somebody asks
    socket_closer    the closing thread: open connections that are denied end
      connections      the sockets of the pods' network namespaces

kernel, process: what all of this needs of the kernel, and this process. Nothing here imports an output.
"""
