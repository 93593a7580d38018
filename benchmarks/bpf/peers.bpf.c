// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What a user would pick instead, on the same hook: nothing, a per-CPU hash, an event per check. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define EEXIST 17

/* The least that is counted by anybody: cgroup, capability, verdict. */
struct peer_key {
	__u64 cgroup;
	__u32 capability;
	__u32 denied;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct peer_key);
	__type(value, __u64);
} counts SEC(".maps");

/* Cgroups that a filter in the kernel would leave out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} left_out SEC(".maps");

struct peer_event {
	__u64 cgroup;
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__s32 capability;
	__s32 ret;
	char comm[16];
};

struct {
	__uint(type, 4 /* BPF_MAP_TYPE_PERF_EVENT_ARRAY */);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

SEC("tp_btf/cap_capable")
int BPF_PROG(peer_empty, const struct cred *cred, struct user_namespace *target,
	     const struct user_namespace *capable_ns, int cap, int ret)
{
	return 0;
}

SEC("tp_btf/cap_capable")
int BPF_PROG(peer_percpu_hash, const struct cred *cred, struct user_namespace *target,
	     const struct user_namespace *capable_ns, int cap, int ret)
{
	struct peer_key key = {
		.cgroup = bpf_get_current_cgroup_id(),
		.capability = cap,
		.denied = ret != 0,
	};
	__u64 one = 1, *count = bpf_map_lookup_elem(&counts, &key);

	if (!count) {
		if (!bpf_map_update_elem(&counts, &key, &one, BPF_NOEXIST))
			return 0;
		count = bpf_map_lookup_elem(&counts, &key);
	}
	if (count)
		(*count)++;
	return 0;
}

/* The question alone that a filter would ask before each check is counted. */
SEC("tp_btf/cap_capable")
int BPF_PROG(peer_filter, const struct cred *cred, struct user_namespace *target,
	     const struct user_namespace *capable_ns, int cap, int ret)
{
	__u64 cgroup = bpf_get_current_cgroup_id(), zero = 0;
	__u64 *asked = bpf_map_lookup_elem(&left_out, &cgroup);

	if (!asked)
		bpf_map_update_elem(&left_out, &cgroup, &zero, BPF_NOEXIST);
	return 0;
}

SEC("tp_btf/cap_capable")
int BPF_PROG(peer_event_per_check, const struct cred *cred, struct user_namespace *target,
	     const struct user_namespace *capable_ns, int cap, int ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct peer_event event = {
		.cgroup = bpf_get_current_cgroup_id(),
		.tgid = pid_tgid >> 32,
		.tid = (__u32)pid_tgid,
		.uid = (__u32)bpf_get_current_uid_gid(),
		.capability = cap,
		.ret = ret,
	};

	bpf_get_current_comm(event.comm, sizeof(event.comm));
	bpf_perf_event_output(ctx, &events, 0xffffffffULL, &event, sizeof(event));
	return 0;
}
