/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Configuration, state and the two ways to read a kernel struct. */
#ifndef __COMMON_BPF_H__
#define __COMMON_BPF_H__

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "cap_checks.h"

#define EEXIST 17

/* The verifier sees these as constants and drops the branches that a host does not need. */
const volatile struct cap_config config SEC(".rodata.config") = {};

struct cap_state state SEC(".bss.state") = {};

/*
 * Programs that get typed pointers (tp_btf, fexit) follow them with plain loads; others must
 * copy through bpf_probe_read_kernel(). @direct is a constant in every caller.
 */
#define FIELD(direct, p, f)                                                                        \
	({                                                                                         \
		typeof(p) __from = (p);                                                            \
		typeof(__from->f) __value;                                                         \
		if (direct)                                                                        \
			__value = __from->f;                                                       \
		else                                                                               \
			bpf_core_read(&__value, sizeof(__value), &__from->f);                      \
		__value;                                                                           \
	})

/* A pointer's value as a number, which is all that a global function takes from a typed one. */
static __always_inline __u64 address_of(const void *pointer)
{
	const void *volatile spilled = pointer;
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)&spilled);
	return value;
}

#endif /* __COMMON_BPF_H__ */
