/* cpumask: runs a program as on a processor that lacks some of this one's features.
 *
 *     cpumask LEAF.SUBLEAF.REGISTER.BIT[,…] PROGRAM [ARGUMENT…]        7.1.a.5,7.0.d.22 hides avx512_bf16 and amx_bf16
 *
 * Programs ask the processor what it has by the instruction CPUID, and choose their code by the answer. Linux can make
 * CPUID trap (arch_prctl(2), ARCH_SET_CPUID, where /proc/cpuinfo says cpuid_fault). This is the tracer (ptrace(2)) that
 * answers in the processor's place: what the processor says, without the bits that are hidden. An instruction that is
 * used without asking does not trap: it is executed.
 *
 * The program and everything that it starts are traced, each from its first instruction on. Signals, the exit code and a
 * death by signal (128 + its number, as Docker says it) are the program's own; SIGTERM and its like are passed on, as
 * from process 1 of a container. It ends with 125 and a sentence where it cannot do its work. Static, and x86-64 only.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID 0x1012
#endif

enum { CANNOT = 125, MOST_HIDDEN = 128 };

static struct {
    unsigned leaf, subleaf, bit;
    char in; /* of a, b, c, d */
} hidden[MOST_HIDDEN];
static int hidden_count;
static pid_t program;

static void cannot(const char *what)
{
    fprintf(stderr, "cpumask: %s: %s\n", what, strerror(errno));
    if (program > 0)
        kill(program, SIGKILL);
    exit(CANNOT);
}

static void read_hidden(char *list)
{
    for (char *one = strtok(list, ","); one; one = strtok(NULL, ",")) {
        unsigned leaf, subleaf, bit;
        char in;
        errno = EINVAL;
        if (hidden_count == MOST_HIDDEN || sscanf(one, "%u.%u.%c.%u", &leaf, &subleaf, &in, &bit) != 4 || bit > 31 ||
            in < 'a' || in > 'd')
            cannot(one);
        hidden[hidden_count].leaf = leaf;
        hidden[hidden_count].subleaf = subleaf;
        hidden[hidden_count].in = in;
        hidden[hidden_count++].bit = bit;
    }
}

/* Whether the stop is a CPUID that trapped; then it is answered, and the program goes on behind it. */
static int answered(pid_t thread)
{
    siginfo_t why;
    struct user_regs_struct at;
    if (ptrace(PTRACE_GETSIGINFO, thread, 0, &why) || why.si_code != SI_KERNEL ||
        ptrace(PTRACE_GETREGS, thread, 0, &at))
        return 0;
    errno = 0;
    long code = ptrace(PTRACE_PEEKTEXT, thread, (void *)at.rip, 0);
    if (errno || (code & 0xffff) != 0xa20f)
        return 0;
    uint32_t said[4], leaf = (uint32_t)at.rax, subleaf = (uint32_t)at.rcx;
    __cpuid_count(leaf, subleaf, said[0], said[1], said[2], said[3]);
    for (int i = 0; i < hidden_count; i++)
        /* Leaf 1 has no subleaves: programs leave in ecx what was there. */
        if (hidden[i].leaf == leaf && (hidden[i].subleaf == subleaf || leaf == 1 || leaf >= 0x80000000u))
            said[hidden[i].in - 'a'] &= ~(1u << hidden[i].bit);
    at.rax = said[0], at.rbx = said[1], at.rcx = said[2], at.rdx = said[3];
    at.rip += 2;
    return !ptrace(PTRACE_SETREGS, thread, 0, &at);
}

/* Let a stopped thread come to its next stop at a system call. */
static int next_call(pid_t thread)
{
    int status;
    return !ptrace(PTRACE_SYSCALL, thread, 0, 0) && waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status) &&
           WSTOPSIG(status) == (SIGTRAP | 0x80);
}

/* A program that has just been started (execve switches CPUID on again) makes it trap for itself: the system call is
 * put where the program begins, executed, and taken away again. No signal comes between. */
static void disable(pid_t thread)
{
    struct user_regs_struct begins, call;
    uint64_t mask, all = ~0ull;
    if (!next_call(thread)) /* the end of its execve */
        return;
    if (ptrace(PTRACE_GETREGS, thread, 0, &begins) || ptrace(PTRACE_GETSIGMASK, thread, sizeof mask, &mask) ||
        ptrace(PTRACE_SETSIGMASK, thread, sizeof all, &all))
        cannot("the program cannot be read");
    errno = 0;
    long code = ptrace(PTRACE_PEEKTEXT, thread, (void *)begins.rip, 0);
    if (errno || ptrace(PTRACE_POKETEXT, thread, (void *)begins.rip, (code & ~0xffffL) | 0x050f))
        cannot("the program cannot be written to");
    call = begins;
    call.rax = SYS_arch_prctl, call.rdi = ARCH_SET_CPUID, call.rsi = 0;
    call.orig_rax = -1;
    if (ptrace(PTRACE_SETREGS, thread, 0, &call) || !next_call(thread) || !next_call(thread) ||
        ptrace(PTRACE_GETREGS, thread, 0, &call))
        cannot("the program cannot be prepared");
    errno = (int)-call.rax;
    if (call.rax)
        cannot("CPUID does not trap here (arch_prctl)");
    if (ptrace(PTRACE_POKETEXT, thread, (void *)begins.rip, code) || ptrace(PTRACE_SETREGS, thread, 0, &begins) ||
        ptrace(PTRACE_SETSIGMASK, thread, sizeof mask, &mask))
        cannot("the program cannot be started");
}

static void pass_on(int number)
{
    if (program > 0)
        kill(program, number);
}

/* What the kernel tells of one thread. Everything that fails here fails because the thread is gone. */
static void stopped(pid_t thread, int status)
{
    int number = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_EXEC) {
        disable(thread);
        number = 0;
    } else if (event == PTRACE_EVENT_STOP) {
        if (number != SIGTRAP) { /* stopped by a signal until SIGCONT, as without a tracer */
            ptrace(PTRACE_LISTEN, thread, 0, 0);
            return;
        }
        number = 0;
    } else if (event || (number == SIGSEGV && answered(thread)) || number == (SIGTRAP | 0x80)) {
        number = 0;
    }
    ptrace(PTRACE_CONT, thread, 0, (void *)(long)number);
}

int main(int count, char **arguments)
{
    if (count < 3) {
        fprintf(stderr, "usage: cpumask LEAF.SUBLEAF.REGISTER.BIT[,...] PROGRAM [ARGUMENT...]\n");
        return CANNOT;
    }
    read_hidden(arguments[1]);
    int go[2];
    if (pipe(go))
        cannot("pipe");
    program = fork();
    if (program < 0)
        cannot("fork");
    if (program == 0) {
        char token;
        close(go[1]);
        if (read(go[0], &token, 1) != 1) /* the tracer is there, or it is gone */
            _exit(CANNOT);
        close(go[0]);
        execvp(arguments[2], arguments + 2);
        int code = errno == ENOENT ? 127 : 126; /* as shells say it */
        fprintf(stderr, "cpumask: %s: %s\n", arguments[2], strerror(errno));
        _exit(code);
    }
    struct sigaction passing = {.sa_handler = pass_on};
    for (const int *number = (const int[]){SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, 0}; *number; number++)
        sigaction(*number, &passing, NULL);
    if (ptrace(PTRACE_SEIZE, program, 0,
               PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEFORK |
                   PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE))
        cannot("the program cannot be traced (ptrace)");
    close(go[0]);
    if (write(go[1], "", 1) != 1)
        cannot("pipe");
    close(go[1]);
    for (;;) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0) {
            if (errno == EINTR)
                continue;
            cannot("the program was lost (waitpid)");
        }
        if (WIFSTOPPED(status))
            stopped(thread, status);
        else if (thread == program)
            return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}
