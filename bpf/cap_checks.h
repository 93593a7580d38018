/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The record layouts that the BPF programs and the Python process share: the only ABI between
 * them (cap_exporter/sources/layout.py is the other half; a test compares the two).
 * Change anything here and raise CAP_LAYOUT_VERSION.
 */
#ifndef __CAP_CHECKS_H__
#define __CAP_CHECKS_H__

#define CAP_LAYOUT_VERSION 3

/*
 * A counter's key is one word, so that a slot is claimed and matched by one instruction and no
 * interrupted program can ever see half of it:
 *
 *	bits  0- 6  capability (0..127)
 *	bit      7  denied
 *	bit      8  the target user namespace is not the initial one
 *	bits  9-11  enum check_class
 *	bits 12-13  enum hierarchy: which cgroup tree the id is from
 *	bits 14-63  cgroup id
 *
 * kernfs ids are a cyclic 32-bit number plus a generation in the upper half that grows by one
 * per wrap (fs/kernfs/dir.c, 6.18): 50 bits hold 2^18 wraps. Wider ids count as overflow.
 */
#define CAP_KEY_DENIED (1ULL << 7)
#define CAP_KEY_OTHER_NS (1ULL << 8)
#define CAP_KEY_CLASS_SHIFT 9
#define CAP_KEY_HIERARCHY_SHIFT 12
#define CAP_KEY_CGROUP_SHIFT 14
#define CAP_KEY_CGROUP_BITS 50
/* The key without cgroup and hierarchy: index of the overflow counters. */
#define CAP_KEY_KIND_BITS 12
#define CAP_KEY_KINDS (1 << CAP_KEY_KIND_BITS)

/* Not a key, since every cgroup id is at least 1. */
#define CAP_SLOT_EMPTY 0ULL
#define CAP_SLOT_RETIRED 1ULL

enum check_class {
	CLASS_MEANINGFUL = 0,
	CLASS_SETUP = 1,
	CLASS_OTHER = 2,
	CLASS_OVERRIDE = 3,
	CLASS_NOAUDIT = 4,
	CLASS_ALTERNATIVE = 5,
	CLASS_UNCLASSIFIED = 6,
};

enum hierarchy {
	HIERARCHY_V2 = 0,
	HIERARCHY_PIDS = 1,
	HIERARCHY_MEMORY = 2,
};

/* A cache line of counters: where a key may live is decided by bucket, not by slot. */
#define CAP_BUCKET_SLOTS 4

struct slot {
	__u64 key;
	__u64 count;
};

struct bucket {
	struct slot slots[CAP_BUCKET_SLOTS];
};

/* [start, end) of a kernel function. */
struct text_range {
	__u64 start;
	__u64 end;
};

#define CAP_NOAUDIT_CALLERS 8
#define CAP_UNSURE_CALLERS 4
#define CAP_STACK_LAYOUTS 2

/*
 * Where the return addresses lie above the tracepoint's context: the one into cap_capable (the
 * guard) in bytes; the one into its caller, and the one into that one's caller where the caller
 * is security_capable, in words above the guard. Measured at start; all 0: not known.
 */
struct stack_layout {
	__u32 guard;
	__u32 caller;
	__u32 outer;
	__u32 pad;
};

/* Constants for the verifier: set before loading, never changed. */
struct cap_config {
	__u32 bucket_mask;	/* buckets of one shard - 1 */
	__u32 bucket_bits;	/* log2 of the buckets of one shard */
	__u32 shard_mask;	/* shards - 1 */
	__u32 claims_mask;	/* entries of the claims log - 1 */
	__u8 v1_pids;		/* the pids controller is on cgroup v1 */
	__u8 v1_memory;
	__u8 v2;		/* cgroup v2 is mounted (with v1: a hybrid host) */
	__u8 audit_argument;	/* fexit, kprobe: 4th argument is 1 opts, 2 the old "audit" */
	__u32 calibrate_tid;
	__s32 hierarchy_ids[3];	/* cgroup_root.hierarchy_id by enum hierarchy, -1: none */
	__u32 events;		/* enum event_checks; 0: no events */
	__u32 event_ticks;	/* the process counts up cap_state.event_tick */
	__u64 event_capabilities; /* of which capabilities, as a mask */
	__u64 event_interval;	/* ns between two events of equal checks */
	__u64 event_burst;	/* events a cgroup may send at once */
	__u64 event_refill;	/* ns until it may send one more */
	__u64 ambiguous;	/* capabilities that have noaudit callers, as a mask */
	__u64 preempt_mode_address;
	struct text_range cap_capable;
	struct text_range security_capable;
	struct text_range noaudit[CAP_NOAUDIT_CALLERS];
	struct text_range unsure[CAP_UNSURE_CALLERS];
	struct stack_layout layouts[CAP_STACK_LAYOUTS];
};

/* What the programs tell besides counts; mapped by the process. */
struct cap_state {
	__u64 claims;			/* slots claimed so far: the claims log's head */
	__u64 overflow_full;		/* checks counted by kind only: no slot was free */
	__u64 overflow_id;		/* ... the cgroup id was too wide */
	__u64 events_lost;		/* cgroup events for which the ring had no room */
	__u64 marks_lost;		/* tasks in set-up that could not be remembered */
	__u64 stack_walks;		/* audit class read by unwinding, not by offset */
	__u64 map_errors;		/* per-key path: inserts the map refused */
	__s64 setup_tasks;		/* processes in set-up now */
	__u64 init_exe;			/* inode of process 1's executable */
	__u64 epoch;			/* grows when a task may see other cgroups than before */
	__u64 event_tick;		/* several to an event interval */
	__u64 events_sent;
	__u64 events_full;		/* events for which the ring had no room */
	__u64 events_limited;		/* events beyond the cgroup's rate */
	__u64 unknown_zero;		/* always 0, which the verifier can't know */
	__u64 overflow[CAP_KEY_KINDS];	/* by the key's lower CAP_KEY_KIND_BITS */
};

enum cgroup_change {
	CGROUP_CREATED = 1,
	CGROUP_REMOVED = 2,
	CGROUP_RENAMED = 3,
	CGROUP_ENTERED = 4,	/* the entrypoint runs: struct cgroup_event_entered */
};

/* kernel/cgroup/cgroup-internal.h: TRACE_CGROUP_PATH_LEN */
#define CAP_CGROUP_PATH_LEN 1024
#define CAP_CGROUP_PATH_SHORT 232

struct cgroup_event_head {
	__u64 id;
	__s32 hierarchy;		/* cgroup_root.hierarchy_id */
	__u16 change;
	__u16 path_len;			/* with the final NUL */
};

struct cgroup_event_short {
	struct cgroup_event_head head;
	char path[CAP_CGROUP_PATH_SHORT];
};

struct cgroup_event_long {
	struct cgroup_event_head head;
	char path[CAP_CGROUP_PATH_LEN];
};

enum held_flags {
	HELD_NO_NEW_PRIVS = 1,
	HELD_HOST_USER_NS = 2,	/* the capabilities are over the host's user namespace */
};

/* What a process holds. */
struct held {
	__u64 cgroup;			/* id and hierarchy in their places of a counter's key */
	__u64 bounding;
	__u64 permitted;
	__u64 effective;
	__u64 ambient;
	__u64 inheritable;
	__u32 tgid;
	__u32 uid;
	__u32 flags;			/* enum held_flags */
	__u32 pad;
};

struct cgroup_event_entered {
	struct cgroup_event_head head;
	struct held held;
};

/* How much a cgroup tells of whose a task is. */
enum cgroup_rank {
	RANK_OTHER = 0,
	RANK_NAMED = 1,		/* a systemd unit, or made since we came */
	RANK_CONTAINER = 2,
};

/* By cgroup id and hierarchy, in their places of a counter's key. */
struct cgroup_note {
	__u64 created;			/* boot clock, ns; 0: before we came */
	__u64 rank;
};

/* Which checks become events: enum event_checks, a mask. */
enum event_checks {
	EVENTS_DENIED = 1,
	EVENTS_ALLOWED = 2,
	EVENTS_STACK = 4,	/* with the kernel stack */
	EVENTS_ARGUMENTS = 8,	/* with the command line */
};

#define CAP_EVENT_PATH 512
#define CAP_EVENT_NAME 64	/* of one path component, longer ones are cut */
/* A name is written where there is room for a whole one, however long it is. */
#define CAP_EVENT_PATH_ROOM (CAP_EVENT_PATH + CAP_EVENT_NAME)
#define CAP_EVENT_FRAMES 20
#define CAP_EVENT_ARGUMENTS 1024
#define CAP_COMM 16

enum event_names {
	NAMES_EXE,
	NAMES_CWD,
	NAMES_PARENT_EXE,
	NAMES_PARENT_CWD,
	EVENT_NAMES,
};

/* A process: the one that was checked, or its parent. */
struct event_process {
	__u64 start;			/* boot clock, ns */
	__s32 pid;			/* tgid, in the initial pid namespace */
	__u32 uid;
	char comm[CAP_COMM];
};

/* Inodes of the namespaces, 0: the kernel does not have it. */
struct event_namespaces {
	__u32 uts;
	__u32 ipc;
	__u32 mnt;
	__u32 pid;
	__u32 pid_for_children;
	__u32 net;
	__u32 time;
	__u32 time_for_children;
	__u32 cgroup;
	__u32 user;
};

struct check_event {
	__u64 time;			/* boot clock, ns */
	__u64 key;			/* a counter's key: cgroup, capability, verdict, class */
	__u64 suppressed;		/* equal checks since the last event of them */
	__u64 effective;		/* capability sets of the checked credentials */
	__u64 permitted;
	__u64 bounding;
	__s32 tid;
	__s32 pid_in_container;		/* tgid in the process's own pid namespace */
	__u32 gid;
	__u32 auid;			/* login uid, -1: none */
	__s32 ret;
	__s32 syscall;			/* -1: not told */
	__s32 target_level;		/* the user namespace that was asked for */
	__u32 target_inode;
	__u32 target_uid;		/* its owner */
	__u32 target_gid;
	__u32 opts;			/* the kernel's CAP_OPT_..., where has_opts */
	__u8 has_opts;
	__u8 frames;			/* of the stack */
	__u16 pad;
	struct event_namespaces namespaces;
	struct event_process process;
	struct event_process parent;
	/*
	 * By enum event_names: names from the file up to the root of what the process sees, each
	 * with its NUL: "dmesg" "bin". Cut where the room ends.
	 */
	__u16 names_len[EVENT_NAMES];
	char names[EVENT_NAMES][CAP_EVENT_PATH_ROOM];
	__u64 stack[CAP_EVENT_FRAMES];
};

/* With EVENTS_ARGUMENTS: the command line, each argument with its NUL. Cut where the room ends. */
struct check_event_long {
	struct check_event event;
	__u32 arguments_len;		/* 0: there are none, or they could not be read */
	__u32 pad;
	char arguments[CAP_EVENT_ARGUMENTS];
};

#define CAP_STACK_WORDS 64
#define CAP_STACK_FRAMES 12

/* What the calibrating program saw of one known check. */
struct calibration {
	__u64 hits;
	__s64 frames_len;		/* bytes, or a negative errno */
	__s64 preempt_mode;
	__u64 words[CAP_STACK_WORDS];	/* the stack from the tracepoint's context upwards */
	__u64 frames[CAP_STACK_FRAMES];	/* what bpf_get_stack() says */
};

#endif /* __CAP_CHECKS_H__ */
