// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Counts every capability check like cap_checks.bpf.c, for BCC to compile on the host: for kernels
 * without BTF, from 4.19 on. cap_exporter/sources/bcc_loader.py compiles, loads and attaches it.
 *
 * A program of its own and not the CO-RE one with other macros, since what serves old kernels is
 * another shape: no loop, no function call, no global variable, at most 4096 instructions a
 * program (before 5.3). So what is known of a cgroup is kept by its id, each made from its
 * parent's when the cgroup is made, where the CO-RE program walks up the tree; and all counters
 * are in a per-CPU hash.
 *
 * The process puts in front: for a kernel with BTF OFFSETS_FROM_BTF and an OFFSET_struct_member
 * for each member read; else that kernel's own headers tell. Kernel addresses are plain numbers
 * here, which keeps BCC from rewriting how they are followed.
 */
#ifndef OFFSETS_FROM_BTF
#include <linux/cgroup-defs.h>
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/ipc_namespace.h>
#include <linux/kernfs.h>
#include <linux/mm_types.h>
#include <linux/mount.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>
#include <linux/utsname.h>
#include <linux/version.h>
#include <net/net_namespace.h>
#include <linux/user_namespace.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 9, 0)
#include <linux/security.h>
#else
#define CAP_OPT_NOAUDIT BIT(1)
#endif

#define OFFSET(type, member) offsetof(struct type, member)

/* fs/mount.h is private to the kernel; the same from 3.3 to 6.18. */
#define OFFSET_mount_mnt_parent 16
#define OFFSET_mount_mnt_mountpoint 24
#define OFFSET_mount_mnt 32

/* linux/cgroup.h, and since 6.9 linux/security.h, bring in linux/bpf.h, which does not go with
 * BCC's own of another version. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
#define OFFSET_cgroup_namespace_ns 0
#else
#define OFFSET_cgroup_namespace_ns 8
#endif

#define SIZE_upid sizeof(struct upid)

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 5, 0)
#define OFFSET_task_start offsetof(struct task_struct, start_boottime)
#else
#define OFFSET_task_start offsetof(struct task_struct, real_start_time)
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 6, 0)
#include <linux/time_namespace.h>
#define HAS_TIME_NS
#endif

#ifdef CONFIG_AUDITSYSCALL
#define HAS_LOGINUID
#endif

/* task_pt_regs() in arch/x86/include/asm/processor.h, arch/arm64/include/asm/processor.h */
#ifdef __x86_64__
#define REGISTERS(task)                                                                            \
	(READ(task_struct, stack, task) + THREAD_SIZE - TOP_OF_KERNEL_STACK_PADDING -              \
	 sizeof(struct pt_regs))
#else
#define REGISTERS(task) (READ(task_struct, stack, task) + THREAD_SIZE - sizeof(struct pt_regs))
#define HAS_SYSCALLNO
#endif

/* Vendors brought the change of 5.1 to older kernels, so not by version. */
#if defined(CAP_OPT_NOAUDIT)
#define AUDIT_ARGUMENT 1
#elif defined(SECURITY_CAP_AUDIT)
#define AUDIT_ARGUMENT 2
#else
#define AUDIT_ARGUMENT 0
#endif

/* Without the controller no host has its hierarchy, and the index is never used. */
#ifndef CONFIG_CGROUP_PIDS
#define pids_cgrp_id 0
#endif
#ifndef CONFIG_MEMCG
#define memory_cgrp_id 0
#endif
#else
#define OFFSET(type, member) OFFSET_##type##_##member

#ifdef HAS_TASK_PT_REGS
#define REGISTERS(task) ((u64)bpf_task_pt_regs((void *)bpf_get_current_task_btf()))
#endif
#endif

#include "cap_checks.h"
#include "sampling.h"

#ifndef COUNTERS
#define COUNTERS 32768
#endif

/* A member that is a number of 64 bits, or a pointer; of 32 bits. */
#define READ(type, member, address) read_u64((address) + OFFSET(type, member))
#define READ32(type, member, address) read_u32((address) + OFFSET(type, member))

static u64 read_u64(u64 address)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static u32 read_u32(u64 address)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

/* -- what the process shares -------------------------------------------------------------------*/

BPF_ARRAY(configuration, struct cap_config, 1);
BPF_ARRAY(states, struct cap_state, 1);
BPF_ARRAY(calibrations, struct calibration, 1);
/*
 * From a struct vfsmount to its struct mount's mnt_ns, and from there to the inode number (0: not
 * known). fs/mount.h is private to the kernel, so where there is no BTF the process finds them out
 * by a look at itself: look_at_self().
 */
BPF_ARRAY(mount_offsets, u64, 2);
BPF_PERCPU_HASH(counts_by_key, u64, u64, COUNTERS);

struct host {
	struct cap_config *config;
	struct cap_state *state;
};

static bool get_host(struct host *host)
{
	int zero = 0;

	host->config = configuration.lookup(&zero);
	host->state = states.lookup(&zero);
	return host->config && host->state;
}

/* -- cgroups -----------------------------------------------------------------------------------*/

/*
 * A cgroup by its key, id and hierarchy as in a counter's key. Those that are older than this
 * program are filled in by the process.
 */
struct cgroup_place {
	u64 created;	/* boot clock, ns; 0: before we came */
	u64 container;	/* id of the cgroup that is the whole of the container it lies in, or 0 */
	u64 topmost;	/* id of the ancestor just below the hierarchy's root; 0: it is the root */
	u32 in_pod;
	u32 below_pod;	/* the container is the first below the topmost pod */
	u64 rank;	/* enum cgroup_rank */
};

BPF_HASH(cgroup_places, u64, struct cgroup_place, 16384);

/*
 * News of cgroups, a ring. One writer at a time: the cgroup tracepoints all fire under
 * trace_cgroup_path_lock (kernel/cgroup/cgroup-internal.h, since 4.19), and in the order in which
 * things happened. A perf buffer would lose that order; the BPF ring buffer is younger (5.8).
 */
#define CGROUP_EVENTS 2048

BPF_ARRAY(cgroup_events, struct cgroup_event_long, CGROUP_EVENTS);
BPF_ARRAY(cgroup_events_written, u64, 1);

static u64 scoped(u64 id, u32 hierarchy)
{
	return id << CAP_KEY_CGROUP_SHIFT | (u64)hierarchy << CAP_KEY_HIERARCHY_SHIFT;
}

/* Its id is 1; before 5.5 with a generation in the upper half. */
static bool is_root(u64 id)
{
	return (u32)id <= 1;
}

static u64 id_of_cgroup(u64 cgroup)
{
	/* A union of the same 64 bits before 5.5. */
	return READ(kernfs_node, id, READ(cgroup, kn, cgroup));
}

static u64 cgroup_in(u64 set, u32 hierarchy)
{
	u64 subsystems = set + OFFSET(css_set, subsys);

	if (hierarchy == HIERARCHY_PIDS)
		return READ(cgroup_subsys_state, cgroup,
			    read_u64(subsystems + sizeof(u64) * pids_cgrp_id));
	if (hierarchy == HIERARCHY_MEMORY)
		return READ(cgroup_subsys_state, cgroup,
			    read_u64(subsystems + sizeof(u64) * memory_cgrp_id));
	return READ(css_set, dfl_cgrp, set);
}

/* enum hierarchy of a cgroup, or -1: of a hierarchy that is not looked at. */
static int hierarchy_of(struct cap_config *config, u64 cgroup)
{
	int id = READ32(cgroup_root, hierarchy_id, READ(cgroup, root, cgroup));

	if (config->hierarchy_ids[HIERARCHY_V2] == id)
		return HIERARCHY_V2;
	if (config->hierarchy_ids[HIERARCHY_PIDS] == id)
		return HIERARCHY_PIDS;
	if (config->hierarchy_ids[HIERARCHY_MEMORY] == id)
		return HIERARCHY_MEMORY;
	return -1;
}

/* How much a hierarchy's cgroup tells of the task, and since when. */
static u64 worth(u64 id, u32 hierarchy, u64 *created)
{
	u64 key = scoped(id, hierarchy);
	struct cgroup_place *note;

	*created = 0;
	if (is_root(id))
		return 0;
	note = cgroup_places.lookup(&key);
	if (!note)
		return 1;
	*created = note->created;
	return 1 + note->rank;
}

/*
 * The cgroup a check is counted under: id and hierarchy in their places of a counter's key. The
 * most specific wins: a container's cgroup, else the latest created, else v1 before v2.
 */
static u64 cgroup_key(struct cap_config *config, u64 task)
{
	u64 set = READ(task_struct, cgroups, task);
	u64 ids[3] = {}, created, best_created = 0, rank, best_rank = 0;
	u32 best, hierarchy;
	int i;

	if (!config->v1_pids && !config->v1_memory)
		return scoped(id_of_cgroup(cgroup_in(set, HIERARCHY_V2)), HIERARCHY_V2);
	best = config->v1_pids ? HIERARCHY_PIDS : HIERARCHY_MEMORY;
	if (config->v1_pids)
		ids[HIERARCHY_PIDS] = id_of_cgroup(cgroup_in(set, HIERARCHY_PIDS));
	if (config->v1_memory)
		ids[HIERARCHY_MEMORY] = id_of_cgroup(cgroup_in(set, HIERARCHY_MEMORY));
	if (config->v2)
		ids[HIERARCHY_V2] = id_of_cgroup(cgroup_in(set, HIERARCHY_V2));
#pragma unroll
	for (i = 0; i < 3; i++) {
		hierarchy = i == 0 ? HIERARCHY_PIDS : i == 1 ? HIERARCHY_MEMORY : HIERARCHY_V2;
		rank = worth(ids[hierarchy], hierarchy, &created);
		if (rank > best_rank || (rank == best_rank && created > best_created)) {
			best_rank = rank;
			best_created = created;
			best = hierarchy;
		}
	}
	return scoped(best == HIERARCHY_PIDS   ? ids[HIERARCHY_PIDS] :
		      best == HIERARCHY_MEMORY ? ids[HIERARCHY_MEMORY] :
						 ids[HIERARCHY_V2],
		      best);
}

#define EACH_BYTE(byte) ((byte) * 0x0101010101010101ULL)
#define HIGH_BITS EACH_BYTE(0x80ULL)

/* The high bit of each byte that is @from or more, for bytes below 0x80. */
#define AT_LEAST(bytes, from) ((bytes) + EACH_BYTE(0x80ULL - (from)))

/* Are all eight hexadecimal digits as runtimes write them, or, @separated, '-' or '_'? */
static bool are_hex(u64 bytes, bool separated)
{
	u64 digit = AT_LEAST(bytes, '0') & ~AT_LEAST(bytes, '9' + 1);
	u64 letter = AT_LEAST(bytes, 'a') & ~AT_LEAST(bytes, 'f' + 1);
	u64 dash = AT_LEAST(bytes, '-') & ~AT_LEAST(bytes, '-' + 1);
	u64 line = AT_LEAST(bytes, '_') & ~AT_LEAST(bytes, '_' + 1);
	u64 good = digit | letter | (separated ? dash | line : 0);

	return (good & ~bytes & HIGH_BITS) == HIGH_BITS;
}

#define CONTAINER_ID_LEN 64
#define NAME_LEN 256

struct name {
	char text[NAME_LEN];
};

BPF_PERCPU_ARRAY(names, struct name, 1);

/* Does the name end, at @end, in 64 hexadecimal digits, as every runtime's container does? */
static bool ends_in_container_id(u64 end, u32 len)
{
	u64 words[CONTAINER_ID_LEN / 8] = {};
	bool all = true;
	int i;

	if (len < CONTAINER_ID_LEN)
		return false;
	bpf_probe_read_kernel(words, sizeof(words), (void *)(end - CONTAINER_ID_LEN));
#pragma unroll
	for (i = 0; i < CONTAINER_ID_LEN / 8; i++)
		all &= are_hex(words[i], false);
	return all;
}

/* Does it end in pod<uid>, the uid of @uid_len characters, 32 or 36? */
static bool ends_in_pod(u64 end, u32 len, u32 uid_len)
{
	u64 words[4] = {};
	char before[4] = {};
	bool all;
	int i;

	if (len < uid_len + 3)
		return false;
	bpf_probe_read_kernel(before, 3, (void *)(end - uid_len - 3));
	if (before[0] != 'p' || before[1] != 'o' || before[2] != 'd')
		return false;
	bpf_probe_read_kernel(words, sizeof(words), (void *)(end - uid_len));
	all = are_hex(read_u64(end - 8), true);
#pragma unroll
	for (i = 0; i < 4; i++)
		all &= are_hex(words[i], true);
	return all;
}

/*
 * What a cgroup is, from its name and from what its parent is. The whole of a container is the
 * first one below the topmost pod, else the topmost container, as
 * cap_exporter/cgroups/reference.py reads paths; what lies deeper belongs to it.
 */
static void note_of(struct cgroup_place *note, u64 cgroup, u32 hierarchy)
{
	u64 node = READ(cgroup, kn, cgroup), id = READ(kernfs_node, id, node);
	u64 name = READ(kernfs_node, name, node), end, parent;
	struct cgroup_place *above;
	struct name *text;
	int zero = 0;
	long read;
	u32 len;

	parent = READ(cgroup_subsys_state, parent, cgroup + OFFSET(cgroup, self));
	parent = scoped(id_of_cgroup(READ(cgroup_subsys_state, cgroup, parent)), hierarchy);
	above = cgroup_places.lookup(&parent);
	if (above) {
		note->container = above->container;
		note->topmost = above->topmost;
		note->in_pod = above->in_pod;
		note->below_pod = above->below_pod;
	}
	if (!note->topmost)
		note->topmost = id;

	/* Only its length is wanted, and the stack has no room for it. */
	text = names.lookup(&zero);
	if (!text)
		return;
	read = bpf_probe_read_kernel_str(text, sizeof(*text), (void *)name);
	if (read <= 1)
		return;
	len = read - 1;
	/* ".scope", ".slice" and the like */
	if (len > 8) {
		if ((char)read_u32(name + len - 6) == '.')
			len -= 6;
		else if ((char)read_u32(name + len - 8) == '.')
			len -= 8;
	}
	end = name + len;
	if (ends_in_container_id(end, len)) {
		if (!note->container || (note->in_pod && !note->below_pod)) {
			note->container = id;
			note->below_pod = note->in_pod;
		}
	} else if (ends_in_pod(end, len, 36) || ends_in_pod(end, len, 32)) {
		note->in_pod = 1;
	}
}

static void note_cgroup(struct cap_state *state, u64 cgroup, u32 hierarchy, bool created)
{
	u64 key = scoped(id_of_cgroup(cgroup), hierarchy);
	struct cgroup_place note = {}, *old;

	if (created) {
		note.created = bpf_ktime_get_ns();
	} else {
		old = cgroup_places.lookup(&key);
		if (old)
			note.created = old->created;
	}
	note_of(&note, cgroup, hierarchy);
	note.rank = note.container ? RANK_CONTAINER : RANK_NAMED;
	if (cgroup_places.update(&key, &note))
		__sync_fetch_and_add(&state->map_errors, 1);
}

static void send_cgroup_event(u64 cgroup, u64 path, u16 change)
{
	struct cgroup_event_long *event;
	int zero = 0, index;
	u64 *written = cgroup_events_written.lookup(&zero);
	long len = 0;

	if (!written)
		return;
	index = *written & (CGROUP_EVENTS - 1);
	event = cgroup_events.lookup(&index);
	if (!event)
		return;
	event->head.id = id_of_cgroup(cgroup);
	event->head.hierarchy = READ32(cgroup_root, hierarchy_id, READ(cgroup, root, cgroup));
	event->head.change = change;
	if (change != CGROUP_REMOVED)
		len = bpf_probe_read_kernel_str(event->path, sizeof(event->path), (void *)path);
	event->head.path_len = len < 0 ? 0 : len;
	__sync_fetch_and_add(written, 1);
}

/* -- the phase of a process: see setup.bpf.h ---------------------------------------------------*/

#define MARK_RUNTIME 1	/* in set-up as long as its executable is from elsewhere */
#define MARK_UNIT 2	/* systemd, or its executor: in set-up until it executes the service */
#define MARK_DONE 3	/* came from outside, executed the workload: never marked again */
#define MARK_INIT 4	/* a runtime's own: in set-up until it executes a file of the container's */

/* Processes that entered from outside, by tgid. */
BPF_HASH(marks, u32, u32, 8192);

static u64 mount_namespace(u64 task)
{
	return READ(nsproxy, mnt_ns, READ(task_struct, nsproxy, task));
}

static u64 executable_file(u64 task)
{
	return READ(mm_struct, exe_file, READ(task_struct, mm, task));
}

static u64 executable_mount(u64 task)
{
	return READ(path, mnt, executable_file(task) + OFFSET(file, f_path));
}

/* Is the task's executable from another mount namespace than its own? */
static bool executable_is_foreign(u64 task)
{
	u64 own = mount_namespace(task), mount = executable_mount(task);
	int zero = 0;
	u64 *offset = mount_offsets.lookup(&zero);

	/* Exiting: neither is left. What was set-up ends as set-up. */
	if (!own || !mount || !offset)
		return true;
	return read_u64(mount + *offset) != own;
}

static bool in_setup(struct cap_state *state, u64 task, u32 tgid)
{
	u32 *mark;

	if (!state->setup_tasks)
		return false;
	mark = marks.lookup(&tgid);
	if (!mark || *mark == MARK_DONE)
		return false;
	return *mark != MARK_RUNTIME || executable_is_foreign(task);
}

static void set_mark(struct cap_state *state, u32 tgid, u32 kind)
{
	long err = marks.insert(&tgid, &kind);

	if (!err)
		__sync_fetch_and_add(&state->setup_tasks, 1);
	else if (err != -17 /* EEXIST */)
		__sync_fetch_and_add(&state->marks_lost, 1);
}

/* Process 1 is the manager whose children set units up; a user's manager runs the same file. */
static bool is_manager(struct cap_state *state, u64 task)
{
	u64 exe = READ(file, f_inode, executable_file(task));

	if (READ32(task_struct, tgid, task) == 1) {
		state->init_exe = exe;
		return true;
	}
	return exe && exe == state->init_exe;
}

/* @mover, which is in cgroup @from, put @task into cgroup @to. */
static void entered(struct cap_state *state, u64 task, u64 mover, u64 from, u64 to, u32 hierarchy,
		    bool moved)
{
	u64 from_key = scoped(from, hierarchy), to_key = scoped(to, hierarchy), container, top = 0;
	struct cgroup_place *source, *target;
	u32 kind = MARK_RUNTIME;
	bool outside;
	u64 exe;

	if (is_root(to))
		return; /* nobody's */
	if (is_manager(state, task) && is_manager(state, mover)) {
		set_mark(state, READ32(task_struct, tgid, task), MARK_UNIT);
		return;
	}
	target = cgroup_places.lookup(&to_key);
	source = cgroup_places.lookup(&from_key);
	if (target && target->container)
		outside = !source || source->container != target->container;
	else
		/* What the two have in common, the hierarchy's root apart, decides. */
		outside = !source || !target || !source->topmost ||
			  source->topmost != target->topmost;
	if (!outside)
		return;
	/* `runc init`, while it still runs the host's file: see setup.bpf.h. */
	if (moved && target && target->container) {
		exe = READ(file, f_inode, executable_file(task));
		if (exe && exe == READ(file, f_inode, executable_file(mover)))
			kind = MARK_INIT;
	}
	set_mark(state, READ32(task_struct, tgid, task), kind);
}

/* systemd >= 255 executes this first in the unit's cgroup; it sets the unit up in its stead. */
static bool is_executor(u64 task)
{
	u64 dentry = READ(path, dentry, executable_file(task) + OFFSET(file, f_path));
	u64 name = READ(qstr, name, dentry + OFFSET(dentry, d_name));
	u64 text[3] = {};

	/* Words, since clang makes of bytes what the verifier follows along 2^16 ways. */
	bpf_probe_read_kernel_str(text, 17, (void *)name);
	return text[0] == 0x2d646d6574737973ULL /* systemd- */ &&
	       text[1] == 0x726f747563657865ULL /* executor */ && !text[2];
}

/* -- what a check is worth: see classify.bpf.h -------------------------------------------------*/

/* include/uapi/linux/capability.h; not by its names, which kernel headers may define too */
#define NR_DAC_OVERRIDE 1
#define NR_DAC_READ_SEARCH 2
#define NR_SETGID 6
#define NR_SETUID 7
#define NR_NET_RAW 13
#define NR_SYS_ADMIN 21
#define NR_SYSLOG 34
#define NR_PERFMON 38
#define NR_BPF 39
#define NR_CHECKPOINT_RESTORE 40

/* user_namespace.c: MAX_USER_NAMESPACES levels, 32 and the initial one */
#define USER_NS_LEVELS 33

#define AUDIT_YES 0
#define AUDIT_NO 1
#define AUDIT_UNKNOWN 2

static bool lies_in(u64 address, struct text_range *range)
{
	return address >= range->start && address < range->end;
}

static int audit_of_caller(struct cap_config *config, u64 caller)
{
	int i;

	if (!caller)
		return AUDIT_UNKNOWN;
#pragma unroll
	for (i = 0; i < CAP_NOAUDIT_CALLERS; i++)
		if (lies_in(caller, &config->noaudit[i]))
			return AUDIT_NO;
#pragma unroll
	for (i = 0; i < CAP_UNSURE_CALLERS; i++)
		if (lies_in(caller, &config->unsure[i]))
			return AUDIT_UNKNOWN;
	return AUDIT_YES;
}

/* cap_capable's caller decides, or that one's where the LSM hook lies between. */
static u64 caller_by_unwinding(void *ctx, struct host *host)
{
	u64 frames[CAP_STACK_FRAMES] = {}, caller = 0;
	bool below = false;
	int i;

	__sync_fetch_and_add(&host->state->stack_walks, 1);
	if (bpf_get_stack(ctx, frames, sizeof(frames), 0) < 0)
		return 0;
#pragma unroll
	for (i = 0; i < CAP_STACK_FRAMES; i++) {
		if (lies_in(frames[i], &host->config->cap_capable))
			below = true;
		else if (below && !caller && !lies_in(frames[i], &host->config->security_capable))
			caller = frames[i];
	}
	return caller;
}

/* By the return addresses that lie above the tracepoint's context. */
static int audit_from_stack(void *ctx, struct host *host)
{
	struct cap_config *config = host->config;
	struct stack_layout *layout;
	u64 guard, caller;
	int i;

	if (!config->cap_capable.start)
		return AUDIT_UNKNOWN;
#pragma unroll
	for (i = 0; i < CAP_STACK_LAYOUTS; i++) {
		layout = &config->layouts[i];
		if (!layout->guard)
			continue;
		guard = (u64)ctx + layout->guard;
		if (!lies_in(read_u64(guard), &config->cap_capable))
			continue;
		caller = read_u64(guard + layout->caller * sizeof(u64));
		if (lies_in(caller, &config->security_capable))
			caller = read_u64(guard + layout->outer * sizeof(u64));
		return audit_of_caller(config, caller);
	}
	return audit_of_caller(config, caller_by_unwinding(ctx, host));
}

static int audit_from_argument(u32 argument)
{
	if (AUDIT_ARGUMENT == 1)
		return argument & 2 /* CAP_OPT_NOAUDIT */ ? AUDIT_NO : AUDIT_YES;
	if (AUDIT_ARGUMENT == 2)
		return argument ? AUDIT_YES : AUDIT_NO;
	return AUDIT_UNKNOWN;
}

/*
 * The capabilities that cap_capable() grants @cred over the user namespace @target, as a mask
 * (security/commoncap.c, 6.18), from the same data.
 */
static u64 held_over(u64 cred, u64 target)
{
	u64 own = READ(cred, user_ns, cred), ns = target, parent;
	s32 own_level = READ32(user_namespace, level, own);
	int i;

#pragma unroll
	for (i = 0; i < USER_NS_LEVELS; i++) {
		if (ns == own)
			/* u32[2] or u64 by version: the same eight bytes. */
			return READ(cred, cap_effective, cred);
		if ((s32)READ32(user_namespace, level, ns) <= own_level)
			return 0;
		parent = READ(user_namespace, parent, ns);
		if (parent == own &&
		    READ32(user_namespace, owner, ns) == READ32(cred, euid, cred))
			return ~0ULL;
		ns = parent;
	}
	return 0;
}

/* The capability that the kernel asks for next when @cap was refused, or -1. */
static int way_round(int cap)
{
	if (cap == NR_DAC_READ_SEARCH) /* fs/namei.c: generic_permission() */
		return NR_DAC_OVERRIDE;
	/* include/linux/capability.h and callers */
	if (cap == NR_SYSLOG || cap == NR_PERFMON || cap == NR_BPF || cap == NR_CHECKPOINT_RESTORE)
		return NR_SYS_ADMIN;
	return -1;
}

/*
 * setuid() and setgid() ask for the capability first, also of a process that sets an id it has
 * already, which is then granted without: see sets_own_id() in classify.bpf.h.
 */
static bool sets_own_id(u64 task, u64 cred, int cap)
{
#if defined(__x86_64__) && defined(REGISTERS)
	u64 registers = REGISTERS(task), number;
	u32 id;

	number = read_u64(registers + offsetof(struct pt_regs, orig_ax));
	id = read_u64(registers + offsetof(struct pt_regs, di));
	if (cap == NR_SETUID)
		return number == 105 /* setuid */ && (id == READ32(cred, uid, cred) ||
						      id == READ32(cred, suid, cred));
	return number == 106 /* setgid */ &&
	       (id == READ32(cred, gid, cred) || id == READ32(cred, sgid, cred));
#else
	return false;
#endif
}

struct check {
	void *stack;	/* the tracepoint's context, or NULL where the hook tells the audit class */
	u64 cred;
	u64 target;
	u64 held;	/* by cred over target, where the hook is the entry; else looked up */
	u32 audit_argument;
	int cap;
	bool denied;
};

static u32 classify(struct host *host, u64 task, struct check *check)
{
	u64 subjective = READ(task_struct, cred, task), held;
	int second, audit = AUDIT_YES;

	if (in_setup(host->state, task, READ32(task_struct, tgid, task)))
		return CLASS_SETUP;
	if (check->cred != subjective)
		return CLASS_OTHER;
	if (subjective != READ(task_struct, real_cred, task))
		return CLASS_OVERRIDE;
	if (!check->stack)
		audit = audit_from_argument(check->audit_argument);
	else if (host->config->ambiguous >> (check->cap & 63) & 1)
		audit = audit_from_stack(check->stack, host);
	if (audit == AUDIT_NO)
		return CLASS_NOAUDIT;
	if (check->denied) {
		second = way_round(check->cap);
		if (second >= 0) {
			held = check->stack ? held_over(check->cred, check->target) : check->held;
			if (held >> second & 1)
				return CLASS_ALTERNATIVE;
		}
		if ((check->cap == NR_SETUID || check->cap == NR_SETGID) &&
		    sets_own_id(task, check->cred, check->cap) &&
		    !READ32(user_namespace, level, check->target))
			return CLASS_ALTERNATIVE;
	}
	return audit == AUDIT_UNKNOWN ? CLASS_UNCLASSIFIED : CLASS_MEANINGFUL;
}

/* -- events: see events.bpf.h ------------------------------------------------------------------*/

#ifdef EVENTS
/*
 * What is told is put together by two programs that the counting one jumps to, each below 4096
 * instructions, and lies in a hash until the process takes it out: the ring buffer is younger
 * (5.8), and a perf buffer would need a ring for every CPU. A check that finds no room is counted.
 */
struct event_key {
	u64 time;
	u64 cpu;
};

BPF_TABLE("lru_hash", struct sample_key, struct sample, samples, 4096);
BPF_TABLE("lru_hash", u64, struct tokens, event_tokens, 4096);
BPF_PERCPU_ARRAY(event_scratch, struct check_event_long, 1);
BPF_HASH(check_events, struct event_key, struct check_event_long, EVENTS);
BPF_PROG_ARRAY(event_programs, 2);

#define PATH_DEPTH 14

static u64 executable_number(u64 task)
{
	u64 inode = READ(file, f_inode, executable_file(task));

	return READ(inode, i_ino, inode) ^
	       (u64)READ32(super_block, s_dev, READ(inode, i_sb, inode)) << 40;
}

static bool take_token(struct cap_config *config, u64 cgroup, u64 now)
{
	struct tokens full = { .left = config->event_burst, .refilled = now };
	struct tokens *bucket = event_tokens.lookup(&cgroup);
	u64 due = 0;

	if (!bucket) {
		event_tokens.insert(&cgroup, &full);
		bucket = event_tokens.lookup(&cgroup);
		if (!bucket)
			return true;
	}
	if (config->event_refill)
		due = (now - bucket->refilled) / config->event_refill;
	if (due) {
		bucket->refilled = now;
		bucket->left += due;
		if (bucket->left > config->event_burst)
			bucket->left = config->event_burst;
	}
	if (!bucket->left)
		return false;
	__sync_fetch_and_add(&bucket->left, -1);
	return true;
}

/* The next one of its kind tries again, and says that it stands for this one too. */
static void tell_later(struct sample *sample, u64 suppressed)
{
	__sync_fetch_and_add(&sample->suppressed, suppressed + 1);
	sample->last = 0;
}

static void fill_process(struct event_process *process, u64 task)
{
	process->start = read_u64(READ(task_struct, group_leader, task) + OFFSET_task_start);
	process->pid = READ32(task_struct, tgid, task);
	process->uid = READ32(cred, uid, READ(task_struct, cred, task));
	bpf_probe_read_kernel_str(process->comm, sizeof(process->comm),
				  (void *)(task + OFFSET(task_struct, comm)));
}

static void tell(void *ctx, struct host *host, u64 task, struct check *check, u64 key)
{
	struct sample_key kind = { .key = key, .executable = executable_number(task) };
	struct sample first = {}, *sample;
	u64 now = bpf_ktime_get_ns(), suppressed = 0, pid, cred = check->cred;
	struct check_event_long *scratch;
	struct check_event *event;
	int zero = 0;

	first.last = now;
	sample = samples.lookup(&kind);
	if (!sample) {
		if (samples.insert(&kind, &first))
			return; /* another CPU was first: it tells */
		sample = samples.lookup(&kind);
		if (!sample)
			return;
	} else if (now - sample->last < host->config->event_interval) {
		__sync_fetch_and_add(&sample->suppressed, 1);
		return;
	} else {
		sample->last = now;
		suppressed = sample->suppressed;
		__sync_fetch_and_add(&sample->suppressed, -suppressed);
	}
	if (!take_token(host->config, key >> CAP_KEY_HIERARCHY_SHIFT, now)) {
		__sync_fetch_and_add(&host->state->events_limited, 1);
		tell_later(sample, suppressed);
		return;
	}
	scratch = event_scratch.lookup(&zero);
	if (!scratch)
		return;
	event = &scratch->event;
	event->time = now;
	event->key = key;
	event->suppressed = suppressed;
	event->effective = READ(cred, cap_effective, cred);
	event->permitted = READ(cred, cap_permitted, cred);
	event->bounding = READ(cred, cap_bset, cred);
	event->tid = READ32(task_struct, pid, task);
	event->gid = READ32(cred, gid, cred);
	event->auid = -1;
#ifdef HAS_LOGINUID
	event->auid = READ32(task_struct, loginuid, task);
#endif
	event->ret = check->denied ? -1 : 0;
	event->target_level = READ32(user_namespace, level, check->target);
	event->target_inode = read_u32(check->target + OFFSET(user_namespace, ns) +
				       OFFSET(ns_common, inum));
	event->target_uid = READ32(user_namespace, owner, check->target);
	event->target_gid = READ32(user_namespace, group, check->target);
	event->opts = check->audit_argument;
	event->has_opts = !check->stack && AUDIT_ARGUMENT == 1;
	event->frames = 0;
	event->pad = 0;
	event->namespaces.user = read_u32(READ(cred, user_ns, cred) + OFFSET(user_namespace, ns) +
					  OFFSET(ns_common, inum));
	event_programs.call(ctx, 0);
	/* Not reached where both programs are loaded. */
	__sync_fetch_and_add(&host->state->events_full, 1);
	tell_later(sample, suppressed);
}

/* A namespace's inode number. */
#define INODE(type, address) read_u32((address) + OFFSET(type, ns) + OFFSET(ns_common, inum))

static void fill_namespaces(struct event_namespaces *ns, u64 task)
{
	u64 proxy = READ(task_struct, nsproxy, task), mounts = READ(nsproxy, mnt_ns, proxy), *offset;
	int one = 1;

	ns->uts = INODE(uts_namespace, READ(nsproxy, uts_ns, proxy));
	ns->ipc = INODE(ipc_namespace, READ(nsproxy, ipc_ns, proxy));
	ns->net = INODE(net, READ(nsproxy, net_ns, proxy));
	ns->cgroup = read_u32(READ(nsproxy, cgroup_ns, proxy) + OFFSET_cgroup_namespace_ns +
			      OFFSET(ns_common, inum));
	ns->pid_for_children = INODE(pid_namespace, READ(nsproxy, pid_ns_for_children, proxy));
	offset = mount_offsets.lookup(&one);
	ns->mnt = offset && *offset ? read_u32(mounts + *offset) : 0;
	ns->time = ns->time_for_children = 0;
#ifdef HAS_TIME_NS
	ns->time = INODE(time_namespace, READ(nsproxy, time_ns, proxy));
	ns->time_for_children = INODE(time_namespace, READ(nsproxy, time_ns_for_children, proxy));
#endif
}

/* The names from a file (at @path, a struct path) up to the process's root. */
static void fill_names(struct check_event *event, u64 path, u64 root, u32 which)
{
	u64 dentry = READ(path, dentry, path), vfs = READ(path, mnt, path), parent, mount;
	u64 root_dentry = READ(path, dentry, root), root_mnt = READ(path, mnt, root);
	bool done = !dentry;
	u32 at = 0;
	long len;
	int i;

#pragma unroll
	for (i = 0; i < PATH_DEPTH; i++) {
		parent = READ(dentry, d_parent, dentry);
		if (done || (dentry == root_dentry && vfs == root_mnt)) {
			done = true;
		} else if (dentry == READ(vfsmount, mnt_root, vfs) || dentry == parent) {
			/* The top of a mount: on from where it is mounted. */
			mount = vfs - OFFSET_mount_mnt;
			parent = read_u64(mount + OFFSET_mount_mnt_parent);
			done = parent == mount;
			dentry = read_u64(mount + OFFSET_mount_mnt_mountpoint);
			vfs = parent + OFFSET_mount_mnt;
		} else if (at > CAP_EVENT_PATH - CAP_EVENT_NAME) {
			done = true;
		} else {
			asm volatile("" : "+r"(at)); /* or clang drops the mask */
			at &= CAP_EVENT_PATH - 1;
			len = bpf_probe_read_kernel_str(
				&event->names[which][at], CAP_EVENT_NAME,
				(void *)read_u64(dentry + OFFSET(dentry, d_name) +
						 OFFSET(qstr, name)));
			if (len > 0)
				at += len & (CAP_EVENT_NAME * 2 - 1);
			else
				done = true;
			dentry = parent;
		}
	}
	event->names_len[which] = at;
}

static void fill_paths(struct check_event *event, u64 task, u32 which)
{
	u64 fs = READ(task_struct, fs, task), root = fs + OFFSET(fs_struct, root);
	u64 file = executable_file(task);

	fill_names(event, file ? file + OFFSET(file, f_path) : 0, root, which);
	fill_names(event, fs + OFFSET(fs_struct, pwd), root, which + 1);
}

static int syscall_of(u64 task)
{
#if defined(REGISTERS) && defined(__x86_64__)
	return read_u32(REGISTERS(task) + offsetof(struct pt_regs, orig_ax));
#elif defined(REGISTERS) && defined(HAS_SYSCALLNO)
	return read_u32(REGISTERS(task) + OFFSET(pt_regs, syscallno));
#else
	return -1;
#endif
}

/* What the process itself tells. */
int tell_process(struct pt_regs *ctx)
{
	u64 task = bpf_get_current_task(), pid, level, upid;
	struct check_event_long *scratch;
	struct check_event *event;
	struct host host;
	int zero = 0;

	scratch = event_scratch.lookup(&zero);
	if (!scratch || !get_host(&host))
		return 0;
	event = &scratch->event;
	pid = READ(task_struct, thread_pid, READ(task_struct, group_leader, task));
	level = READ32(pid, level, pid);
	upid = pid + OFFSET(pid, numbers) + (level & 63) * SIZE_upid;
	event->pid_in_container = READ32(upid, nr, upid);
	event->syscall = syscall_of(task);
	fill_namespaces(&event->namespaces, task);
	event->namespaces.pid = INODE(pid_namespace, READ(upid, ns, upid));
	fill_process(&event->process, task);
	fill_paths(event, task, NAMES_EXE);
	event_programs.call(ctx, 1);
	__sync_fetch_and_add(&host.state->events_full, 1);
	return 0;
}

static void fill_arguments(struct check_event_long *scratch, u64 task)
{
	u64 mm = READ(task_struct, mm, task), start = READ(mm_struct, arg_start, mm);
	u64 len = READ(mm_struct, arg_end, mm) - start;

	if (len > CAP_EVENT_ARGUMENTS)
		len = CAP_EVENT_ARGUMENTS;
	asm volatile("" : "+r"(len));
	if (len && len <= CAP_EVENT_ARGUMENTS &&
	    !bpf_probe_read_user(scratch->arguments, len, (void *)start))
		scratch->arguments_len = len;
}

/* What its parent does; and then it is told. */
int tell_parent(struct pt_regs *ctx)
{
	u64 task = bpf_get_current_task(), parent = READ(task_struct, real_parent, task);
	struct event_key event_key = {};
	struct sample_key kind = {};
	struct check_event_long *scratch;
	struct check_event *event;
	struct sample *sample;
	struct host host;
	int zero = 0;
	long len;

	scratch = event_scratch.lookup(&zero);
	if (!scratch || !get_host(&host))
		return 0;
	event = &scratch->event;
	fill_process(&event->parent, parent);
	fill_paths(event, parent, NAMES_PARENT_EXE);
	if (host.config->events & EVENTS_STACK) {
		len = bpf_get_stack(ctx, event->stack, sizeof(event->stack), 0);
		if (len > 0)
			event->frames = len / sizeof(u64);
	}
	scratch->arguments_len = scratch->pad = 0;
	if (host.config->events & EVENTS_ARGUMENTS)
		fill_arguments(scratch, task);
	event_key.time = event->time;
	event_key.cpu = bpf_get_smp_processor_id();
	if (!check_events.insert(&event_key, scratch)) {
		__sync_fetch_and_add(&host.state->events_sent, 1);
		return 0;
	}
	__sync_fetch_and_add(&host.state->events_full, 1);
	kind.key = event->key;
	kind.executable = executable_number(task);
	sample = samples.lookup(&kind);
	if (sample)
		tell_later(sample, event->suppressed);
	return 0;
}
#endif

/* -- counting ----------------------------------------------------------------------------------*/

static void count_overflow(struct cap_state *state, u64 key, u64 *reason)
{
	__sync_fetch_and_add(&state->overflow[key & (CAP_KEY_KINDS - 1)], 1);
	__sync_fetch_and_add(reason, 1);
}

static void count_check(struct cap_state *state, u64 key)
{
	u64 one = 1, *count = counts_by_key.lookup(&key);

	if (!count) {
		if (!counts_by_key.insert(&key, &one))
			return;
		/* Another CPU was first: without a second look one check would be lost. */
		count = counts_by_key.lookup(&key);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		count_overflow(state, key, &state->overflow_full);
}

static int on_check(void *ctx, struct host *host, struct check *check)
{
	u64 task = bpf_get_current_task(), key, class;

	class = classify(host, task, check);
	key = check->cap & 0x7f;
	if (check->denied)
		key |= CAP_KEY_DENIED;
	/* init_user_ns is the only one of level 0 */
	if (READ32(user_namespace, level, check->target))
		key |= CAP_KEY_OTHER_NS;
	key |= class << CAP_KEY_CLASS_SHIFT;
	key |= cgroup_key(host->config, task);
	if (key >> CAP_KEY_CGROUP_SHIFT == 0) {
		count_overflow(host->state, key, &host->state->overflow_id);
		return 0;
	}
	count_check(host->state, key);
#ifdef EVENTS
	if (class == CLASS_MEANINGFUL &&
	    host->config->events & (check->denied ? EVENTS_DENIED : EVENTS_ALLOWED) &&
	    host->config->event_capabilities >> (check->cap & 63) & 1)
		tell(ctx, host, task, check, key);
#endif
	return 0;
}

/* Since 6.14: sees inlined callers too and runs with preemption disabled until 6.19. */
int checks_raw_tracepoint(struct bpf_raw_tracepoint_args *ctx)
{
	struct check check = {};
	struct host host;

	if (!get_host(&host))
		return 0;
	check.stack = ctx;
	check.cred = ctx->args[0];
	check.target = ctx->args[1];
	check.cap = ctx->args[3];
	check.denied = (int)ctx->args[4] != 0;
	return on_check(ctx, &host, &check);
}

int checks_kprobe(struct pt_regs *ctx)
{
	struct check check = {};
	struct host host;

	if (!get_host(&host))
		return 0;
	check.cred = PT_REGS_PARM1(ctx);
	check.target = PT_REGS_PARM2(ctx);
	check.cap = PT_REGS_PARM3(ctx);
	check.audit_argument = PT_REGS_PARM4(ctx);
	check.held = held_over(check.cred, check.target);
	check.denied = !(check.held >> (check.cap & 63) & 1);
	return on_check(ctx, &host, &check);
}

/* -- what comes and goes -----------------------------------------------------------------------*/

int cgroup_created(struct bpf_raw_tracepoint_args *ctx)
{
	u64 cgroup = ctx->args[0], path = ctx->args[1];
	struct host host;
	int hierarchy;

	if (!get_host(&host))
		return 0;
	hierarchy = hierarchy_of(host.config, cgroup);
	if (hierarchy < 0)
		return 0;
	note_cgroup(host.state, cgroup, hierarchy, true);
	send_cgroup_event(cgroup, path, CGROUP_CREATED);
	return 0;
}

int cgroup_removed(struct bpf_raw_tracepoint_args *ctx)
{
	u64 cgroup = ctx->args[0], key;
	struct host host;
	int hierarchy;

	if (!get_host(&host))
		return 0;
	hierarchy = hierarchy_of(host.config, cgroup);
	if (hierarchy < 0)
		return 0;
	key = scoped(id_of_cgroup(cgroup), hierarchy);
	cgroup_places.delete(&key);
	send_cgroup_event(cgroup, 0, CGROUP_REMOVED);
	return 0;
}

/* On cgroup v1 only. What lies below is not looked at again. */
int cgroup_renamed(struct bpf_raw_tracepoint_args *ctx)
{
	u64 cgroup = ctx->args[0], path = ctx->args[1];
	struct host host;
	int hierarchy;

	if (!get_host(&host))
		return 0;
	hierarchy = hierarchy_of(host.config, cgroup);
	if (hierarchy < 0)
		return 0;
	note_cgroup(host.state, cgroup, hierarchy, false);
	send_cgroup_event(cgroup, path, CGROUP_RENAMED);
	return 0;
}

/* A process was moved, by another one or by itself. */
int task_attached(struct bpf_raw_tracepoint_args *ctx)
{
	u64 to = ctx->args[0], task = ctx->args[2], mover = bpf_get_current_task(), from, parent;
	struct host host;
	bool moved = true;
	int hierarchy;

	if (!get_host(&host))
		return 0;
	hierarchy = hierarchy_of(host.config, to);
	if (hierarchy < 0)
		return 0;
	if (READ32(task_struct, tgid, mover) == READ32(task_struct, tgid, task)) {
		/* It is already there; where it was is not told: see on_attach() in setup.bpf.h. */
		parent = READ(task_struct, real_parent, task);
		if (mount_namespace(parent) != mount_namespace(task))
			return 0;
		mover = parent;
		moved = false;
	}
	from = cgroup_in(READ(task_struct, cgroups, mover), hierarchy);
	entered(host.state, task, mover, id_of_cgroup(from), id_of_cgroup(to), hierarchy, moved);
	return 0;
}

int task_forked(struct bpf_raw_tracepoint_args *ctx)
{
	u64 parent = ctx->args[0], child = ctx->args[1];
	u64 from = READ(task_struct, cgroups, parent), to = READ(task_struct, cgroups, child);
	u32 parent_tgid, child_tgid, *mark;
	u64 old, new;
	struct host host;

	if (!get_host(&host))
		return 0;
	/* CLONE_INTO_CGROUP moves without cgroup_attach_task; it exists on cgroup v2 only. */
	if (from != to) {
		old = id_of_cgroup(cgroup_in(from, HIERARCHY_V2));
		new = id_of_cgroup(cgroup_in(to, HIERARCHY_V2));
		if (old != new)
			entered(host.state, child, parent, old, new, HIERARCHY_V2, false);
	}
	if (!host.state->setup_tasks)
		return 0;
	parent_tgid = READ32(task_struct, tgid, parent);
	child_tgid = READ32(task_struct, tgid, child);
	if (parent_tgid == child_tgid)
		return 0; /* a thread */
	mark = marks.lookup(&parent_tgid);
	if (mark && *mark != MARK_DONE)
		set_mark(host.state, child_tgid, *mark);
	return 0;
}

int task_executed(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct host host;
	u32 tgid, *mark;

	if (!get_host(&host) || !host.state->setup_tasks)
		return 0;
	tgid = READ32(task_struct, tgid, task);
	mark = marks.lookup(&tgid);
	if (!mark || *mark == MARK_DONE)
		return 0;
	if (*mark == MARK_UNIT ? is_executor(task) : executable_is_foreign(task))
		return 0;
	*mark = MARK_DONE;
	__sync_fetch_and_add(&host.state->setup_tasks, -1);
	return 0;
}

/* A process's first thread is freed last: see on_free() in setup.bpf.h. */
int task_freed(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	u32 tgid = READ32(task_struct, tgid, task), *mark;
	struct host host;
	bool counted;

	if (READ32(task_struct, pid, task) != tgid)
		return 0;
	mark = marks.lookup(&tgid);
	if (!mark)
		return 0;
	counted = *mark != MARK_DONE;
	if (!marks.delete(&tgid) && counted && get_host(&host))
		__sync_fetch_and_add(&host.state->setup_tasks, -1);
	return 0;
}

/* -- measured at start -------------------------------------------------------------------------*/

static struct calibration *wanted(struct cap_config *config)
{
	int zero = 0;

	if ((u32)bpf_get_current_pid_tgid() != config->calibrate_tid)
		return 0;
	return calibrations.lookup(&zero);
}

/* cap_capable: where the return addresses lie above the context. */
int calibrate(struct bpf_raw_tracepoint_args *ctx)
{
	struct calibration *seen;
	struct host host;

	/* the process asks for a raw socket to be seen here */
	if ((int)ctx->args[3] != NR_NET_RAW || !get_host(&host))
		return 0;
	seen = wanted(host.config);
	if (!seen)
		return 0;
	bpf_probe_read_kernel(seen->words, sizeof(seen->words), ctx);
	seen->frames_len = bpf_get_stack(ctx, seen->frames, sizeof(seen->frames), 0);
	__sync_fetch_and_add(&seen->hits, 1);
	return 0;
}

/* With two programs on the tracepoint the kernel calls them through one more function. */
int calibrate_company(struct bpf_raw_tracepoint_args *ctx)
{
	return 0;
}

/*
 * sched_process_fork: what the members of the process's own task hold, whose values it knows; and
 * the words above its executable's struct vfsmount, one of which is its mount namespace. Order:
 * OwnTask in cap_exporter/sources/bcc_loader.py.
 */
int look_at_self(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0], cred;
	struct calibration *seen;
	struct host host;

	if (!get_host(&host))
		return 0;
	seen = wanted(host.config);
	if (!seen)
		return 0;
	cred = READ(task_struct, cred, task);
	seen->frames[0] = READ32(task_struct, tgid, task);
	seen->frames[1] = READ32(cred, euid, cred);
	seen->frames[2] = READ(cred, cap_effective, cred);
	seen->frames[3] = cgroup_key(host.config, task);
	seen->frames[4] = mount_namespace(task);
	bpf_probe_read_kernel(&seen->frames[5], 7 * sizeof(u64), (void *)mount_namespace(task));
	bpf_probe_read_kernel(seen->words, sizeof(seen->words), (void *)executable_mount(task));
	__sync_fetch_and_add(&seen->hits, 1);
	return 0;
}
