/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a check is worth: audit class, subject, ways round. */
#ifndef __CLASSIFY_BPF_H__
#define __CLASSIFY_BPF_H__

#include "common.bpf.h"

/* include/uapi/linux/capability.h */
#define CAP_DAC_OVERRIDE 1
#define CAP_DAC_READ_SEARCH 2
#define CAP_SETGID 6
#define CAP_SETUID 7
#define CAP_SYS_ADMIN 21
#define CAP_SYSLOG 34
#define CAP_PERFMON 38
#define CAP_BPF 39
#define CAP_CHECKPOINT_RESTORE 40

/* arch/x86/entry/syscalls/syscall_64.tbl */
#define X86_64_SETUID 105
#define X86_64_SETGID 106

/* include/linux/security.h, 5.1 and later */
#define CAP_OPT_NOAUDIT (1U << 1)

/* user_namespace.c: MAX_USER_NAMESPACES levels, 32 and the initial one */
#define USER_NS_LEVELS 33

enum audit {
	AUDIT_YES,
	AUDIT_NO,
	AUDIT_UNKNOWN,
};

static __always_inline bool in_range(__u64 address, const volatile struct text_range *range)
{
	return address >= range->start && address < range->end;
}

/* Global, like holds() below, so that the verifier looks at it once. */
__noinline int compare_caller(__u64 caller)
{
	int i;

	if (!caller)
		return AUDIT_UNKNOWN;
#pragma unroll
	for (i = 0; i < CAP_NOAUDIT_CALLERS; i++)
		if (in_range(caller, &config.noaudit[i]))
			return AUDIT_NO;
#pragma unroll
	for (i = 0; i < CAP_UNSURE_CALLERS; i++)
		if (in_range(caller, &config.unsure[i]))
			return AUDIT_UNKNOWN;
	return AUDIT_YES;
}

/*
 * The kernel has a few dozen places to return to, so each is compared once: an entry is one
 * word, the address and the answer, whose two bits push out two that all of the kernel's
 * addresses have in common.
 */
#define CALLERS 256
__u64 callers[CALLERS] SEC(".bss.callers");

static __always_inline enum audit audit_of_caller(__u64 caller)
{
	__u32 slot = (caller ^ caller >> 8) & (CALLERS - 1);
	__u64 seen = callers[slot];
	int audit;

	if (!((seen ^ caller << 2) >> 2))
		return seen & 3;
	audit = compare_caller(caller);
	callers[slot] = caller << 2 | audit;
	return audit;
}

/* cap_capable's caller decides, or that one's where the LSM hook lies between. */
static __noinline int audit_by_unwinding(void *ctx)
{
	__u64 frames[CAP_STACK_FRAMES] = {}, frame;
	bool below = false;
	int i;

	__sync_fetch_and_add(&state.stack_walks, 1);
	if (bpf_get_stack(ctx, frames, sizeof(frames), 0) < 0)
		return AUDIT_UNKNOWN;
	for (i = 0; i < CAP_STACK_FRAMES; i++) {
		frame = frames[i];
		if (in_range(frame, &config.cap_capable))
			below = true;
		else if (below && !in_range(frame, &config.security_capable))
			return audit_of_caller(frame);
	}
	return AUDIT_UNKNOWN;
}

/*
 * Plain, fault-safe loads instead of bpf_probe_read_kernel(), which costs more than counting
 * does: the stack is looked at as a kernel struct that is nothing but words. bpf_rdonly_cast()
 * is older (6.2) than the tracepoint whose program calls this.
 */
#ifndef NO_RDONLY_CAST
extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym __weak;

static __always_inline void *stack_words(void *place)
{
	return bpf_rdonly_cast(place, bpf_core_type_id_kernel(struct pt_regs));
}

static __always_inline __u64 stack_word(void *words, __u32 index)
{
	return *(__u64 *)(words + index * sizeof(__u64));
}
#else
/*
 * Kernels before 6.2, which don't have the tracepoint either: without its name libbpf does not look
 * for it in the BTF of modules, which takes CAP_SYS_ADMIN (and libbpf 1.1 insists).
 */
static __always_inline void *stack_words(void *place)
{
	return place;
}

static __always_inline __u64 stack_word(void *words, __u32 index)
{
	__u64 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), words + index * sizeof(__u64));
	return word;
}
#endif

/*
 * The tracepoint does not tell opts, but who called does (KERNEL functions that pass
 * CAP_OPT_NOAUDIT do nothing else). The frames between the tracepoint's context and
 * cap_capable() have a constant size on a given kernel, so the return addresses are read at
 * offsets measured at start; a guard word that must lie in cap_capable() tells when they moved,
 * as they do when a second program is attached to the tracepoint.
 */
static __always_inline enum audit audit_from_stack(void *ctx)
{
	const volatile struct stack_layout *layout;
	__u64 caller;
	void *words;
	int i;

	if (!config.cap_capable.start)
		return AUDIT_UNKNOWN;
#pragma unroll
	for (i = 0; i < CAP_STACK_LAYOUTS; i++) {
		layout = &config.layouts[i];
		if (!layout->guard)
			continue;
		words = stack_words(ctx + layout->guard);
		if (!in_range(stack_word(words, 0), &config.cap_capable))
			continue;
		caller = stack_word(words, layout->caller);
		if (in_range(caller, &config.security_capable))
			caller = stack_word(words, layout->outer);
		return audit_of_caller(caller);
	}
	return audit_by_unwinding(ctx);
}

/* The 4th argument of cap_capable(): "opts" since 5.1, before that "audit" (1: do audit). */
static __always_inline enum audit audit_from_argument(__u64 argument)
{
	if (config.audit_argument == 1)
		return argument & CAP_OPT_NOAUDIT ? AUDIT_NO : AUDIT_YES;
	if (config.audit_argument == 2)
		return argument ? AUDIT_YES : AUDIT_NO;
	return AUDIT_UNKNOWN;
}

/*
 * What cap_capable() answers (security/commoncap.c, 6.18), from the same data: 1 allowed.
 * @of is a struct cred, @target a struct user_namespace.
 */
__noinline int holds(__u64 of, __u64 target, int cap)
{
	const struct cred *cred = (void *)of;
	struct user_namespace *ns = (void *)target, *parent;
	struct user_namespace *own = BPF_CORE_READ(cred, user_ns);
	int i, own_level = BPF_CORE_READ(own, level);
	__u64 effective = 0;

	for (i = 0; i < USER_NS_LEVELS; i++) {
		if (ns == own) {
			/* u32[2] or u64 by version: the same eight bytes. */
			bpf_probe_read_kernel(&effective, sizeof(effective),
					      (void *)of + bpf_core_field_offset(
								   struct cred, cap_effective));
			return effective >> (cap & 63) & 1;
		}
		if (BPF_CORE_READ(ns, level) <= own_level)
			return 0;
		parent = BPF_CORE_READ(ns, parent);
		if (parent == own &&
		    BPF_CORE_READ(ns, owner.val) == BPF_CORE_READ(cred, euid.val))
			return 1;
		ns = parent;
	}
	return 0;
}

/* The capability that the kernel asks for next when @cap was refused, or -1. */
static __always_inline int way_round(int cap)
{
	switch (cap) {
	case CAP_DAC_READ_SEARCH: /* fs/namei.c: generic_permission() */
		return CAP_DAC_OVERRIDE;
	case CAP_SYSLOG: /* include/linux/capability.h and callers */
	case CAP_PERFMON:
	case CAP_BPF:
	case CAP_CHECKPOINT_RESTORE:
		return CAP_SYS_ADMIN;
	}
	return -1;
}

/*
 * setuid() and setgid() ask for the capability first, also of a process that sets an id it has
 * already, which is then granted without (kernel/sys.c, 6.18): busybox, su and others do that
 * at every start. Only where system call numbers and registers are x86-64's, and ids are the
 * host's own.
 */
static __always_inline bool sets_own_id(struct task_struct *task, const struct cred *cred, int cap)
{
#if defined(__TARGET_ARCH_x86)
	struct pt_regs *regs;
	__u64 number, id;

	if (cap != CAP_SETUID && cap != CAP_SETGID)
		return false;
	regs = (void *)bpf_task_pt_regs(task);
	number = BPF_CORE_READ(regs, orig_ax);
	id = (__u32)BPF_CORE_READ(regs, di);
	if (cap == CAP_SETUID)
		return number == X86_64_SETUID && (id == BPF_CORE_READ(cred, uid.val) ||
						  id == BPF_CORE_READ(cred, suid.val));
	return number == X86_64_SETGID &&
	       (id == BPF_CORE_READ(cred, gid.val) || id == BPF_CORE_READ(cred, sgid.val));
#else
	return false;
#endif
}

#endif /* __CLASSIFY_BPF_H__ */
