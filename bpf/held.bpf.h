/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What processes hold: their capability sets, told at the entrypoint's start and when asked. */
#ifndef __HELD_BPF_H__
#define __HELD_BPF_H__

#include "setup.bpf.h"

/* include/linux/sched.h, 6.18: PFA_NO_NEW_PRIVS */
#define NO_NEW_PRIVS_BIT 0

/* kernel_cap_t is u32[2] or u64 by version: the same eight bytes. */
#define CAP_SET(cred, field)                                                                       \
	({                                                                                         \
		__u64 __set = 0;                                                                   \
		bpf_probe_read_kernel(&__set, sizeof(__set), &(cred)->field);                      \
		__set;                                                                             \
	})

static __always_inline void fill_held(struct held *held, struct task_struct *task)
{
	const struct cred *cred = BPF_CORE_READ(task, real_cred);

	held->cgroup = cgroup_key(false, task);
	held->bounding = CAP_SET(cred, cap_bset);
	held->permitted = CAP_SET(cred, cap_permitted);
	held->effective = CAP_SET(cred, cap_effective);
	held->ambient = CAP_SET(cred, cap_ambient);
	held->inheritable = CAP_SET(cred, cap_inheritable);
	held->tgid = BPF_CORE_READ(task, tgid);
	held->uid = BPF_CORE_READ(cred, uid.val);
	held->flags = 0;
	if (BPF_CORE_READ(task, atomic_flags) >> NO_NEW_PRIVS_BIT & 1)
		held->flags |= HELD_NO_NEW_PRIVS;
	if (!BPF_CORE_READ(cred, user_ns, level))
		held->flags |= HELD_HOST_USER_NS;
	held->pad = 0;
}

/*
 * The entrypoint has begun: what it was given is known now, however short it lives. @task is the
 * current one; its new credentials are in place (fs/exec.c, 6.18: begin_new_exec() comes before
 * the tracepoint).
 */
static __noinline int tell_entered(struct task_struct *task)
{
	struct cgroup_event_entered *event;

	event = bpf_ringbuf_reserve(&cgroup_events, sizeof(*event), 0);
	if (!event)
		return 0; /* the next reading of all tasks makes up for it, if it lives */
	fill_held(&event->held, task);
	event->head.id = 0; /* held.cgroup says it */
	event->head.hierarchy = -1;
	event->head.change = CGROUP_ENTERED;
	event->head.path_len = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* A thread that has its process's credentials tells nothing new. */
static __always_inline bool has_leaders_credentials(struct task_struct *task)
{
	return BPF_CORE_READ(task, pid) != BPF_CORE_READ(task, tgid) &&
	       BPF_CORE_READ(task, real_cred) == BPF_CORE_READ(task, group_leader, real_cred);
}

#endif /* __HELD_BPF_H__ */
