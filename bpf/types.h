/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Wire contract: every struct and enum that crosses the boundary between the kernel and the agent.
 *
 * agent/abi mirrors it as tables and a C compiler compares the two (tests/layout). Host byte order, except __be16;
 * padding is explicit and zero. Enums are append-only: logs, metrics and pinned maps keep these numbers.
 */
#ifndef DAGWALL_TYPES_H
#define DAGWALL_TYPES_H

#include <linux/types.h>

#define ABI_VERSION 6

/* Of a packet ("way") and of a flow, a connection or a rule ("direction": who opened). */
enum direction { DIRECTION_EGRESS = 0, DIRECTION_INGRESS = 1 };

enum verdict { VERDICT_DENY = 0, VERDICT_ALLOW = 1, VERDICT_AUDIT = 2 };

enum drop_reason {
	DROP_NONE = 0,
	DROP_NO_RULE = 1,
	DROP_DENY_RULE = 2,
	DROP_UNKNOWN_PEER = 3,
	DROP_PENDING = 4,
	DROP_QUARANTINED = 5,
	DROP_FRAGMENT = 6,
	DROP_SOURCE_ROUTE = 7,
	DROP_INVALID_PACKET = 8,
	DROP_RAW_SOCKET = 9,
	DROP_NOT_A_REPLY = 10,
	DROP_AGENT_GONE = 11,
	DROP_NOT_READY = 12,
	DROP_SOCKET_FAMILY = 13,
	DROP_LOOPBACK = 14,       /* 127.0.0.0/8 or ::1 on its way out by another device than lo (P7) */
	DROP_FOREIGN_SOURCE = 15, /* an IPv6 source address that is not the pod's */
	DROP_NO_TLS = 16,         /* what a flow sent first is no ClientHello, which its rule asks for */
	DROP_NO_SERVER_NAME = 17,
	DROP_SERVER_NAME = 18,    /* of the hello: no rule names it */
	DROP_ENCRYPTED_HELLO = 19,
	DROP_HELLO_TOO_LONG = 20, /* for what TCP sends at once */
	DROP_BROKEN_HELLO = 21,   /* two readers may understand it differently */
	DROP_HELLO_UNSEEN = 22,   /* the connection is older than the rule */
	DROP_NO_HTTP = 23,        /* what a flow sent is no request line, which its rule asks for */
	DROP_REQUEST = 24,        /* no rule allows its method, host and path */
	DROP_REQUEST_TOO_LONG = 25,
	DROP_BARE_LINE_END = 26,
	DROP_FOLDED_HEADER = 27,
	DROP_SPACE_IN_HEADER = 28,
	DROP_BAD_HEADER = 29,
	DROP_REQUEST_LENGTH = 30, /* of a body: two readers may see its end at different places */
	DROP_BAD_HOST = 31,
	DROP_HOST_DISAGREES = 32, /* with the request's target */
	DROP_UPGRADE = 33,
	DROP_DOT_SEGMENT = 34,
	DROP_BAD_ESCAPE = 35,
	DROP_HTTP2 = 36,
	DROP_BAD_CHUNK = 37,
	DROP_REQUEST_UNSEEN = 38, /* the connection is older than the rule */
	DROP_SHARED_PAGES = 39,   /* a head that the task may change after it was judged */
	DROP_TUNNEL_EARLY = 40,   /* the proxy has not opened it (yet) */
	DROP_BROKEN_REQUEST = 41, /* two readers may understand it differently */
	DROP_START_TLS = 42,      /* a hello with StartTLS before it whose rule asks for none, or without */
	DROP_UNKNOWN = 255, /* never written: how an agent reads a newer release's number */
};

enum endpoint_state { STATE_PENDING = 0, STATE_MANAGED = 1, STATE_UNMANAGED = 2, STATE_QUARANTINED = 3 };

enum address_flag { ADDRESS_OF_HOST = 1, ADDRESS_OF_DNS = 2 }; /* this host itself; a DNS server of entity dns */

enum endpoint_flag {
	ENDPOINT_HOST_NETWORK = 1,
	ENDPOINT_RAW_SOCKETS = 2,
	ENDPOINT_AUDIT_SOCKETS = 4,
	ENDPOINT_NAMES = 8,   /* it has rules on DNS names, so what DNS servers answer it is learned */
	ENDPOINT_HELLOS = 16, /* it has rules with `tls` or `http` that are enforced: no MPTCP sockets */
};

enum rule_flag { RULE_AUDITS_HELLO = 1 }; /* what carries something else is reported only (P3) */

enum inspect { INSPECT_HELLO = 1, INSPECT_REQUESTS = 2 }; /* TLS (hello.c), HTTP/1 or either (request.c) */

/* What a verdict on an address becomes where a name allows (agent/model/want.py). */
enum lift {
	LIFT_NONE = 0,
	LIFT_BY_NAME = 1,  /* the name's verdict */
	LIFT_TO_AUDIT = 2, /* VERDICT_AUDIT by the row's rule, a deny rule of a policy in audit; not lifted it has no rule */
	LIFT_TO_ALLOW = 3, /* of VERDICT_AUDIT: VERDICT_ALLOW by the row's rule; not lifted it has no rule */
};

enum hook { HOOK_EGRESS = 0, HOOK_INGRESS = 1, HOOK_CONNECT = 2, HOOK_SOCK_CREATE = 3, HOOK_SOCKET_CREATE = 4, HOOK_SENDMSG = 5, HOOK_SOCKOPS = 6, HOOK_UNKNOWN = 255 };

enum event_kind { EVENT_DENIED = 1, EVENT_AUDITED = 2, EVENT_PENDING = 3, EVENT_FOREIGN_SOCKET = 4, EVENT_DNS_ANSWER = 5, EVENT_HELLO = 6, EVENT_OUTCOME = 7 };

/* What became of a connection that a pod opened, and that dagwall let pass. */
enum cause {
	CAUSE_NONE = 0,         /* it ended as connections do */
	CAUSE_REFUSED = 1,      /* RST in answer to our SYN */
	CAUSE_UNREACHABLE = 2,  /* an ICMP error in answer to our SYN, or no neighbour; detail: errno */
	CAUSE_SYN_TIMEOUT = 3,  /* no answer to any SYN; detail: errno, 0 where the task gave up */
	CAUSE_RESET = 4,        /* RST later */
	CAUSE_CLOSED_EARLY = 5, /* the peer closed it and had not sent a byte */
	CAUSE_STALLED = 6,      /* no answer any more, or not reachable any more; detail: errno */
	CAUSE_TLS_ALERT = 7,    /* the answer began with an alert; detail: its number (RFC 8446 section 6) */
	CAUSE_HTTP_STATUS = 8,  /* the answer began with 401, 403, 407, 429 or 5xx; detail: the status */
	CAUSE_UNKNOWN = 255,    /* never written: how an agent reads a newer release's number */
};

enum loss {
	LOSS_RING_FULL = 0,     /* an event found the ring buffer full */
	LOSS_EVENT_RATE = 1,    /* an event was suppressed by the endpoint's token bucket */
	LOSS_FLOWS_FULL = 2,    /* a packet judged without an entry in `flows`: the map is full */
	LOSS_FLOWS_QUOTA = 3,   /* the same: the endpoint's share is used up */
	LOSS_FLUSH_MISS = 4,    /* packets counted in a promoted socket whose flow was evicted */
	LOSS_DENIALS_FULL = 5,  /* a denial without an entry in `denials` */
	LOSS_PENDING_FULL = 6,  /* a pending cgroup without an entry in `pending` */
	LOSS_TAIL_MISSING = 7,  /* a tail call found no program */
	LOSS_AGENT_GONE = 8,    /* a packet of an unknown pod that passed because the agent is gone (L6) */
	LOSS_IMPOSSIBLE = 9,    /* a lookup failed that cannot fail: of an entry that each such array has */
	LOSS_ANSWER_RATE = 10,  /* a DNS answer was not reported: the endpoint's share of reports is used up */
	LOSS_LEARNED_FULL = 11, /* an address was not learned for a name: the map is full */
	LOSS_LEARNED_SHARE = 12, /* a learned address gave way to a newer one of the same identity before its time */
	LOSS_UNASKED_ANSWER = 13, /* a DNS answer was not learned: this socket has not asked for it */
	LOSS_OUTCOME_RATE = 14, /* that a connection failed was not reported: the endpoint's share is used up */
	LOSS_MAX = 15,
};

enum limit {
	IDENTITY_SLOTS = 4096,    /* identity numbers are FIRST_IDENTITY + 1 .. FIRST_IDENTITY + 4095; slot 0: overflow */
	FIRST_IDENTITY = 1 << 24, /* a multiple of IDENTITY_SLOTS, so that a mask gives the slot */
	ENDPOINT_SLOTS = 4096,    /* slot 0 is never an endpoint's */
	NEARBY_SLOTS = 65536,
	CREATOR_SLOTS = 65536,
	POD_LEVELS = 2,
	ANSWER_SLOTS = 32, /* entries of `answers` for an endpoint and a direction; a power of two */
	ANSWER_WAYS = 8,   /* of these, where the questions of a peer may be; a power of two */
	ANSWERS_A_PEER = 2, /* of these, what a peer has where others need the rest */
	DNS_BYTES = 1024,  /* of a DNS message that is reported; a power of two */
	DNS_RATE = 50,     /* messages a second and endpoint */
	DNS_BURST = 200,
	NAME_BYTES = 256,  /* of a DNS name, whose text is at most 254 bytes with a length in front of each label */
	LEARNED_SETS = 64, /* of an identity's entries of `learned`, by address; a power of two */
	LEARNED_WAYS = 8,  /* entries of each */
	SERVER_BYTES = 252, /* of a TLS server name, as of a DNS name; a trie's key has 256 bytes at most */
	QUESTIONS = 64,    /* of a socket, which are remembered until they are answered; a power of two */
	OUTCOME_RATE = 10, /* reports of connections, a second and endpoint: of those that failed, and as many of others */
	OUTCOME_BURST = 40,
	TEXT_BYTES = 2048, /* of the texts of a request; a power of two */
	GRAMMAR_STATES = 208,
	BLOCK_BYTES = 128, /* of a packet, that are read at once; a power of two */
	COMM_BYTES = 16,   /* of a process's name (kernel: TASK_COMM_LEN) */
	LOOPBACK_DEVICE = 1, /* index of lo in every network namespace (kernel: LOOPBACK_IFINDEX) */
};

struct address { /* IPv4 is mapped: ::ffff:a.b.c.d */
	__u32 word[4]; /* network byte order */
};
_Static_assert(sizeof(struct address) == 16, "ABI: agent/abi/layout.py");

struct traffic { /* what went one way */
	__u64 packets;
	__u64 bytes;
};

/* Traffic by its way. The agent, and releases that read these maps after it, know the four counters by their names. */
#define BOTH_WAYS                                                                                                      \
	union {                                                                                                        \
		struct traffic traffic[2];                                                                             \
		struct {                                                                                               \
			__u64 sent_packets, sent_bytes, received_packets, received_bytes;                              \
		};                                                                                                     \
	}

struct config { /* the only value of `config` */
	__u64 heartbeat_ns;   /* CLOCK_MONOTONIC of the agent's last sign of life */
	__u64 loss_grace_ns;  /* silence after which the agent counts as gone */
	__u32 loss_denies;    /* 1: unknown pods are denied while the agent is gone (--on-agent-loss) */
	__u32 pod_level[POD_LEVELS]; /* cgroup levels at which pods' folders live, from the kernel's root */
	__u32 reply_ticks;    /* jiffies for which a datagram's flow stays live (P9) */
	__u32 flush_ticks;    /* jiffies between flushes of a promoted socket's counters */
	__u32 syn_ticks;      /* jiffies before a pending SYN is sent again */
	__u32 syn_tries;      /* how often */
	__u32 event_rate;     /* denial events a second and endpoint */
	__u32 event_burst;
	__u32 flow_quota;     /* entries in `flows` of an endpoint: what it opened, and as many that others opened to it */
	__u32 hz;             /* jiffies a second */
	__u32 name_least_s;   /* seconds for which an address is known by a name, whatever the answer's TTL is: at least */
	__u32 name_most_s;    /* and at most */
	__u32 pad;
};
_Static_assert(sizeof(struct config) == 72, "ABI: agent/abi/layout.py");

struct rule { /* value of `rules`; with VERDICT_AUDIT, reason and rule are the denial's */
	__u32 rule; /* rule reference, 0: none */
	__u8 verdict;
	__u8 reason;
	__u8 lift;  /* enum lift */
	__u8 flags; /* enum rule_flag */
	__u32 hellos; /* bits of `servers`: a connection begins with a TLS ClientHello that has one */
	__u32 requests; /* bits of `parts`: or it carries requests of HTTP/1 that have one each; neither: anything */
};
_Static_assert(sizeof(struct rule) == 16, "ABI: agent/abi/layout.py");

struct folder { /* key of `endpoints`: a pod's or a container's folder */
	__u32 length;       /* bits: always 64 */
	__u32 cgroup_id[2]; /* in memory order */
};
_Static_assert(sizeof(struct folder) == 12, "ABI: agent/abi/layout.py");

struct endpoint { /* value of `endpoints` */
	__u32 identity;
	__u32 ruleset;
	__u32 slot; /* in epochs, slots, denials */
	__u8 state;
	__u8 flags;
	__u8 pad[2];
	struct rule defaults[2]; /* by direction: where no rule speaks */
	struct address own[2];   /* the pod's IPv4 and IPv6 address; zero: it has none, or nobody knows it yet */
};
_Static_assert(sizeof(struct endpoint) == 80, "ABI: agent/abi/layout.py");

struct epoch { /* value of `epochs`, by endpoint slot; the agent writes it */
	__u32 epoch;      /* flows that carry another one are judged again; no two slots ever have the same */
	__u32 evicted[2]; /* entries of this slot that the agent has taken out of `flows`, by direction */
	__u32 pad;
};
_Static_assert(sizeof(struct epoch) == 16, "ABI: agent/abi/layout.py");

struct nearby { /* value of `nearby`, by the low bits of a cgroup id: most packets need no other lookup to be placed */
	__u64 cgroup_id; /* another one: look in `endpoints` */
	__u32 epoch;     /* of the endpoint's slot, as in `epochs` */
	__u8 state;      /* enum endpoint_state */
	__u8 flags;      /* enum endpoint_flag */
	__u8 pad[2];
};
_Static_assert(sizeof(struct nearby) == 16, "ABI: agent/abi/layout.py");

struct bucket { /* a token bucket; value of `dns_rates`, by endpoint slot */
	__u32 tokens;
	__u32 refilled; /* jiffies of its last refill */
};
_Static_assert(sizeof(struct bucket) == 8, "ABI: agent/abi/layout.py");

struct slot { /* value of `slots`, by endpoint slot; the kernel writes it */
	__u32 inserted[2]; /* entries of this slot ever put into `flows`, by direction */
	__u32 tokens;      /* of the event bucket */
	__u32 refilled;    /* jiffies of its last refill */
};
_Static_assert(sizeof(struct slot) == 16, "ABI: agent/abi/layout.py");

struct flow_key { /* key of `flows` */
	__u64 cgroup_id;     /* of the socket's cgroup */
	struct address peer;
	__be16 service_port; /* the peer's for egress, ours for ingress; 0 without ports */
	__u8 protocol;       /* IPPROTO_* */
	__u8 direction;      /* enum direction: who opened */
	__be16 client_port;  /* datagrams: the asking side's port, or 0 where a connected socket proves it; ICMP: echo id */
	__u8 pad[2];
};
_Static_assert(sizeof(struct flow_key) == 32, "ABI: agent/abi/layout.py");

struct flow { /* value of `flows`: verdict cache, connection table and accounting at once */
	__u64 stamp; /* epoch, and in the upper half a tag of the key: one load shows whose verdict this is, and how old */
	__u32 slot;
	__u32 identity;
	__u32 rule;
	__u32 last;  /* jiffies, low half, of the last packet counted here */
	__u32 first; /* jiffies, low half */
	__u32 local; /* tag of our address: a packet from another one is judged; 0 for IPv4 */
	__u8 verdict;
	__u8 reason;
	__u8 inspect; /* enum inspect: a connection is judged by what it carries, too */
	__u8 pad[5];
	BOTH_WAYS;
	__u64 connections;
	__u64 network; /* datagrams that others opened: network namespace of the socket that was asked; 0: nobody answers */
};
_Static_assert(sizeof(struct flow) == 88, "ABI: agent/abi/layout.py");
_Static_assert(__builtin_offsetof(struct flow, traffic[DIRECTION_INGRESS].bytes) ==
		       __builtin_offsetof(struct flow, received_bytes), "the two names of a counter");

struct answer { /* value of `answers`: a datagram's flow for which `flows` has no room, until the next one takes its place */
	struct flow_key key;
	__u64 stamp; /* as in struct flow; written last */
	__u64 network; /* as in struct flow */
	__u32 last;
	__u32 pad;
};
_Static_assert(sizeof(struct answer) == 56, "ABI: agent/abi/layout.py");

enum opened { OPENED_UNKNOWN = 0, OPENED_BY_US = 1, OPENED_BY_PEER = 2 }; /* 1 + enum direction */

/* What a socket waits for, where it opened a connection. */
enum waits {
	WAITS_FOR_NOTHING = 0,
	WAITS_FOR_AGENT = 1, /* connect() met a pending endpoint */
	WAITS_FOR_RETRY = 2, /* the same, and its first retry is set */
	WAITS_FOR_ANSWER = 3, /* for the first byte that the peer sends */
};

struct promoted { /* socket storage of a long flow, and the marks of a socket */
	__u32 slot;
	__u32 epoch;
	__u32 identity;
	__u32 last;    /* jiffies of the last packet */
	__u32 flush_at; /* jiffies at which the counters are due in `flows` */
	__u8 waits;    /* enum waits */
	__u8 opened;   /* enum opened: of TCP; sockets inherit it from their listener */
	__be16 remote_port;
	__u32 local;   /* tag of our address: a packet from another one is judged */
	__u32 owner;   /* low half of the cookie of the socket that counts here; a child has inherited another's */
	struct flow_key key;
	BOTH_WAYS;
	__u64 network; /* network namespace of the socket, from the first question to it on; 0: not asked yet */
	__u32 greeted; /* the epoch in which its hello was judged last, and passed; 0: none was */
	__u32 pad;
};
_Static_assert(sizeof(struct promoted) == 112, "ABI: agent/abi/layout.py");

struct prefix { /* key of `peers` and `hosts` */
	__u32 length; /* bits, 0..128 */
	struct address address;
};
_Static_assert(sizeof(struct prefix) == 20, "ABI: agent/abi/layout.py");

struct classes { /* value of `peers` and of `hosts`, whose prefixes are whole addresses */
	__u32 peer; /* peer class */
	__u32 base; /* class of the entities alone */
	__u32 flags; /* enum address_flag */
};
_Static_assert(sizeof(struct classes) == 12, "ABI: agent/abi/layout.py");

struct dns_name { /* key of `names`; of a wildcard without the 0 at the end, so that it is a prefix of longer names */
	__u32 length; /* bits */
	__u8 bytes[NAME_BYTES]; /* in lower case, each label with a 0 in front, all of it reversed, and a 0 */
};
_Static_assert(sizeof(struct dns_name) == 260, "ABI: agent/abi/layout.py");

struct server_key { /* key of `servers` */
	__u32 length; /* bits */
	__u32 ruleset;
	__u8 bytes[SERVER_BYTES]; /* as of struct dns_name; none: a hello without a server name */
};
_Static_assert(sizeof(struct server_key) == 260, "ABI: agent/abi/layout.py");

struct servers { /* value of `servers`: which `hellos` of the ruleset's rows a hello is */
	__u32 named;     /* with this server name */
	__u32 nameless;  /* without any */
	__u32 encrypted; /* also one with encrypted_client_hello */
	__u32 hosts;     /* which `requests` one for a host of this name may be */
	__u32 start_tls; /* those that ask for an SSLRequest before it */
	__u32 tunnel_any; /* `requests` whose tunnels may begin with anything */
	__u32 tunnel_named; /* or with a hello for this name */
	__u32 tunnel_nameless; /* or with one without a name */
	__u32 tunnel_encrypted; /* also one with encrypted_client_hello */
};
_Static_assert(sizeof(struct servers) == 36, "ABI: agent/abi/layout.py");

struct parts { /* value of `parts`, whose keys are struct server_key with a part of a request (agent/compiler/parts.py) */
	__u32 bits;        /* which `requests` one with this part may be */
	__u32 from_behind; /* of all: those whose path is looked at from its end, too */
};
_Static_assert(sizeof(struct parts) == 8, "ABI: agent/abi/layout.py");

struct greeting { /* value of `greetings`, a storage of sockets: what a connection began with */
	struct server_key key;
	__u8 seen;      /* 1: the rest is of this connection */
	__u8 fault;     /* enum drop_reason: why it is no hello that can be judged; DROP_NONE: it is one */
	__u8 encrypted; /* 1: with encrypted_client_hello */
	__u8 start_tls; /* 1: an SSLRequest came first */
};
_Static_assert(sizeof(struct greeting) == 264, "ABI: agent/abi/layout.py");

/* A step of reading requests, by the state and the byte that comes (agent/kernel/grammar.py). State numbers are ABI: a
 * connection keeps its state over an upgrade.
 */
struct step {
	__u8 state; /* the next one */
	__u8 act;   /* enum act */
	__u8 value; /* a byte, a digit, or an enum drop_reason */
	__u8 pad;
};
_Static_assert(sizeof(struct step) == 4, "ABI: agent/abi/layout.py");

enum act {
	ACT_NONE = 0,
	ACT_PUT = 1, /* and the next three: a byte more of enum text */
	ACT_DIGIT = 5, /* and the next three: of enum number, decimal but for ACT_DIGIT_OF_CHUNK */
	ACT_DIGIT_OF_CHUNK = 6,
	ACT_COUNT = 9, /* and the next five: one more of enum counted */
	ACT_HEAD_ENDS = 15,
	ACT_CHUNK = 16, /* a chunk's data come, or a request comes */
	ACT_FAIL = 17,
};

enum text { TEXT_METHOD = 0, TEXT_AUTHORITY = 1, TEXT_HOST = 2, TEXT_PATH = 3, TEXTS = 4 };
enum text_limit {
	TEXT_ROOM = 256, /* of the first three; what is left is the path's */
	METHOD_BYTES = 16,
	HOST_BYTES = 248,
	PATH_BYTES = 1024,
};
enum number { NUMBER_LENGTH = 0, NUMBER_CHUNK = 1, NUMBER_AUTHORITY_PORT = 2, NUMBER_HOST_PORT = 3, NUMBERS = 4 };
enum counted {
	COUNTED_HOST = 0,
	COUNTED_LENGTH = 1,
	COUNTED_CODING = 2,
	COUNTED_OLD = 3,      /* HTTP/1.0 */
	COUNTED_ABSOLUTE = 4, /* the target names a host */
	COUNTED_TUNNEL = 5,   /* CONNECT */
	COUNTEDS = 6,
};

struct grammar { /* the only value of `grammar` */
	__u32 steps[GRAMMAR_STATES * 256]; /* struct step; clang takes 14 s for an array of so many structs */
};
_Static_assert(sizeof(struct grammar) == GRAMMAR_STATES * 1024, "ABI: agent/abi/layout.py");

enum carries {
	CARRIES_NOTHING = 0, /* no data yet */
	CARRIES_REQUESTS = 1,
	CARRIES_CONNECT = 2, /* the proxy's answer is awaited */
	CARRIES_TUNNEL = 3,  /* whatever the proxy passes on */
	CARRIES_TLS = 4,     /* for hello.c */
};

/* What a connection began with, for the rows that ask for a hello; or a request that it carries, for those that ask for
 * some.
 */
struct hello {
	__u32 bits; /* of `servers`, by its name; none of what is no hello */
	__u32 fits; /* of these, what its encryption leaves */
	__u32 requests; /* of `parts`; none of what is no request */
	__u32 asked; /* hellos, by any row */
	__u32 rule;  /* of the first row that it has failed */
	__u8 failed; /* bit VERDICT_*: what rows that it has failed have become; ASKED_REQUESTS: some row asks for requests */
	__u8 pad[3];
};

struct request { /* value of `requests`, a storage of sockets: how far what a connection sends was read, and its last request */
	__u64 left;            /* bytes of a body that may still pass */
	__u64 number[NUMBERS];
	__u64 next;            /* place in the stream of the byte that is read next; the SYN is the first */
	__u64 start;           /* of the head that is read */
	__u32 epoch;           /* in which the last request was judged, and passed */
	__u32 made;            /* heads that were whole, and passed */
	__u32 bits;            /* of `parts`: which requests the last one that passed is */
	__u32 tried;           /* and the one that is judged just now */
	__u32 common;          /* and each that has passed by the ruleset of `key` */
	__u32 used[TEXTS];     /* bytes of each text */
	__u32 count[COUNTEDS];
	__u8 carries;          /* enum carries */
	__u8 fault;            /* enum drop_reason: why nothing passes any more */
	__u8 state;            /* of `grammar` */
	__u8 in_head;          /* 1: the texts are of a head that is not whole yet */
	__u8 cleared;          /* 1: what has come of it may pass */
	__u8 act;              /* enum act of the byte that was read last */
	__u8 whole;            /* 1: the head is, and is to be judged */
	__u8 pad;
	__u32 taken;           /* bytes of the block that was read last */
	__u16 room[TEXTS];     /* for each text */
	__u32 bytes;           /* in the block */
	__u8 text[TEXT_BYTES];
	__u8 block[BLOCK_BYTES + 8]; /* what is read just now, and room for a word behind it */
	struct server_key key; /* of the lookup at hand */
	struct hello hello;    /* in judgement just now */
	struct rule best;
};
_Static_assert(sizeof(struct request) == 2624, "ABI: agent/abi/layout.py");

struct learned_key { /* key of `learned` */
	__u32 identity;
	__u32 index; /* a set, by the address, and one of its ways */
};
_Static_assert(sizeof(struct learned_key) == 8, "ABI: agent/abi/layout.py");

struct learned { /* value of `learned`: an address that a DNS server gave an identity for a name that it asked for */
	struct address address;
	__u64 seal;    /* of key and address: the kernel hands an entry that was replaced to another key at once */
	__u64 digest;  /* of the name */
	__u64 expires; /* CLOCK_MONOTONIC, ns */
	struct dns_name text;
	__u32 pad;
};
_Static_assert(sizeof(struct learned) == 304, "ABI: agent/abi/layout.py");

struct questions { /* value of `questions`, a storage of sockets: what it has asked DNS servers and got no answer to */
	__u32 next;
	__u32 pad;
	__u64 seal[QUESTIONS]; /* of server, id and name */
};
_Static_assert(sizeof(struct questions) == 8 + 8 * QUESTIONS, "ABI: agent/abi/layout.py");

struct rule_key { /* key of `rules` */
	__u32 length; /* bits: 128 of a lookup, at least 96 of a row, which has a prefix of port indexes */
	__u32 ruleset;
	__u32 peer_class;
	__u8 direction;
	__u8 pad[3];
	__be32 port_index;
};
_Static_assert(sizeof(struct rule_key) == 20, "ABI: agent/abi/layout.py");

struct identity_counts { /* per-CPU value of `identities`, twice: by direction, who opened */
	BOTH_WAYS;
	__u64 connections;
	__u64 audited;        /* connections that passed though a policy in audit would deny them */
	__u64 denied_packets; /* a denied connect() counts as one, of no bytes */
	__u64 denied_bytes;
};
struct identity_totals {
	struct identity_counts by[2];
};
_Static_assert(sizeof(struct identity_totals) == 128, "ABI: agent/abi/layout.py");

struct denial_key { /* key of `denials` */
	__u32 slot;
	__u32 rule;
	__u32 identity;
	__u8 reason;
	__u8 direction;
	__u8 verdict; /* VERDICT_DENY or VERDICT_AUDIT */
	__u8 pad;
};
_Static_assert(sizeof(struct denial_key) == 16, "ABI: agent/abi/layout.py");

struct denial { /* value of `denials` */
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct denial) == 16, "ABI: agent/abi/layout.py");

struct creator { /* value of `creators`: who made a socket, until another socket's cookie takes the place (L7) */
	__u64 cookie;
	__u64 cgroup_id;
	__u64 network; /* network namespace; 0 where programs can ask for it at each packet (HAVE_SKB_NETNS) */
	__u64 seal;    /* of the other three: they are written by several processors at once */
};
_Static_assert(sizeof(struct creator) == 32, "ABI: agent/abi/layout.py");

struct event { /* record of the ring buffer `events` */
	__u64 time_ns;        /* CLOCK_MONOTONIC */
	__u64 cgroup_id;      /* of the socket */
	__u64 task_cgroup_id; /* of the calling process where the hook knows it, else 0 */
	__u64 ancestors[POD_LEVELS]; /* EVENT_PENDING: cgroup ids at the pod levels */
	__u64 socket_cookie;
	struct address peer;
	__be16 service_port;
	__be16 client_port;
	__u8 protocol;
	__u8 direction;
	__u8 verdict;
	__u8 reason;
	__u32 rule;
	__u32 identity;
	__u32 slot;
	__u32 pid; /* of the calling process where the hook knows it, else 0 */
	__u32 length; /* of the packet, bytes */
	__u8 kind; /* enum event_kind */
	__u8 hook; /* enum hook */
	__u8 family; /* HOOK_SOCKET_CREATE: of the socket */
	__u8 pad;
};
_Static_assert(sizeof(struct event) == 96, "ABI: agent/abi/layout.py");

struct hello_event { /* record of `events` with EVENT_HELLO: for which server a connection was begun */
	struct event event;
	struct greeting greeting;
};
_Static_assert(sizeof(struct hello_event) == 360, "ABI: agent/abi/layout.py");

struct request_event { /* record of `events`, of a denial or an audit: the request that it is about */
	struct event event;
	__u8 method[METHOD_BYTES]; /* texts end with a 0, or are cut */
	__u8 host[TEXT_ROOM];
	__u8 path[TEXT_ROOM];
	__u16 port; /* that a proxy is asked for; 0: none is */
	__u8 pad[6];
};
_Static_assert(sizeof(struct request_event) == 632, "ABI: agent/abi/layout.py");

struct dns_answer { /* record of `events` with EVENT_DNS_ANSWER: what a DNS server answered, as it came */
	struct event event; /* peer: the server; length: of the whole packet */
	__u16 kept;         /* bytes of the message below; the rest is cut */
	__u8 pad[6];
	__u8 message[DNS_BYTES];
};
_Static_assert(sizeof(struct dns_answer) == 104 + DNS_BYTES, "ABI: agent/abi/layout.py");

struct call { /* record of `events` about a process that called: a socket hook's denials and audits */
	struct event event;
	__u8 comm[COMM_BYTES]; /* of the thread that called */
};
_Static_assert(sizeof(struct call) == 96 + COMM_BYTES, "ABI: agent/abi/layout.py");

struct attempt { /* value of `attempts`, a storage of sockets: the connection that its pod opened last */
	__u64 began_ns;       /* CLOCK_MONOTONIC of connect() */
	__u64 established_ns; /* 0: not yet */
	__u64 answered_ns;    /* of the first byte that the peer sent; 0: none yet */
	__u64 cgroup_id;
	struct address peer;
	__be16 service_port;
	__u8 pad[2];
	__u32 rule;
	__u32 identity; /* 0: not known at connect() */
	__u32 slot;
	__u32 pid;
	__u32 reserved;
	__u8 comm[COMM_BYTES];
};
_Static_assert(sizeof(struct attempt) == 88, "ABI: agent/abi/layout.py");

struct outcome { /* record of `events` with EVENT_OUTCOME */
	struct event event; /* time_ns: of the outcome */
	__u8 comm[COMM_BYTES];
	__u64 began_ns, established_ns, answered_ns; /* as in struct attempt */
	__u32 rtt_us;      /* smoothed; 0: never measured */
	__u32 retransmits; /* segments */
	__u16 detail;
	__u8 cause; /* enum cause */
	__u8 pad[5];
};
_Static_assert(sizeof(struct outcome) == 152, "ABI: agent/abi/layout.py");

#endif
