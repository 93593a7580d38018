/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The phase of a process: is it a container runtime (or systemd's executor) that prepares a
 * container from inside the container's cgroup, or is it the workload?
 *
 * Decided from how the process came in and what file it executes, never from a name it can
 * choose. A process that enters a cgroup from outside the container is remembered ("marked"),
 * its children with it, until it executes a file of its own mount namespace: the entrypoint.
 * What is born inside, or moves within, is never marked, so it can't hide in the set-up.
 */
#ifndef __SETUP_BPF_H__
#define __SETUP_BPF_H__

#include "cgroups.bpf.h"

enum mark_kind {
	MARK_RUNTIME = 1, /* in set-up as long as its executable is from elsewhere */
	MARK_UNIT = 2,	  /* systemd, or its executor: in set-up until it executes the service */
	MARK_DONE = 3,	  /* came from outside, executed the workload: never marked again */
	MARK_INIT = 4,	  /* a runtime's own: in set-up until it executes a file of the container's */
};

/* Processes that entered from outside, by tgid. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u32);
} marks SEC(".maps");

static __always_inline struct mnt_namespace *mount_namespace(struct task_struct *task)
{
	return BPF_CORE_READ(task, nsproxy, mnt_ns);
}

/*
 * Is the task's executable from another mount namespace than its own? runc executes a sealed
 * copy of itself that has none (a memfd, or a detached mount); crun and others a file of the
 * host's. fs/mount.h, 6.18: struct vfsmount is part of struct mount, which knows its namespace.
 */
static __noinline bool executable_is_foreign(struct task_struct *task)
{
	struct mnt_namespace *own = mount_namespace(task), *its;
	struct vfsmount *mnt = BPF_CORE_READ(task, mm, exe_file, f_path.mnt);
	struct mount *mount;

	/* Exiting: neither is left. What was set-up ends as set-up. */
	if (!own || !mnt)
		return true;
	mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	its = BPF_CORE_READ(mount, mnt_ns);
	return its != own;
}

static __always_inline __u64 executable(struct task_struct *task)
{
	return (__u64)BPF_CORE_READ(task, mm, exe_file, f_inode);
}

static __always_inline bool in_setup(struct task_struct *task, __u32 tgid)
{
	__u32 *mark;

	if (!state.setup_tasks)
		return false;
	mark = bpf_map_lookup_elem(&marks, &tgid);
	if (!mark || *mark == MARK_DONE)
		return false;
	return *mark != MARK_RUNTIME || executable_is_foreign(task);
}

static __always_inline void set_mark(__u32 tgid, __u32 kind)
{
	long err = bpf_map_update_elem(&marks, &tgid, &kind, BPF_NOEXIST);

	if (!err)
		__sync_fetch_and_add(&state.setup_tasks, 1);
	else if (err != -EEXIST)
		__sync_fetch_and_add(&state.marks_lost, 1);
}

/* Process 1 is the manager whose children set units up; a user's manager runs the same file. */
static __always_inline bool is_manager(struct task_struct *task)
{
	__u64 exe = executable(task);

	if (BPF_CORE_READ(task, tgid) == 1) {
		state.init_exe = exe;
		return true;
	}
	return exe && exe == state.init_exe;
}

static __always_inline bool runs_same_file(struct task_struct *task, struct task_struct *mover)
{
	return executable(task) && executable(task) == executable(mover);
}

/* @mover, which is in cgroup @from, put @task into cgroup @to. */
static __always_inline bool from_outside(struct kernfs_node *from, struct kernfs_node *to)
{
	__u64 root = container_root((__u64)to);
	__u64 top;

	if (root)
		return !is_within((__u64)from, root);
	/* No container: then what the two have in common, the hierarchy's root apart, decides. */
	top = topmost((__u64)from);
	return !top || top != topmost((__u64)to);
}

static __always_inline void entered(struct task_struct *task, struct task_struct *mover,
				    struct kernfs_node *from, struct kernfs_node *to, bool moved)
{
	bool unit = is_manager(task) && is_manager(mover);
	__u32 kind = MARK_RUNTIME;

	if (!kernfs_parent(to))
		return; /* the root cgroup is nobody's */
	if (!unit && !from_outside(from, to))
		return;
	if (unit)
		kind = MARK_UNIT;
	/*
	 * runc puts its `runc init` there while that still runs the host's file in the host's
	 * mount namespace: nothing foreign yet.
	 */
	else if (moved && runs_same_file(task, mover) && container_root((__u64)to))
		kind = MARK_INIT;
	set_mark(BPF_CORE_READ(task, tgid), kind);
}

/* A process was moved, by another one or by itself. */
static __always_inline void on_attach(struct task_struct *task, struct cgroup *to)
{
	struct task_struct *mover = (void *)bpf_get_current_task();
	int hierarchy = hierarchy_of(to);
	struct task_struct *parent;
	struct cgroup *from;
	bool moved = true;

	if (hierarchy < 0)
		return;
	if (BPF_CORE_READ(mover, tgid) == BPF_CORE_READ(task, tgid)) {
		/*
		 * It moved itself and is already there; where it was is not told. Its parent
		 * is where it was born, unless that one is gone: then it was given to another
		 * parent, and a container's orphan to one outside. A container's process has
		 * another mount namespace than any process outside.
		 */
		parent = BPF_CORE_READ(task, real_parent);
		if (mount_namespace(parent) != mount_namespace(task))
			return;
		mover = parent;
		moved = false;
	}
	from = cgroup_in(false, BPF_CORE_READ(mover, cgroups), hierarchy);
	entered(task, mover, BPF_CORE_READ(from, kn), BPF_CORE_READ(to, kn), moved);
}

static __always_inline void on_fork(struct task_struct *parent, struct task_struct *child)
{
	struct css_set *from = BPF_CORE_READ(parent, cgroups);
	struct css_set *to = BPF_CORE_READ(child, cgroups);
	__u32 parent_tgid, child_tgid;
	struct kernfs_node *old, *new;
	__u32 *mark;

	/* CLONE_INTO_CGROUP moves without cgroup_attach_task; it exists on cgroup v2 only. */
	if (from != to) {
		__sync_fetch_and_add(&state.epoch, 1);
		old = BPF_CORE_READ(from, dfl_cgrp, kn);
		new = BPF_CORE_READ(to, dfl_cgrp, kn);
		if (old != new)
			entered(child, parent, old, new, false);
	}
	if (!state.setup_tasks)
		return;
	parent_tgid = BPF_CORE_READ(parent, tgid);
	child_tgid = BPF_CORE_READ(child, tgid);
	if (parent_tgid == child_tgid)
		return; /* a thread */
	mark = bpf_map_lookup_elem(&marks, &parent_tgid);
	if (mark && *mark != MARK_DONE)
		set_mark(child_tgid, *mark);
}

/* systemd >= 255 executes this first in the unit's cgroup; it sets the unit up in its stead. */
static __always_inline bool is_executor(struct task_struct *task)
{
	static const char executor[] = "systemd-executor";
	char name[sizeof(executor)] = {};
	int i;

	bpf_probe_read_kernel_str(name, sizeof(name),
				  BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name));
#pragma unroll
	for (i = 0; i < (int)sizeof(executor); i++)
		if (name[i] != executor[i])
			return false;
	return true;
}

/* True where the task was in set-up until now. */
static __always_inline bool on_exec(struct task_struct *task)
{
	__u32 tgid, done = MARK_DONE;
	__u32 *mark;

	if (!state.setup_tasks)
		return false;
	tgid = BPF_CORE_READ(task, tgid);
	mark = bpf_map_lookup_elem(&marks, &tgid);
	if (!mark || *mark == MARK_DONE)
		return false;
	if (*mark == MARK_UNIT ? is_executor(task) : executable_is_foreign(task))
		return false;
	if (bpf_map_update_elem(&marks, &tgid, &done, BPF_EXIST))
		return false;
	__sync_fetch_and_add(&state.setup_tasks, -1);
	return true;
}

/*
 * Not at its exit: what it makes of checks after that, as it lets go of files and namespaces, is
 * still set-up. A process's first thread is freed last.
 */
static __always_inline void on_free(struct task_struct *task)
{
	__u32 tgid = BPF_CORE_READ(task, tgid);
	bool counted;
	__u32 *mark;

	if ((__u32)BPF_CORE_READ(task, pid) != tgid)
		return;
	mark = bpf_map_lookup_elem(&marks, &tgid);
	if (!mark)
		return;
	counted = *mark != MARK_DONE;
	if (!bpf_map_delete_elem(&marks, &tgid) && counted)
		__sync_fetch_and_add(&state.setup_tasks, -1);
}

#endif /* __SETUP_BPF_H__ */
