// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Counts every capability check of the kernel by cgroup, capability, verdict, user namespace and
 * class. Three ways to attach, each in a variant per way to count; the process loads the first
 * that the kernel takes. Exactness of each: docs/kernels.md.
 */
#include "common.bpf.h"
#include "counters.bpf.h"
#include "cgroups.bpf.h"
#include "setup.bpf.h"
#include "held.bpf.h"
#include "classify.bpf.h"
#include "events.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* One program measures the stack at start, a second is there to be there (see calibrate()). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct calibration);
} calibration SEC(".maps");

struct check {
	void *ctx;
	void *stack; /* the tracepoint's context, or NULL where the hook tells the audit class */
	const struct cred *cred;
	struct user_namespace *target;
	__u64 audit_argument;
	int cap;
	int syscall;
	bool denied;
};

/*
 * The current task as the pointer that bpf_task_pt_regs() wants (5.15), or NULL. Kernels for
 * which the counters are by key may be older than asking for it.
 */
static __always_inline struct task_struct *task_with_registers(bool direct, bool table,
							       struct task_struct *task)
{
	if (direct)
		return task;
	if (table && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return bpf_get_current_task_btf();
	return 0;
}

static __always_inline enum check_class classify(bool direct, bool table, struct task_struct *task,
						 const struct check *check)
{
	const struct cred *subjective = FIELD(direct, task, cred);
	enum audit audit = AUDIT_YES;
	struct task_struct *typed;
	int second;

	if (in_setup(task, FIELD(direct, task, tgid)))
		return CLASS_SETUP;
	if (check->cred != subjective)
		return CLASS_OTHER;
	if (subjective != FIELD(direct, task, real_cred))
		return CLASS_OVERRIDE;
	if (!check->stack)
		audit = audit_from_argument(check->audit_argument);
	else if (config.ambiguous >> (check->cap & 63) & 1)
		audit = audit_from_stack(check->stack);
	if (audit == AUDIT_NO)
		return CLASS_NOAUDIT;
	if (check->denied) {
		second = way_round(check->cap);
		if (second >= 0 &&
		    holds(address_of(check->cred), address_of(check->target), second))
			return CLASS_ALTERNATIVE;
		typed = task_with_registers(direct, table, task);
		if (typed && sets_own_id(typed, check->cred, check->cap) &&
		    !FIELD(direct, check->target, level))
			return CLASS_ALTERNATIVE;
	}
	return audit == AUDIT_UNKNOWN ? CLASS_UNCLASSIFIED : CLASS_MEANINGFUL;
}

static __always_inline int syscall_of(bool direct, bool table, struct task_struct *current_task)
{
	struct task_struct *task = task_with_registers(direct, table, current_task);
#if defined(__TARGET_ARCH_arm64)
	struct pt_regs___syscall *regs;
#else
	struct pt_regs *regs;
#endif

	if (!task)
		return -1;
	regs = (void *)bpf_task_pt_regs(task);
#if defined(__TARGET_ARCH_arm64)
	return BPF_CORE_READ(regs, syscallno);
#else
	return BPF_CORE_READ(regs, orig_ax);
#endif
}

/*
 * One more check of a kind: an event, if it is time for one. @pending: equal checks that were
 * passed over on the quick way.
 */
static __noinline int tell(void *ctx, struct task_struct *task, const struct check *check,
			   const struct sample_key *kind, __u64 pending)
{
	__u64 now = bpf_ktime_get_boot_ns(), key = kind->key, suppressed = 0;
	struct sample first = { .last = now }, *sample;
	struct user_namespace *target = check->target;
	const struct cred *cred = check->cred;
	struct task_struct *parent;
	struct check_event_long *scratch;
	struct check_event *event;
	struct upid *numbers;
	struct pid *pid;
	__u32 level, zero = 0;
	long len, size = sizeof(*event);

	sample = bpf_map_lookup_elem(&samples, kind);
	if (!sample) {
		if (bpf_map_update_elem(&samples, kind, &first, BPF_NOEXIST))
			return 0; /* another CPU was first: it tells */
		sample = bpf_map_lookup_elem(&samples, kind);
		if (!sample)
			return 0;
	} else if (now - sample->last < config.event_interval) {
		__sync_fetch_and_add(&sample->suppressed, pending + 1);
		return 0;
	} else {
		/* Two CPUs may get here at once: one event more, none less. */
		sample->last = now;
		suppressed = sample->suppressed;
		__sync_fetch_and_add(&sample->suppressed, -suppressed);
	}
	suppressed += pending;
	if (!take_token(key >> CAP_KEY_HIERARCHY_SHIFT, now)) {
		__sync_fetch_and_add(&state.events_limited, 1);
		goto later;
	}
	scratch = bpf_map_lookup_elem(&event_scratch, &zero);
	if (!scratch)
		goto later;
	event = &scratch->event;
	event->time = now;
	event->key = key;
	event->suppressed = suppressed;
	event->effective = event->permitted = event->bounding = 0;
	bpf_probe_read_kernel(&event->effective, sizeof(__u64), &cred->cap_effective);
	bpf_probe_read_kernel(&event->permitted, sizeof(__u64), &cred->cap_permitted);
	bpf_probe_read_kernel(&event->bounding, sizeof(__u64), &cred->cap_bset);
	event->tid = BPF_CORE_READ(task, pid);
	pid = BPF_CORE_READ(task, group_leader, thread_pid);
	numbers = (void *)pid + bpf_core_field_offset(struct pid, numbers);
	level = BPF_CORE_READ(pid, level);
	numbers = (void *)numbers + level * bpf_core_type_size(struct upid);
	event->pid_in_container = BPF_CORE_READ(numbers, nr);
	event->gid = BPF_CORE_READ(cred, gid.val);
	event->auid = -1;
	if (bpf_core_field_exists(task->loginuid))
		event->auid = BPF_CORE_READ(task, loginuid.val);
	event->ret = check->denied ? -1 : 0;
	event->syscall = check->syscall;
	event->target_level = BPF_CORE_READ(target, level);
	event->target_inode = BPF_CORE_READ(target, ns.inum);
	event->target_uid = BPF_CORE_READ(target, owner.val);
	event->target_gid = BPF_CORE_READ(target, group.val);
	event->opts = check->audit_argument;
	event->has_opts = !check->stack && config.audit_argument == 1;
	event->pad = 0;
	fill_namespaces(&event->namespaces, task, cred);
	fill_process(event, &event->process, task, NAMES_EXE);
	parent = BPF_CORE_READ(task, real_parent);
	fill_process(event, &event->parent, parent, NAMES_PARENT_EXE);
	event->frames = 0;
	if (config.events & EVENTS_STACK) {
		len = bpf_get_stack(ctx, event->stack, sizeof(event->stack), 0);
		if (len > 0)
			event->frames = len / sizeof(__u64);
	}
	if (config.events & EVENTS_ARGUMENTS) {
		fill_arguments(scratch, task);
		size = sizeof(*scratch);
	}
	if (!bpf_ringbuf_output(&check_events, scratch, size, 0)) {
		__sync_fetch_and_add(&state.events_sent, 1);
		return 0;
	}
	__sync_fetch_and_add(&state.events_full, 1);
later:
	/* The next one tries again, and says that it stands for this one too. */
	__sync_fetch_and_add(&sample->suppressed, suppressed + 1);
	sample->last = 0;
	return 0;
}

static __always_inline void maybe_tell(bool direct, bool table, struct task_struct *task,
				       struct check *check, __u64 key)
{
	struct sample_key kind = { .key = key, .executable = executable_number(direct, task) };
	__u64 pending = 0;

	if (table && config.event_ticks && was_told(&kind, &pending))
		return;
	check->syscall = syscall_of(direct, table, task);
	tell(check->ctx, task, check, &kind, pending);
}

static __always_inline int on_check(bool direct, bool table, struct check *check)
{
	struct task_struct *task;
	__u64 key, class;

	if (direct)
		task = bpf_get_current_task_btf();
	else
		task = (void *)bpf_get_current_task();

	class = classify(direct, table, task, check);
	key = check->cap & 0x7f;
	if (check->denied)
		key |= CAP_KEY_DENIED;
	/* init_user_ns is the only one of level 0 */
	if (FIELD(direct, check->target, level))
		key |= CAP_KEY_OTHER_NS;
	key |= class << CAP_KEY_CLASS_SHIFT;
	key |= cgroup_key(direct, task);
	if (key >> CAP_KEY_CGROUP_SHIFT == 0) {
		count_overflow(key, &state.overflow_id);
		return 0;
	}
	if (table)
		count_in_table(key);
	else
		count_by_key(key);
	if (class == CLASS_MEANINGFUL &&
	    config.events & (check->denied ? EVENTS_DENIED : EVENTS_ALLOWED) &&
	    config.event_capabilities >> (check->cap & 63) & 1)
		maybe_tell(direct, table, task, check, key);
	return 0;
}

/* Since 6.14: sees inlined callers too and runs with preemption disabled until 6.19. */
SEC("tp_btf/cap_capable")
int BPF_PROG(checks_tp_btf, const struct cred *cred, struct user_namespace *target,
	     const struct user_namespace *capable_ns, int cap, int ret)
{
	struct check check = {
		.ctx = ctx,
		.stack = ctx,
		.cred = cred,
		.target = target,
		.cap = cap,
		.denied = ret != 0,
	};

	return on_check(true, true, &check);
}

SEC("fexit/cap_capable")
int BPF_PROG(checks_fexit, const struct cred *cred, struct user_namespace *target, int cap,
	     unsigned int opts, int ret)
{
	struct check check = {
		.ctx = ctx,
		.cred = cred,
		.target = target,
		.audit_argument = opts,
		.cap = cap,
		.denied = ret != 0,
	};

	return on_check(true, true, &check);
}

/* The same for kernels before 5.12. */
SEC("fexit/cap_capable")
int BPF_PROG(checks_fexit_by_key, const struct cred *cred, struct user_namespace *target, int cap,
	     unsigned int opts, int ret)
{
	struct check check = {
		.ctx = ctx,
		.cred = cred,
		.target = target,
		.audit_argument = opts,
		.cap = cap,
		.denied = ret != 0,
	};

	return on_check(false, false, &check);
}

static __always_inline int on_kprobe(bool table, struct pt_regs *regs)
{
	struct check check = {
		.ctx = regs,
		.cred = (void *)PT_REGS_PARM1(regs),
		.target = (void *)PT_REGS_PARM2(regs),
		.cap = (int)PT_REGS_PARM3(regs),
		.audit_argument = (__u32)PT_REGS_PARM4(regs),
	};

	check.denied = !holds((__u64)check.cred, (__u64)check.target, check.cap);
	return on_check(false, table, &check);
}

SEC("kprobe/cap_capable")
int checks_kprobe(struct pt_regs *regs)
{
	return on_kprobe(true, regs);
}

SEC("kprobe/cap_capable")
int checks_kprobe_by_key(struct pt_regs *regs)
{
	return on_kprobe(false, regs);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_created, struct cgroup *cgroup, const char *path)
{
	struct cgroup_note note = {};
	int hierarchy = hierarchy_of(cgroup);
	__u64 key;

	if (hierarchy < 0)
		return 0;
	if (config.v1_pids || config.v1_memory) {
		key = scoped(cgroup_id(false, cgroup), hierarchy);
		note.created = bpf_ktime_get_ns();
		note.rank = container_root((__u64)BPF_CORE_READ(cgroup, kn)) ? RANK_CONTAINER :
									     RANK_NAMED;
		bpf_map_update_elem(&cgroup_notes, &key, &note, BPF_ANY);
		__sync_fetch_and_add(&state.epoch, 1);
	}
	send_cgroup_event(cgroup, path, CGROUP_CREATED);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_removed, struct cgroup *cgroup, const char *path)
{
	int hierarchy = hierarchy_of(cgroup);
	__u64 key;

	if (hierarchy < 0)
		return 0;
	if (config.v1_pids || config.v1_memory) {
		key = scoped(cgroup_id(false, cgroup), hierarchy);
		bpf_map_delete_elem(&cgroup_notes, &key);
		__sync_fetch_and_add(&state.epoch, 1);
	}
	send_cgroup_event(cgroup, path, CGROUP_REMOVED);
	return 0;
}

SEC("tp_btf/cgroup_rename")
int BPF_PROG(cgroup_renamed, struct cgroup *cgroup, const char *path)
{
	if (hierarchy_of(cgroup) >= 0)
		send_cgroup_event(cgroup, path, CGROUP_RENAMED);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(task_attached, struct cgroup *cgroup, const char *path, struct task_struct *task,
	     bool threadgroup)
{
	__sync_fetch_and_add(&state.epoch, 1);
	on_attach(task, cgroup);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(task_forked, struct task_struct *parent, struct task_struct *child)
{
	on_fork(parent, child);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(task_executed, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	if (on_exec(task))
		tell_entered(task);
	return 0;
}

SEC("tp_btf/sched_process_free")
int BPF_PROG(task_freed, struct task_struct *task)
{
	on_free(task);
	return 0;
}

/* Since 5.8. Reading it gives a struct held of every process, workloads' only. */
SEC("iter/task")
int held_by_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct held held;

	/* Kernel threads and zombies have no memory. */
	if (!task || !BPF_CORE_READ(task, mm) || has_leaders_credentials(task) ||
	    in_setup(task, BPF_CORE_READ(task, tgid)))
		return 0;
	fill_held(&held, task);
	bpf_seq_write(ctx->meta->seq, &held, sizeof(held));
	return 0;
}

static __always_inline struct calibration *measure(void *ctx)
{
	__u32 zero = 0, tid = (__u32)bpf_get_current_pid_tgid();
	struct calibration *c;

	if (tid != config.calibrate_tid)
		return 0;
	c = bpf_map_lookup_elem(&calibration, &zero);
	if (!c)
		return 0;
	bpf_probe_read_kernel(c->words, sizeof(c->words), ctx);
	c->frames_len = bpf_get_stack(ctx, c->frames, sizeof(c->frames), 0);
	__sync_fetch_and_add(&c->hits, 1);
	return c;
}

SEC("tp_btf/cap_capable")
int BPF_PROG(calibrate, const struct cred *cred, struct user_namespace *target,
	     const struct user_namespace *capable_ns, int cap, int ret)
{
	/* CAP_NET_RAW: the process asks for a raw socket to be seen here */
	if (cap == 13)
		measure(ctx);
	return 0;
}

/* With two programs on the tracepoint the kernel calls them through one more function. */
SEC("tp_btf/cap_capable")
int BPF_PROG(calibrate_company, const struct cred *cred)
{
	return 0;
}

/* Which preemption the kernel runs with decides whether fexit loses checks. Run once, by hand. */
SEC("raw_tp/sched_process_exec")
int read_preempt_mode(void *ctx)
{
	__u32 zero = 0;
	struct calibration *c = bpf_map_lookup_elem(&calibration, &zero);
	int mode;

	if (!c || !config.preempt_mode_address)
		return 0;
	if (!bpf_probe_read_kernel(&mode, sizeof(mode), (void *)config.preempt_mode_address)) {
		c->preempt_mode = mode;
		__sync_fetch_and_add(&c->hits, 1);
	}
	return 0;
}
