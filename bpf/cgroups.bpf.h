/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which cgroup a task is in, what kind of cgroup that is, and news of cgroups for the process. */
#ifndef __CGROUPS_BPF_H__
#define __CGROUPS_BPF_H__

#include "common.bpf.h"

/* Deeper trees are cut off: the container's own cgroup lies well above that. */
#define CGROUP_DEPTH 20
/* Enough for "cri-containerd-<64 hex>.scope" and "kubepods-burstable-pod<uid>.slice". */
#define NAME_LEN 128
#define CONTAINER_ID_LEN 64

#define NAME_IS_ID 1
#define NAME_IS_POD 2

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} cgroup_events SEC(".maps");

/*
 * Hybrid and v1 hosts only: what is known of a cgroup, to choose between the hierarchies of a
 * task. Key: cgroup id and hierarchy as in a counter's key.
 */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct cgroup_note);
} cgroup_notes SEC(".maps");

/* Hybrid and v1 hosts only: choices made, see cgroup_key(). */
#define CHOICES 1024
__u64 choices[CHOICES] SEC(".bss.choices");

static __always_inline __u64 scoped(__u64 id, __u32 hierarchy)
{
	return id << CAP_KEY_CGROUP_SHIFT | (__u64)hierarchy << CAP_KEY_HIERARCHY_SHIFT;
}

/* css_set.subsys[] of a v1 controller. The index is the build's, so no constant for clang. */
#define SUBSYS(set, controller)                                                                    \
	((struct cgroup_subsys_state **)((void *)(set)->subsys +                                   \
					 sizeof(void *) * bpf_core_enum_value(                     \
								  enum cgroup_subsys_id,           \
								  controller##_cgrp_id)))

static __always_inline struct cgroup *cgroup_of_subsys(bool direct,
						       struct cgroup_subsys_state **place)
{
	struct cgroup_subsys_state *css;

	if (direct)
		return (*place)->cgroup;
	bpf_probe_read_kernel(&css, sizeof(css), place);
	return BPF_CORE_READ(css, cgroup);
}

static __always_inline struct cgroup *cgroup_in(bool direct, struct css_set *set, __u32 hierarchy)
{
	if (hierarchy == HIERARCHY_PIDS)
		return cgroup_of_subsys(direct, SUBSYS(set, pids));
	if (hierarchy == HIERARCHY_MEMORY)
		return cgroup_of_subsys(direct, SUBSYS(set, memory));
	return FIELD(direct, set, dfl_cgrp);
}

static __always_inline __u64 cgroup_id(bool direct, struct cgroup *cgroup)
{
	if (direct)
		return cgroup->kn->id;
	return BPF_CORE_READ(cgroup, kn, id);
}

/* The most specific wins, of equal ones the latest created, else v1 before v2. */
__noinline int choose(__u64 pids, __u64 memory, __u64 v2)
{
	__u64 ids[3] = { scoped(pids, HIERARCHY_PIDS), scoped(memory, HIERARCHY_MEMORY),
			 scoped(v2, HIERARCHY_V2) };
	__u64 created, best_created = 0;
	struct cgroup_note *note;
	__u32 best = 0;
	int i, rank, best_rank = 0;

#pragma unroll
	for (i = 0; i < 3; i++) {
		/* The root of a hierarchy says nothing; 0 is no hierarchy at all. */
		if (ids[i] >> CAP_KEY_CGROUP_SHIFT <= 1)
			continue;
		note = bpf_map_lookup_elem(&cgroup_notes, &ids[i]);
		rank = 1 + (note ? note->rank : RANK_OTHER);
		created = note ? note->created : 0;
		if (rank > best_rank || (rank == best_rank && created > best_created)) {
			best_rank = rank;
			best_created = created;
			best = i;
		}
	}
	if (best == 0)
		return best_rank || config.v1_pids ? HIERARCHY_PIDS :
		       config.v1_memory		   ? HIERARCHY_MEMORY :
						     HIERARCHY_V2;
	return best == 1 ? HIERARCHY_MEMORY : HIERARCHY_V2;
}

/* The cgroup a check is counted under: id and hierarchy in their places of a counter's key. */
static __always_inline __u64 cgroup_key(bool direct, struct task_struct *task)
{
	struct css_set *set = FIELD(direct, task, cgroups);
	__u64 pids = 0, memory = 0, v2 = 0, sum, seen;
	__u32 slot, hierarchy;

	if (!config.v1_pids && !config.v1_memory)
		return scoped(cgroup_id(direct, cgroup_in(direct, set, HIERARCHY_V2)), HIERARCHY_V2);
	if (config.v1_pids)
		pids = cgroup_id(direct, cgroup_in(direct, set, HIERARCHY_PIDS));
	if (config.v1_memory)
		memory = cgroup_id(direct, cgroup_in(direct, set, HIERARCHY_MEMORY));
	if (config.v2)
		v2 = cgroup_id(direct, cgroup_in(direct, set, HIERARCHY_V2));

	/*
	 * Looking three cgroups up costs more than counting, so the choice is kept by the three
	 * ids, for one epoch (a new cgroup may be the better choice). An entry is one word, all
	 * but its lowest two bits a sum over ids and epoch, so that it is never half written. Two
	 * triples of one sum (one in 2^62) would make a task's checks count under another one of
	 * its own cgroups, never under a stranger's.
	 */
	sum = (pids * 0x9e3779b97f4a7c15ULL ^ memory) * 0xbf58476d1ce4e5b9ULL;
	sum = (sum ^ sum >> 29 ^ v2) * 0x94d049bb133111ebULL + (state.epoch << 2);
	slot = sum >> 32 & (CHOICES - 1);
	seen = choices[slot];
	hierarchy = seen & 3;
	if ((seen ^ sum) >> 2) {
		hierarchy = choose(pids, memory, v2);
		choices[slot] = (sum & ~3ULL) | hierarchy;
	}
	return scoped(hierarchy == HIERARCHY_PIDS   ? pids :
		      hierarchy == HIERARCHY_MEMORY ? memory :
						      v2,
		      hierarchy);
}

static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *node)
{
	struct kernfs_node___rcu *rcu = (void *)node;

	if (bpf_core_field_exists(rcu->__parent))
		return BPF_CORE_READ(rcu, __parent);
	return BPF_CORE_READ(node, parent);
}

/*
 * The functions below are global ones with plain numbers as arguments, so that the verifier
 * looks at each once and not again in every caller and round of its loops.
 */

/*
 * NAME_IS_ID: holds a run of 64 hexadecimal digits, as every runtime's container cgroup does.
 * NAME_IS_POD: has pod<uid> at the end or before a dot, the uid 32 or 36 characters long.
 *
 * The counters start from a zero that the verifier does not know and are compared through it,
 * and bytes are read again instead of carried over: else it would follow each of their values
 * through the loop.
 */
__noinline int node_kind(__u64 node)
{
	__u64 zero = state.unknown_zero;
	__u64 hex = zero, uid = zero, kind = zero;
	char name[NAME_LEN + 4];
	int i;
	char c;

	/* Three bytes in front, to look back at. */
	name[0] = name[1] = name[2] = name[3] = 0;
	if (bpf_probe_read_kernel_str(name + 4, NAME_LEN,
				      BPF_CORE_READ((struct kernfs_node *)node, name)) < 0)
		return 0;
	for (i = 4; i < NAME_LEN + 4; i++) {
		c = name[i];
		if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))
			hex++;
		else
			hex = zero;
		if ((hex ^ zero) == CONTAINER_ID_LEN)
			kind |= NAME_IS_ID;
		/* uid: one more than the characters since "pod", 0 outside of one */
		if (uid ^ zero) {
			if ((hex ^ zero) || ((uid ^ zero) > 1 && (c == '-' || c == '_')))
				uid++;
			else if ((!c || c == '.') && ((uid ^ zero) == 33 || (uid ^ zero) == 37))
				return NAME_IS_POD;
			else
				uid = zero;
		}
		if (c == 'd' && name[i - 1] == 'o' && name[i - 2] == 'p')
			uid = zero + 1;
		if (!c)
			break;
	}
	return kind & NAME_IS_ID;
}

/*
 * The id of the cgroup that is the whole of the container which @start lies in, or 0: the first
 * container below the topmost pod, else the topmost container (as cap_exporter/cgroups/
 * reference.py reads paths). What lies deeper belongs to that container.
 */
__noinline __u64 container_root(__u64 start)
{
	struct kernfs_node *node = (void *)start;
	__u64 nearest = 0, below_pod = 0;
	int i, kind;

	for (i = 0; i < CGROUP_DEPTH && node; i++) {
		kind = node_kind((__u64)node);
		if (kind == NAME_IS_ID)
			nearest = BPF_CORE_READ(node, id);
		else if (kind == NAME_IS_POD && nearest)
			below_pod = nearest;
		node = kernfs_parent(node);
	}
	return below_pod ? below_pod : nearest;
}

/* Is @start the cgroup with that id, or below it? */
__noinline int is_within(__u64 start, __u64 id)
{
	struct kernfs_node *node = (void *)start;
	int i;

	for (i = 0; i < CGROUP_DEPTH && node; i++) {
		if (BPF_CORE_READ(node, id) == id)
			return true;
		node = kernfs_parent(node);
	}
	return false;
}

/* The ancestor just below the root of the hierarchy, or 0 for the root itself. */
__noinline __u64 topmost(__u64 start)
{
	struct kernfs_node *node = (void *)start, *parent;
	__u64 top = 0;
	int i;

	for (i = 0; i < CGROUP_DEPTH && node; i++) {
		parent = kernfs_parent(node);
		if (parent)
			top = (__u64)node;
		node = parent;
	}
	return top;
}

/* enum hierarchy of a cgroup, or -1: of a hierarchy that is not looked at. */
static __always_inline int hierarchy_of(struct cgroup *cgroup)
{
	int id = BPF_CORE_READ(cgroup, root, hierarchy_id);
	int i;

#pragma unroll
	for (i = 0; i < 3; i++)
		if (config.hierarchy_ids[i] == id)
			return i;
	return -1;
}

static __always_inline void send_cgroup_event(struct cgroup *cgroup, const char *path,
					      enum cgroup_change change)
{
	struct cgroup_event_head head = { .change = change };
	struct cgroup_event_short *brief;
	struct cgroup_event_long *full;
	long len = 1;

	head.id = cgroup_id(false, cgroup);
	head.hierarchy = BPF_CORE_READ(cgroup, root, hierarchy_id);
	brief = bpf_ringbuf_reserve(&cgroup_events, sizeof(*brief), 0);
	if (!brief)
		goto lost;
	brief->path[0] = 0;
	if (change != CGROUP_REMOVED)
		len = bpf_probe_read_kernel_str(brief->path, sizeof(brief->path), path);
	if (len < (long)sizeof(brief->path)) {
		head.path_len = len < 0 ? 0 : len;
		brief->head = head;
		bpf_ringbuf_submit(brief, 0);
		return;
	}
	/* A full buffer may mean a cut path: once more, with all the room there is. */
	bpf_ringbuf_discard(brief, 0);
	full = bpf_ringbuf_reserve(&cgroup_events, sizeof(*full), 0);
	if (!full)
		goto lost;
	len = bpf_probe_read_kernel_str(full->path, sizeof(full->path), path);
	head.path_len = len < 0 ? 0 : len;
	full->head = head;
	bpf_ringbuf_submit(full, 0);
	return;
lost:
	__sync_fetch_and_add(&state.events_lost, 1);
}

#endif /* __CGROUPS_BPF_H__ */
