/*
 * bare: what a program needs that runs without the C library. That of a static program asks the processor what it is
 * before main(), by some thirty CPUID instructions, each of which a virtual machine answers from outside: more than
 * half a millisecond for a program that does nothing, where execve(2) takes a tenth of that. A program that stands
 * in front of each command we run cannot afford it.
 *
 * System calls answer as the kernel does: -errno for a failure. The kernel's sigset_t has 64 bits (rt_sigprocmask(2)).
 */
#ifndef BARE_H
#define BARE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define BARE_START ".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall bare_start\n"

static inline long bare_call(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
#define BARE_START \
	".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tand sp, x0, #-16\n\tbl bare_start\n"

static inline long bare_call(long number, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}
#else
#error "bare.h: write the entry and the system call of this architecture"
#endif

#define BARE_1(n, a) bare_call((n), (long)(a), 0, 0, 0, 0)
#define BARE_2(n, a, b) bare_call((n), (long)(a), (long)(b), 0, 0, 0)
#define BARE_3(n, a, b, c) bare_call((n), (long)(a), (long)(b), (long)(c), 0, 0)
#define BARE_4(n, a, b, c, d) bare_call((n), (long)(a), (long)(b), (long)(c), (long)(d), 0)
#define BARE_5(n, a, b, c, d, e) bare_call((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

enum { BARE_SIGSET_BYTES = sizeof(uint64_t) };

/* The bit of a signal in the kernel's sigset_t. */
#define BARE_SIGNAL(signal) ((uint64_t)1 << ((signal) - 1))

static _Noreturn void bare_exit(int code)
{
	for (;;)
		(void)BARE_1(SYS_exit_group, code);
}

/* The program: its arguments and its environment as the kernel laid them out; what it returns is the exit code. */
static int bare_main(int argc, char *argv[], char *envp[]);

__asm__(".text\n" BARE_START);

/* What the stack of a new process begins with: the count, then the pointers (System V ABI, "Initial Stack"). */
__attribute__((used)) static _Noreturn void bare_start(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);
	bare_exit(bare_main(argc, argv, argv + argc + 1));
}

#endif
