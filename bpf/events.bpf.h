/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Sampled events: who asked, and from where. The first check of a kind is always sent, then at
 * most one per interval, with the number of equal ones since; kinds are told apart by cgroup,
 * executable, capability, verdict and user namespace. A token bucket per cgroup keeps one
 * container from crowding the others out of the ring. All is collected here, since a short
 * process is gone when the reader looks.
 */
#ifndef __EVENTS_BPF_H__
#define __EVENTS_BPF_H__

#include "cgroups.bpf.h"
#include "classify.bpf.h"
#include "sampling.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024); /* set before loading */
} check_events SEC(".maps");

/* Least recently used: what is evicted is merely told once more. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct sample_key);
	__type(value, struct sample);
} samples SEC(".maps");

/*
 * What was looked up a moment ago: a flood of equal checks costs one compare and one add each.
 * An entry holds for one tick; its kind is kept so that what it has suppressed can be handed on.
 */
struct recent {
	__u64 check; /* a mix of kind and tick */
	struct sample_key kind;
	__u64 suppressed;
};

#define RECENT 512
struct recent recent[RECENT] SEC(".bss.recent");

static __always_inline __u64 mix_kind(const struct sample_key *kind)
{
	__u64 sum = (kind->key * 0x9e3779b97f4a7c15ULL ^ kind->executable) * 0xbf58476d1ce4e5b9ULL;

	sum = (sum ^ sum >> 31) * 0x94d049bb133111ebULL;
	return sum ^ sum >> 29;
}

/*
 * Is this check one more of a kind that was told in this tick? Else its entry is taken for it, and
 * *pending is what the entry had suppressed of the same kind. Needs atomic operations that give
 * the old value (5.12).
 */
static __always_inline bool was_told(const struct sample_key *kind, __u64 *pending)
{
	__u64 hash = mix_kind(kind), check = (hash + state.event_tick) | 1, left;
	struct recent *entry = &recent[hash >> 32 & (RECENT - 1)];
	struct sample *other;

	if (entry->check == check) {
		__sync_fetch_and_add(&entry->suppressed, 1);
		return true;
	}
	left = __sync_lock_test_and_set(&entry->suppressed, 0);
	if (entry->kind.key == kind->key && entry->kind.executable == kind->executable) {
		*pending = left;
	} else {
		struct sample_key old = entry->kind;

		other = left ? bpf_map_lookup_elem(&samples, &old) : 0;
		if (other)
			__sync_fetch_and_add(&other->suppressed, left);
		entry->kind = *kind;
	}
	entry->check = check;
	return false;
}

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct tokens);
} event_tokens SEC(".maps");

static __always_inline bool take_token(__u64 cgroup, __u64 now)
{
	struct tokens *bucket = bpf_map_lookup_elem(&event_tokens, &cgroup);
	struct tokens full = { .left = config.event_burst, .refilled = now };
	__u64 due;

	if (!bucket) {
		bpf_map_update_elem(&event_tokens, &cgroup, &full, BPF_NOEXIST);
		bucket = bpf_map_lookup_elem(&event_tokens, &cgroup);
		if (!bucket)
			return true;
	}
	due = config.event_refill ? (now - bucket->refilled) / config.event_refill : 0;
	if (due) {
		/* Two CPUs may both refill: some more events than meant, never fewer. */
		bucket->refilled = now;
		bucket->left = bucket->left + due > config.event_burst ? config.event_burst :
									  bucket->left + due;
	}
	if (!bucket->left)
		return false;
	__sync_fetch_and_add(&bucket->left, -1);
	return true;
}

/* Which file a process executes, as a number; 0 for none. */
static __always_inline __u64 executable_number(bool direct, struct task_struct *task)
{
	__u64 ino, dev;

	if (direct) {
		ino = task->mm->exe_file->f_inode->i_ino;
		dev = task->mm->exe_file->f_inode->i_sb->s_dev;
	} else {
		ino = BPF_CORE_READ(task, mm, exe_file, f_inode, i_ino);
		dev = BPF_CORE_READ(task, mm, exe_file, f_inode, i_sb, s_dev);
	}
	return ino ^ dev << 40;
}

#define PATH_DEPTH 32

/* Where an event is put together: it is too big for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct check_event_long);
} event_scratch SEC(".maps");

/*
 * The names from a file (its dentry and mount) up to the process's root, into the scratch event:
 * bpf_d_path() is not for these programs. Returns the bytes written. Global and with numbers only,
 * so that the verifier looks at it once.
 */
__noinline int path_names(__u64 at_dentry, __u64 at_mnt, __u64 root_dentry, __u64 root_mnt,
			  __u32 which)
{
	struct dentry *dentry = (void *)at_dentry, *parent;
	struct vfsmount *vfs = (void *)at_mnt;
	struct mount *mount, *above;
	struct check_event *event;
	__u32 zero = 0, at = 0;
	bool done = false;
	long len;
	int i;

	event = bpf_map_lookup_elem(&event_scratch, &zero); /* the long one begins with it */
	if (!event)
		return 0;
	which &= EVENT_NAMES - 1;
	/*
	 * One way through the body and one back: 6.1 and older take a loop only if it goes back by
	 * a jump, not where it falls through (kernel/bpf/verifier.c: check_cfg()).
	 */
	for (i = 0; i < PATH_DEPTH && !done; i++) {
		parent = BPF_CORE_READ(dentry, d_parent);
		if ((__u64)dentry == root_dentry && (__u64)vfs == root_mnt) {
			done = true;
		} else if (dentry == BPF_CORE_READ(vfs, mnt_root) || dentry == parent) {
			/* The top of a mount: on from where it is mounted. */
			mount = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
			above = BPF_CORE_READ(mount, mnt_parent);
			done = above == mount;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			vfs = (void *)above + bpf_core_field_offset(struct mount, mnt);
		} else if (at > CAP_EVENT_PATH - CAP_EVENT_NAME) {
			done = true;
		} else {
			barrier_var(at); /* or clang drops the mask, which the verifier wants */
			at &= CAP_EVENT_PATH - 1;
			len = bpf_probe_read_kernel_str(&event->names[which][at], CAP_EVENT_NAME,
							BPF_CORE_READ(dentry, d_name.name));
			if (len > 0)
				at += len & (CAP_EVENT_NAME * 2 - 1);
			else
				done = true;
			dentry = parent;
		}
	}
	return at;
}

static __always_inline __u64 start_of(struct task_struct *task)
{
	struct task_struct___old *old = (void *)task;

	if (bpf_core_field_exists(task->start_boottime))
		return BPF_CORE_READ(task, start_boottime);
	return BPF_CORE_READ(old, real_start_time);
}

static __always_inline void fill_process(struct check_event *event, struct event_process *p,
					 struct task_struct *task, __u32 names)
{
	struct path root = BPF_CORE_READ(task, fs, root), cwd = BPF_CORE_READ(task, fs, pwd);
	struct path exe = BPF_CORE_READ(task, mm, exe_file, f_path);
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	p->start = start_of(leader);
	p->pid = BPF_CORE_READ(task, tgid);
	p->uid = BPF_CORE_READ(task, cred, uid.val);
	BPF_CORE_READ_STR_INTO(&p->comm, task, comm);
	event->names_len[names] = path_names((__u64)exe.dentry, (__u64)exe.mnt,
					     (__u64)root.dentry, (__u64)root.mnt, names);
	event->names_len[names + 1] = path_names((__u64)cwd.dentry, (__u64)cwd.mnt,
						 (__u64)root.dentry, (__u64)root.mnt, names + 1);
}

/*
 * The command line, which lies in the process's own memory: unreadable where that is paged out.
 * /proc/PID/cmdline shows the same (fs/proc/base.c: get_mm_cmdline()).
 */
static __always_inline void fill_arguments(struct check_event_long *scratch,
					   struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	unsigned long start = BPF_CORE_READ(mm, arg_start);
	unsigned long len = BPF_CORE_READ(mm, arg_end) - start;

	scratch->arguments_len = scratch->pad = 0;
	if (len > CAP_EVENT_ARGUMENTS)
		len = CAP_EVENT_ARGUMENTS;
	barrier_var(len); /* or clang drops a compare that older verifiers want */
	if (len && len <= CAP_EVENT_ARGUMENTS &&
	    !bpf_probe_read_user(scratch->arguments, len, (void *)start))
		scratch->arguments_len = len;
}

#define NS_INODE(proxy, name)                                                                      \
	(bpf_core_field_exists((proxy)->name) ? BPF_CORE_READ(proxy, name, ns.inum) : 0)

static __always_inline void fill_namespaces(struct event_namespaces *ns, struct task_struct *task,
					    const struct cred *cred)
{
	struct nsproxy *proxy = BPF_CORE_READ(task, nsproxy);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	unsigned int level = BPF_CORE_READ(pid, level);
	struct upid *numbers = (void *)pid + bpf_core_field_offset(struct pid, numbers);

	numbers = (void *)numbers + level * bpf_core_type_size(struct upid);
	ns->uts = NS_INODE(proxy, uts_ns);
	ns->ipc = NS_INODE(proxy, ipc_ns);
	ns->mnt = NS_INODE(proxy, mnt_ns);
	ns->pid = BPF_CORE_READ(numbers, ns, ns.inum);
	ns->pid_for_children = NS_INODE(proxy, pid_ns_for_children);
	ns->net = NS_INODE(proxy, net_ns);
	ns->time = NS_INODE(proxy, time_ns);
	ns->time_for_children = NS_INODE(proxy, time_ns_for_children);
	ns->cgroup = NS_INODE(proxy, cgroup_ns);
	ns->user = BPF_CORE_READ(cred, user_ns, ns.inum);
}

#endif /* __EVENTS_BPF_H__ */
