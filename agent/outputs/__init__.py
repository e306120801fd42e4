"""What the agent shows, and to whom. An output takes reports, flows and denials (output.py); app/serve makes all.

    latest       the newest report with totals: what the next three answer from
    metrics      Prometheus; series: its task series
    http         /metrics, /livez, /readyz; bounded: so many clients, and no more
    api          the local API: a socket; questions: its requests; client: the other end
    recent       the last flows and denials, for the local API
    flowlog      a file of flows and denials; hubble, hubble_ends: its format
    kube         what is written to the API server

Words and rows for them, pure:

    words, notices      English: reasons, rules, states, what people should know
    plain               values as JSON can hold them
    records             flows and denials as flat rows; rows: status, endpoints and totals
    outcomes            words for what became of connections; outcome_series: their metrics
    explained           failures joined with the snapshot, as values; why, advice: as rows and sentences
    explain, reasons    what the policies decide about one connection; what authors of deny rules wrote
    filtering           filters as names with values: Hubble's (observer/filters) and those by either end (ends)
    known, other_end    names that questions may ask for; the pod at the other end
"""
