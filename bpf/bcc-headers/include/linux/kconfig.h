/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * In place of the kernel's headers, for BCC on a kernel with BTF: where the BTF tells the offsets,
 * nothing is wanted of the headers but what BCC's own files (bcc/helpers.h, bcc/bpf.h) take from
 * them, and hosts have none. BCC includes this file first; it holds it all, and the other files
 * that BCC asks for are empty. Fits BCC 0.26 to 0.31.
 */
#ifndef __BCC_HEADERS_KCONFIG_H__
#define __BCC_HEADERS_KCONFIG_H__

/* BCC refuses to work without. */
#define CONFIG_BPF_SYSCALL 1

/* The kernel of programs is not checked any more since 5.0, and no older one has BTF. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 0, 0)

#define PAGE_SIZE 4096
#define NULL ((void *)0)
#define offsetof(type, member) __builtin_offsetof(type, member)
#define __always_inline inline __attribute__((always_inline))

typedef signed char __s8, s8;
typedef unsigned char __u8, u8;
typedef short __s16, s16;
typedef unsigned short __u16, u16, __be16, __le16;
typedef int __s32, s32;
typedef unsigned int __u32, u32, __be32, __wsum;
typedef long long __s64, s64;
typedef unsigned long long __u64, u64;
typedef unsigned long size_t, uintptr_t;
typedef _Bool bool;
#define __aligned_u64 __u64 __attribute__((aligned(8)))

enum { false = 0, true = 1 };

/* kprobe arguments. arch/x86/include/asm/ptrace.h, arch/arm64/include/asm/ptrace.h, 6.18 */
#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__aarch64__)
struct pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
};
#endif

#endif /* __BCC_HEADERS_KCONFIG_H__ */
