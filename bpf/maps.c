// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Every map once. "Full": what a program does when it cannot insert. The loader gives PIN_MAPS (a folder of
 * bpffs: an existing pin is used as it is) and the *_ENTRIES; agent/abi/structs.py names the same maps.
 *
 * What the agent rewrites while programs read it is an array of words or an lpm_trie, never a hash: a hash hands a
 * replaced or deleted element to the next update at once (kernel: kernel/bpf/hashtab.c, from 6.1 on without
 * preallocation too), so that a program which still reads it would read another key's value. A trie makes a new node
 * and frees the old one after a grace period of RCU (kernel/bpf/lpm_trie.c), which the running program holds up.
 */
#define SHARED(type, key, value, name, entries, flags)                                                                 \
	BPF_TABLE_PINNED7(type, key, value, name, entries, PIN_MAPS "/" #name, flags)

SHARED("array", int, struct config, config, 1, 0);             /* agent -> kernel */
SHARED("lpm_trie", struct folder, struct endpoint, endpoints, ENDPOINTS_ENTRIES, BPF_F_NO_PREALLOC); /* agent -> kernel; full: pending */
SHARED("array", int, struct nearby, nearby, NEARBY_SLOTS, 0);  /* agent -> kernel */
SHARED("hash", __u64, __u64, pending, PENDING_ENTRIES, 0);     /* kernel; agent deletes; full: asks again each time */
SHARED("array", int, struct epoch, epochs, ENDPOINT_SLOTS, 0); /* agent -> kernel */
SHARED("array", int, struct slot, slots, ENDPOINT_SLOTS, 0);   /* kernel -> agent */
SHARED("array", int, struct bucket, dns_rates, ENDPOINT_SLOTS, 0); /* kernel only */
SHARED("array", int, struct bucket, outcome_rates, ENDPOINT_SLOTS * 2, 0); /* kernel only: failures of an endpoint, others */
SHARED("hash", struct flow_key, struct flow, flows, FLOWS_ENTRIES, 0); /* kernel; agent drains, evicts; full: slow path */
SHARED("array", int, struct answer, answers, ENDPOINT_SLOTS * 2 * ANSWER_SLOTS, 0); /* kernel only; overwritten, a peer's own first */
SHARED("lpm_trie", struct prefix, struct classes, peers, PEERS_ENTRIES, BPF_F_NO_PREALLOC); /* agent -> kernel */
SHARED("lpm_trie", struct prefix, struct classes, hosts, HOSTS_ENTRIES, BPF_F_NO_PREALLOC); /* agent -> kernel */
SHARED("lpm_trie", struct dns_name, struct classes, names, NAMES_ENTRIES, BPF_F_NO_PREALLOC); /* agent -> kernel */
SHARED("lpm_trie", struct server_key, struct servers, servers, SERVERS_ENTRIES, BPF_F_NO_PREALLOC); /* agent -> kernel */
SHARED("lpm_trie", struct server_key, struct parts, parts, PARTS_ENTRIES, BPF_F_NO_PREALLOC); /* agent -> kernel */
SHARED("array", int, struct grammar, grammar, 1, 0); /* agent -> kernel, at its start */
SHARED("hash", struct learned_key, struct learned, learned, LEARNED_ENTRIES, BPF_F_NO_PREALLOC); /* kernel; agent deletes; full: counted */
SHARED("lpm_trie", struct rule_key, struct rule, rules, RULES_ENTRIES, BPF_F_NO_PREALLOC); /* agent -> kernel */
SHARED("percpu_array", int, struct identity_totals, identities, IDENTITY_SLOTS, 0);    /* kernel -> agent */
SHARED("hash", struct denial_key, struct denial, denials, DENIALS_ENTRIES, 0); /* kernel; agent drains; full: counted */
SHARED("percpu_array", int, __u64, losses, LOSS_MAX, 0);       /* kernel -> agent */
SHARED("array", int, struct creator, creators, CREATOR_SLOTS, 0); /* kernel only; overwritten: the caller is judged, and the socket answers only what it was asked itself */

struct events_table_t { /* kernel -> agent; full: counted in `losses`, the verdict stands */
	int key;
	__u32 leaf;
	int (*ringbuf_output)(void *, u64, u64);
	void *(*ringbuf_reserve)(u64);
	void (*ringbuf_discard)(void *, u64);
	void (*ringbuf_submit)(void *, u64);
	__u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PIN_MAPS "/events")))
struct events_table_t events = { .max_entries = EVENTS_BYTES };

struct sockets_table_t { /* kernel -> agent (sock_diag): promoted flows, who opened; a listener's mark is inherited (BPF_F_CLONE) */
	int key;
	struct promoted leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	__u32 flags;
};
__attribute__((section("maps/sk_storage:" PIN_MAPS "/sockets")))
struct sockets_table_t sockets = { .flags = BPF_F_NO_PREALLOC | BPF_F_CLONE };
BPF_ANNOTATE_KV_PAIR(sockets, int, struct promoted);

struct questions_table_t { /* kernel only */
	int key;
	struct questions leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	__u32 flags;
};
__attribute__((section("maps/sk_storage:" PIN_MAPS "/questions")))
struct questions_table_t questions = { .flags = BPF_F_NO_PREALLOC };
BPF_ANNOTATE_KV_PAIR(questions, int, struct questions);

struct attempts_table_t { /* kernel only */
	int key;
	struct attempt leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	__u32 flags;
};
__attribute__((section("maps/sk_storage:" PIN_MAPS "/attempts")))
struct attempts_table_t attempts = { .flags = BPF_F_NO_PREALLOC };
BPF_ANNOTATE_KV_PAIR(attempts, int, struct attempt);

struct greetings_table_t { /* kernel -> agent (sock_diag) */
	int key;
	struct greeting leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	__u32 flags;
};
__attribute__((section("maps/sk_storage:" PIN_MAPS "/greetings")))
struct greetings_table_t greetings = { .flags = BPF_F_NO_PREALLOC };
BPF_ANNOTATE_KV_PAIR(greetings, int, struct greeting);

struct requests_table_t { /* kernel -> agent (sock_diag) */
	int key;
	struct request leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	__u32 flags;
};
__attribute__((section("maps/sk_storage:" PIN_MAPS "/requests")))
struct requests_table_t requests = { .flags = BPF_F_NO_PREALLOC };
BPF_ANNOTATE_KV_PAIR(requests, int, struct request);

/* Of this generation of programs; the loader fills and pins them. */
BPF_PROG_ARRAY(tail_egress, 16);
BPF_PROG_ARRAY(tail_ingress, 16);
